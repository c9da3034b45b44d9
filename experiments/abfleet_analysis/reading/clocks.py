"""Leaves lines with an impossible time out of a log, and counts them. One query; the rule is abfleet_log's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import ibis
import ibis.expr.types as ir
from abfleet_log.clocks import HOUR_US, AllowedTimes, HourCount, RouterOff, allowed_times, routers_off

from abfleet_analysis.reading.open_log import Log
from abfleet_analysis.storage.fetching import counted

_ALIKE: Final = ("event", "type", "experiment", "allocation", "router", "synthetic")
_FACTS: Final = {"n": ("count", "*"), "oldest": ("min", "at"), "newest": ("max", "at")}


@dataclass(frozen=True, slots=True)
class ClockFaults:
    """What is wrong with the clocks of a log.

    Attributes:
        lines: Lines that were left out. routers: Of these lines, sorted.
        off: By experiment, the routers that are off throughout.
    """

    lines: int = 0
    routers: tuple[str, ...] = ()
    off: Mapping[str, tuple[RouterOff, ...]] = field(default_factory=dict)


NO_FAULTS: Final = ClockFaults()


def with_right_clocks(log: Log, *, until_newest: bool) -> tuple[Log, ClockFaults]:
    """The log without lines whose time the rest of it does not allow; until_newest: As of `allowed_times`."""
    lines = log.lines.filter(log.lines["at"].notnull())
    keyed = lines.select(*_ALIKE, "at", hour=lines["at"] // HOUR_US)
    rows = counted(keyed, (*_ALIKE, "hour"), _FACTS)
    hours = [HourCount(**{name: row[name] for name in (*_ALIKE, *_FACTS)}) for row in rows]
    allowed = allowed_times(hours, until_newest=until_newest)
    wrong = [hour for hour in hours if allowed.wrong(hour)]
    right = [hour for hour in hours if not allowed.wrong(hour)] if wrong else hours
    experiments = {period[0] for hour in right if (period := hour.period) is not None}
    off = {name: found for name in experiments if (found := routers_off(right, name))}
    routers = tuple(sorted({hour.router for hour in wrong if hour.router}))
    if wrong:
        table = log.lines.filter(~_wrong(log.lines, allowed))
        log = replace(log, lines=log.storage.view("lines_in_time", table))
    return log, ClockFaults(sum(hour.n for hour in wrong), routers, off)


def _wrong(lines: ir.Table, allowed: AllowedTimes) -> ir.BooleanValue:
    """`AllowedTimes.wrong` of each line."""
    at, call = lines["at"], lines.event == "exposure"
    wrong = [ibis.literal(False)]
    if allowed.newest is not None:
        wrong.append(at > allowed.newest)
    if allowed.oldest is not None:
        wrong.append((lines.event.isnull() | (lines.event != "outcome")) & (at < allowed.oldest))
    for (experiment, allocation), begin in allowed.begins.items():
        mine = (lines.experiment == experiment) & (lines.allocation == allocation) & ~lines.synthetic
        wrong.append(call & mine & (at < begin))
    return ibis.or_(*(one.fill_null(False) for one in wrong))
