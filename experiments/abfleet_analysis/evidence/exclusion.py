"""An experiment's log without the calls of excluded windows, and what these windows had. Ibis expressions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import ibis
import ibis.expr.types as ir
from abfleet_experiments.config import ExcludedWindow

from abfleet_analysis.decision.excluded_time import ExcludedTime
from abfleet_analysis.evidence.log_lines import LogTables, allocated
from abfleet_analysis.reading.survey import calls_of
from abfleet_analysis.storage.fetching import fetched_rows


@dataclass(frozen=True, slots=True)
class Exclusion:
    """What an experiment's tables leave out, and what they take from the whole log all the same.

    Attributes:
        every_call: The experiment's calls with those that are left out: outages are found before any is dropped.
        began: The first call of all, which the calendar of looks and blocks goes on from.
    """

    time: ExcludedTime
    every_call: ir.Table
    began: datetime


@dataclass(frozen=True, slots=True)
class WindowCalls:
    """What a window leaves out: by group how many calls that would count, and of how many users."""

    window: ExcludedWindow
    calls: dict[str, int]
    users: dict[str, int]


def without(lines: LogTables, experiment: str, time: ExcludedTime) -> LogTables:
    """The log without an experiment's calls in the excluded time, and without the outcomes that name them."""
    storage, exposures, joined = lines.log.storage, lines.exposures, lines.joined
    kept = storage.view("kept_exposures", exposures.filter(~_left_out(exposures, experiment, time)))
    outcomes = storage.view("kept_joined", joined.filter(~_left_out(joined, experiment, time, "x_")))
    return replace(lines, exposures=kept, joined=outcomes, calls=calls_of(kept, lines.survey.same()))


def _left_out(table: ir.Table, experiment: str, time: ExcludedTime, prefix: str = "") -> ir.BooleanValue:
    return (table[f"{prefix}experiment"] == experiment).fill_null(False) & inside(table[f"{prefix}at"], time)


def inside(at: ir.IntegerValue, time: ExcludedTime) -> ir.BooleanValue:
    """Whether moments are in a window; false of null."""
    windows = zip(time.begin.tolist(), time.end.tolist(), strict=True)
    return ibis.or_(*((at >= begin) & (at < end) for begin, end in windows)).fill_null(False)


def calls_in(lines: LogTables, experiment: str, windows: Sequence[ExcludedWindow]) -> tuple[WindowCalls, ...]:
    """What each of the windows leaves out of the whole log."""
    calls = allocated(lines, experiment)
    times = [ExcludedTime.of([window]) for window in windows]
    number = ibis.cases(*((inside(calls["at"], time), index) for index, time in enumerate(times)), else_=-1)
    calls = calls.select("user", "group", window=number.cast("int32"))
    calls = calls.filter(calls.window >= 0)
    counted = calls.group_by("window", "group").aggregate(calls=calls.count(), users=calls.user.nunique())
    rows = sorted(fetched_rows(counted), key=lambda row: row["group"])
    return tuple(
        WindowCalls(
            window,
            {row["group"]: int(row["calls"]) for row in rows if row["window"] == index},
            {row["group"]: int(row["users"]) for row in rows if row["window"] == index},
        )
        for index, window in enumerate(windows)
    )
