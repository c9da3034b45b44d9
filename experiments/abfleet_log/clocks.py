"""Which times of a log the rest of it allows: one clock that is wrong is not the time. Pure; reads no log.

Lines are counted by hour. An edge is a moment with so few lines beyond it, for as long as they reach, that a clock was
wrong: at most 2 % of as long a time on its other side, over a day or more, that night and day are on both sides. How
many lines are further away plays no part: what was an edge once remains one, however long the log becomes.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, TypeVar

HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
LASTING_US: Final = DAY_US * 3 // 4
"""Lines say how time goes on if they last as long: those of a burst do not, and what follows is just the next line."""
FEW: Final = 50
"""Lines on the one side for each on the other: 2 %, which 1 % of a log's lines are not, even if half are outcomes."""
SILENCE_US: Final = 90 * DAY_US
"""After so long a silence a clock is wrong with fewer lines as well: a tenth, so that a small log has this rule too."""
FEW_AFTER_SILENCE: Final = 10
OUTCOME_SILENCE_US: Final = 3 * DAY_US
"""Outcomes go on after the last call, fewer and fewer; what comes after such a silence has its time from nowhere."""
AT_ONCE_US: Final = 60_000_000
"""Routers take a new configuration within this time of each other."""
Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class HourCount:
    """Lines of one hour that are alike in all else.

    Attributes:
        type: Of outcomes. oldest, newest: Microseconds since 1970.
    """

    event: str | None
    type: str | None
    experiment: str | None
    allocation: str | None
    router: str | None
    synthetic: bool
    n: int
    oldest: int
    newest: int

    @property
    def period(self) -> tuple[str, str] | None:
        """Experiment and allocation of calls that are not synthetic."""
        if self.event != "exposure" or self.experiment is None or self.synthetic:
            return None
        return self.experiment, self.allocation or ""


@dataclass(frozen=True, slots=True)
class AllowedTimes:
    """The times that a log allows, in microseconds since 1970; None where it says nothing against any.

    Attributes:
        newest: Of all lines. oldest: Of those that have the time of their router, which is all but outcomes: these may
            be of any time before.
        begins: Of an experiment's calls in an allocation, where some are too old.
    """

    oldest: int | None = None
    newest: int | None = None
    begins: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def wrong(self, line: HourCount) -> bool:
        """Whether lines of one hour are outside of these times."""
        if self.newest is not None and line.oldest > self.newest:
            return True
        if self.oldest is not None and line.event != "outcome" and line.newest < self.oldest:
            return True
        begin = self.begins.get(line.period) if line.period else None
        return begin is not None and line.newest < begin


@dataclass(frozen=True, slots=True)
class RouterOff:
    """A router whose clock is off.

    Attributes:
        ahead_us: By how much; negative if it is behind. beside: The only other router, which may be the wrong one.
    """

    router: str
    ahead_us: int
    beside: str | None = None


def allowed_times(lines: Sequence[HourCount], *, until_newest: bool = True) -> AllowedTimes:
    """The times that lines allow; until_newest: whether a newest one; as of a given moment there is none."""
    of_routers = [line for line in lines if line.event != "outcome"]
    newest = _newest(lines, of_routers) if until_newest else None
    oldest = _oldest(of_routers)
    calls = [line for line in of_routers if oldest is None or line.newest >= oldest]
    events = _first_events(calls)
    begins = {
        period: begin
        for period, found in _grouped(calls, lambda line: line.period).items()
        if (begin := _begin(found, events.get(period))) is not None
    }
    return AllowedTimes(oldest, newest, begins)


def routers_off(lines: Iterable[HourCount], experiment: str) -> tuple[RouterOff, ...]:
    """The routers whose calls of an experiment came as early or late throughout that their clock must be wrong.

    A router may begin later than others, or end earlier. One that begins as many days after the others as it ends after
    them is off if their times overlap all the same; if they do not, it may have replaced them, unless it has as many
    calls as each of several, or if months are between. A clock that is off by less than a day is not found.
    """
    mine = (line for line in lines if line.period is not None and line.experiment == experiment and line.router)
    ranges = {
        router: (sum(line.n for line in of), min(line.oldest for line in of), max(line.newest for line in of))
        for router, of in _grouped(mine, lambda line: line.router).items()
    }
    found = []
    for router, (n, oldest, newest) in sorted(ranges.items()):
        others = [times for name, times in ranges.items() if name != router]
        if not others:
            continue
        begin, end = min(times[1] for times in others), max(times[2] for times in others)
        late = oldest - begin
        gap = max(oldest - end, begin - newest)
        alike = abs(late - (newest - end)) <= HOUR_US and abs(late) >= DAY_US
        mean = sum(times[0] for times in others) / len(others)
        one_of_several = len(others) > 1 and 0.75 <= n / mean <= 1.25
        if gap >= SILENCE_US or (alike and (gap < 0 or one_of_several)):
            beside = next(name for name in ranges if name != router) if len(others) == 1 else None
            found.append(RouterOff(router, late, beside))
    return tuple(found[:1] if found and found[0].beside else found)


