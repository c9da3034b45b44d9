"""Whether an experiment runs, is halted or has ended, and since when: from the file and the log's allocations.

The file says which; the log says since when, as far as it agrees.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import ibis
import ibis.expr.types as ir
from abfleet_experiments.config import Config, EndedExperiment, Experiment
from abfleet_process.declarations.kinds import parse_time

from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.periods.allocation_periods import moment
from abfleet_analysis.storage.fetching import fetched_one, fetched_rows


class State(StrEnum):
    """What an experiment does at the moment of the report."""

    RUNNING = "running"
    HALTED = "halted"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of an experiment.

    Attributes:
        since: None where the log does not say.
        winner: The group that an ended experiment was concluded for; None where nobody said so.
    """

    state: State
    since: datetime | None = None
    winner: str | None = None


def ended_experiments(lines: LogTables, config: Config) -> tuple[EndedExperiment, ...]:
    """Those that the file says have ended, and those of the log's conclusions that it names no more; oldest first."""
    found = {one.experiment: one for one in config.concluded}
    if lines.survey.count(lambda row: row["event"] == "conclusion"):
        told = lines.all.filter(lines.all.event == "conclusion").select("experiment", "winner", "concluded_at")
        rows = [tuple(row.values()) for row in fetched_rows(told.distinct())]
        # A line that lacks something is as good as none.
        for name, winner, when in sorted(row for row in rows if None not in row):
            with suppress(ValueError, OverflowError):
                found.setdefault(name, EndedExperiment(name, winner, parse_time(when)))
    running = {one.name for one in config.experiments}
    return tuple(sorted((one for one in found.values() if one.experiment not in running), key=lambda one: one.at))


def run_state(
    lines: LogTables, name: str, experiment: Experiment | None, ended: Iterable[EndedExperiment], at: datetime
) -> RunState:
    """The state of one experiment; `experiment` is what the file has of it, if it has it."""
    told = next((one for one in ended if one.experiment == name), None)
    if told is not None:
        return RunState(State.ENDED, told.at, told.winner)
    calls = [*lines.calls.allocated(name), *lines.calls.interleaved(name)]
    if experiment is None:
        return RunState(State.ENDED, _left_the_file(lines, calls))
    row = experiment.row_in_force(at) if experiment.enabled else None
    running = row is not None and row.traffic_bp > 0
    state = State.RUNNING if running else State.HALTED
    if lines.survey.count(lambda row: row["event"] == "allocation" and row["experiment"] == name):
        events = lines.all.filter(lines.all.event == "allocation", lines.all.experiment == name)
        return RunState(state, _since(events, running=running))
    oldest = min((row["oldest"] for row in calls), default=None)
    return RunState(state, moment(oldest) if running and oldest is not None else None)


def _since(events: ir.Table, *, running: bool) -> datetime | None:
    """When routers began to take somebody, or nobody, and have done so ever since; None if they do not."""
    takes = events.traffic.fill_null(100.0) > 0
    this, other = (takes, ~takes) if running else (~takes, takes)
    row = fetched_rows(
        events.aggregate(
            first=events["at"].min(where=this), newest=events["at"].max(where=this), other=events["at"].max(where=other)
        )
    )[0]
    if row["newest"] is None or (row["other"] is not None and row["other"] > row["newest"]):
        return None
    if row["other"] is None or row["other"] < row["first"]:
        return moment(row["first"])
    return moment(fetched_one(events["at"].min(where=this & (events["at"] > ibis.literal(int(row["other"]))))))


def _left_the_file(lines: LogTables, calls: Iterable[Mapping[str, int]]) -> datetime | None:
    """When the file was first read again after the experiment's newest call; that call's time if it was not."""
    newest = max((row["newest"] for row in calls), default=None)
    if newest is None:
        return None
    reloads = lines.all.filter(lines.all.event == "reload", lines.all["at"] > ibis.literal(int(newest)))
    first = None
    if lines.survey.count(
        lambda row: row["event"] == "reload" and row["newest"] is not None and row["newest"] > newest
    ):
        first = fetched_one(reloads["at"].min())
    return moment(newest if first is None else first)