@dataclass(frozen=True, slots=True)
class _Hours:
    """Lines by hour, ascending: how many up to and with each hour, and the first and last time in each."""

    known: Sequence[int]
    first: Sequence[int]
    last: Sequence[int]

    def until(self, at: int) -> int:
        """Lines in hours that have ended at a moment."""
        index = bisect_right(self.last, at)
        return self.known[index - 1] if index else 0

    def since(self, hour: int, span_us: int) -> tuple[int, int]:
        """Lines up to and with an hour, of so long a time: how many, and how long they last in fact."""
        index = bisect_right(self.last, self.last[hour] - span_us)
        return self.known[hour] - (self.known[index - 1] if index else 0), self.last[hour] - self.first[index]


def _hours(lines: Iterable[HourCount], *, back: bool = False) -> _Hours:
    """back: Whether time runs backwards, which makes the newest line the first one."""
    sign = -1 if back else 1
    hours = [found for _, found in sorted(_grouped(lines, lambda line: sign * (line.oldest // HOUR_US)).items())]
    times = [[sign * time for line in hour for time in (line.oldest, line.newest)] for hour in hours]
    known = list(accumulate(sum(line.n for line in hour) for hour in hours))
    return _Hours(known, [min(each) for each in times], [max(each) for each in times])


def _grouped(lines: Iterable[HourCount], key: Callable[[HourCount], Key | None]) -> dict[Key, list[HourCount]]:
    found: defaultdict[Key, list[HourCount]] = defaultdict(list)
    for line in lines:
        if (value := key(line)) is not None:
            found[value].append(line)
    return found


def _end(hours: _Hours, silence_us: int = 0) -> int:
    """The last time before every edge. silence_us: How long a silence an edge begins with."""
    end = len(hours.known) - 1
    while (edge := _edge(hours, end, silence_us)) is not None:
        end = edge
    return hours.last[end]


def _edge(hours: _Hours, end: int, silence_us: int) -> int | None:
    """The hour that an edge comes after, of the hours up to `end`.

    Of several it is the one where most lines end: many before it, for as long as those beyond reach, and few beyond.
    """
    best: tuple[int, int] | None = None
    for hour in range(end):
        beyond, reach = hours.known[end] - hours.known[hour], hours.last[end] - hours.last[hour]
        if reach < DAY_US:
            break
        if beyond * FEW_AFTER_SILENCE > hours.known[hour]:
            continue
        silence = hours.first[hour + 1] - hours.last[hour]
        before, lasting = hours.since(hour, reach)
        few = beyond * FEW <= before and lasting >= LASTING_US and silence >= silence_us
        if few or (beyond * FEW_AFTER_SILENCE <= before and silence >= SILENCE_US):
            here = before - FEW_AFTER_SILENCE * beyond, hour
            best = max(best or here, here)
    return best and best[1]


def _newest(lines: Sequence[HourCount], of_routers: Sequence[HourCount]) -> int | None:
    """The newest time that lines allow: that of calls, or that of a type of outcomes, which may come after them."""
    if not lines:
        return None
    kinds = _grouped(lines, lambda line: line.type or "" if line.event == "outcome" else None)
    allowed = max(_end(_hours(kind)) for kind in (of_routers, *kinds.values()) if kind)
    end = _end(_hours(line for line in lines if line.oldest <= allowed), OUTCOME_SILENCE_US)
    newest = max(line.newest for line in lines if line.oldest // HOUR_US <= end // HOUR_US)
    return newest if any(line.oldest > newest for line in lines) else None


def _oldest(lines: Sequence[HourCount]) -> int | None:
    """The oldest time that lines allow; None if all of them are allowed."""
    if not lines:
        return None
    oldest = -_end(_hours(lines, back=True))
    return oldest if any(line.newest < oldest for line in lines) else None


def _begin(calls: Sequence[HourCount], event: int | None) -> int | None:
    """The same of the calls of an allocation, of which `event` says when it came into force."""
    begin = _oldest(calls)
    if event is None:
        return begin
    hours = _hours(line for line in calls if begin is None or line.newest >= begin)
    early = bisect_right(hours.last, event - AT_ONCE_US)
    if not 0 < early < len(hours.known):
        return begin
    before, after = hours.known[early - 1], hours.until(event + max(event - hours.first[0], DAY_US))
    return hours.first[early] if before * FEW <= after - before else begin


def _first_events(lines: Iterable[HourCount]) -> dict[tuple[str, str], int]:
    events = (line for line in lines if line.event == "allocation")
    by_period = _grouped(events, lambda line: (line.experiment or "", line.allocation or ""))
    return {period: min(line.oldest for line in found) for period, found in by_period.items()}
