"""What a report of a fuzzed log has to say, counted line by line in plain Python by the rules of docs/statistics.md.

Knows the experiments file and where its buckets are; nothing of the analysis.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from abfleet_experiments.allocation import allocation_in_force
from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import Config, Experiment
from abfleet_experiments.file.load import load_text

from tests.support.fuzzed_log import FuzzedLog, Record, at_of, segments

WEEK: Final = timedelta(days=7)
FAILED: Final = ("unavailable", "timeout", "ejected", "model_error")
FAILED_STATUSES: Final = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL", "UNKNOWN")
WINDOWS: Final = {"plays": timedelta(days=2)}


@dataclass(slots=True)
class Unit:
    """A user in an allocation: when and how first, and what came of it."""

    user: str
    allocation: str
    group: str
    bucket: int
    first: datetime
    calls: list[Record] = field(default_factory=list)
    outcomes: list[tuple[Record, Record | None]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true of one experiment.

    Attributes:
        groups: By group: users who are compared, and their calls, fallbacks and errors; nothing where the log does not
            show which buckets have moved.
        metrics: By metric and treatment, its value and control's; None where nothing can be compared.
        quality: As the report's `data_quality`.
    """

    groups: Mapping[str, tuple[int, int, int, int]]
    metrics: Mapping[tuple[str, str], tuple[float, float] | None]
    quality: Mapping[str, int]


LEAST_USERS = 3
"""Of each group, in the time of an allocation, from whom its buckets are told where no line does."""


@dataclass(frozen=True, slots=True)
class _Table:
    """An allocation as the file has it: the group of each bucket, and how many runs they make."""

    salt: str
    groups: tuple[str, ...]
    runs: int
    weights: Mapping[str, int]


def _tables(log: FuzzedLog) -> dict[str, dict[str, _Table]]:
    """By experiment and allocation."""
    found: dict[str, dict[str, _Table]] = {}
    for at, config in segments(log.phases, log.end):
        for experiment in config.experiments:
            allocation = allocation_in_force(experiment, at)
            if allocation is None:
                continue
            names = [group.name for group in experiment.groups]
            table = [""] * BUCKETS
            for run in allocation.runs:
                table[run.start : run.end] = [names[run.group]] * (run.end - run.start)
            weights = dict(zip(names, allocation.weights_bp, strict=True))
            one = _Table(experiment.salt, tuple(table), len(allocation.runs), weights)
            found.setdefault(experiment.name, {})[allocation.id] = one
    return found


def _forces(log: FuzzedLog) -> dict[str, list[tuple[datetime, str]]]:
    """By experiment, when which allocation came into force."""
    found: dict[str, list[tuple[datetime, str]]] = {}
    for at, config in segments(log.phases, log.end):
        for experiment in config.experiments:
            allocation = allocation_in_force(experiment, at)
            mine = found.setdefault(experiment.name, [])
            if allocation is not None and (not mine or mine[-1][1] != allocation.id):
                mine.append((at, allocation.id))
    return found


def _described(log: FuzzedLog, experiment: Experiment) -> set[str]:
    """The allocations that a line or the file at the end describes."""
    lines = [line for file in log.files for line in file if isinstance(line, dict)]
    told = {
        line["allocation"] for line in lines if line["event"] == "allocation" and line["experiment"] == experiment.name
    }
    in_force = (allocation_in_force(experiment, at) for at in (log.end, *(row.at for row in experiment.ramp)))
    return told | {allocation.id for allocation in in_force if allocation is not None}


def _strays(counted: Sequence[Record], described: Collection[str]) -> dict[str, int]:
    """The calls of each allocation that nothing describes and hardly any call names, where others are described."""
    calls = Counter(call["allocation"] for call in counted)
    if not calls.keys() & set(described):
        return {}
    most = max(10, 0.01 * calls.total())
    return {name: n for name, n in calls.items() if name not in described and n <= most}


def _in_time(calls: Sequence[Record]) -> list[Record]:
    """The calls without those so long before the others of their allocation, and so few, that they do not count yet.

    An hour's calls stand or fall together. Few are 2 % of as many days that follow, a day or more, and a tenth of all.
    The rule's other part, calls before an `allocation` line, needs a clock that is wrong: these logs have none.
    """
    times: dict[tuple[str, str], list[datetime]] = {}
    for call in calls:
        if call["experiment"] is not None and not call["synthetic"]:
            times.setdefault((call["experiment"], call["allocation"]), []).append(at_of(call))
    begins: dict[tuple[str, str], datetime] = {}
    for name, mine in times.items():
        while (begin := _begin(mine)) is not None:
            begins[name] = begin
            mine[:] = [at for at in mine if at >= begin]
    return [
        call
        for call in calls
        if call["synthetic"]
        or (begin := begins.get((call["experiment"], call["allocation"]))) is None
        or at_of(call) >= begin
    ]


def _begin(times: Sequence[datetime]) -> datetime | None:
    """When the calls begin that count, if some before do not; of several such moments the clearest."""
    hours: dict[datetime, list[datetime]] = {}
    for at in sorted(times):
        hours.setdefault(at.replace(minute=0, second=0, microsecond=0), []).append(at)
    found = []
    before = 0
    one = list(hours.values())
    for number in range(1, len(one)):
        before += len(one[number - 1])
        if before * 10 > len(times) - before:
            break
        begin = one[number][0]
        reach = begin - one[0][0]
        near = [at for hour in one[number:] if hour[0] < begin + reach for at in hour]
        if reach >= timedelta(days=1) and near[-1] - begin >= timedelta(hours=18) and before * 50 <= len(near):
            found.append((len(near) - 10 * before, -number, begin))
    return max(found)[2] if found else None


def first_ones(records: Iterable[Record], key: str) -> tuple[list[Record], int]:
    """Each record once, the earliest of those with the same key; and how many were repeats."""
    found: dict[Any, Record] = {}
    repeats = 0
    for record in records:
        name = (record["user_id"], record["request_id"]) if key == "exposure" else record["outcome_id"]
        if key == "exposure" and record["user_id"] is None:
            name = object()  # nobody's call has no key
        if name in found:
            repeats += 1
        if name not in found or record["ts"] < found[name]["ts"]:
            found[name] = record
    return list(found.values()), repeats


def _said(outcome: Record) -> tuple[object, ...]:
    """What an outcome says beside its id and time."""
    names = ("type", "user_id", "request_id", "item_id", "currency")
    return (*(outcome[name] for name in names), outcome["value"] or 0)


def truths(log: FuzzedLog) -> tuple[dict[str, Truth], int]:
    """The truth of each experiment of the file, and how many lines are repeats."""
    calls, twice = first_ones(_in_time(log.named("exposure")), "exposure")
    told = [outcome for outcome in log.named("outcome") if not outcome.get("synthetic")]
    outcomes, again = first_ones(told, "outcome")
    first = {outcome["outcome_id"]: _said(outcome) for outcome in outcomes}
    conflicting = sum(_said(outcome) != first[outcome["outcome_id"]] for outcome in told)
    of_both = {(call["user_id"], call["request_id"]): call for call in calls if call["user_id"] is not None}
    of_request: dict[str, Record] = {}
    for call in sorted(calls, key=lambda call: call["ts"], reverse=True):
        of_request[call["request_id"]] = call
    joined: list[tuple[Record, Record | None]] = []
    unjoined = 0
    for outcome in outcomes:
        named: Record | None = None
        if outcome["request_id"] is not None:
            user = outcome["user_id"]
            request = outcome["request_id"]
            named = of_request.get(request) if user is None else of_both.get((user, request))
            if named is None:
                unjoined += 1
                continue
        joined.append((outcome, named))
    config = load_text(log.text)
    tables, forces = _tables(log), _forces(log)
    nobody = sum(call["user_id"] is None and not call["synthetic"] for call in calls)
    common = {"no_user_id": nobody, "unjoined_outcomes": unjoined, "conflicting_outcomes": conflicting}
    return {
        one.name: _truth(
            config,
            one.name,
            calls,
            joined,
            tables.get(one.name, {}),
            forces.get(one.name, []),
            common,
            _described(log, one),
        )
        for one in config.experiments
    }, twice + again - conflicting


def _truth(
    config: Config,
    name: str,
    calls: Sequence[Record],
    joined: Sequence[tuple[Record, Record | None]],
    tables: Mapping[str, _Table],
    forces: Sequence[tuple[datetime, str]],
    common: Mapping[str, int],
    described: Collection[str],
) -> Truth:
    mine = [call for call in calls if call["experiment"] == name]
    counted = [c for c in mine if c["reason"] == "allocated" and c["user_id"] is not None and not c["synthetic"]]
    strays = _strays(counted, described)
    counted = [call for call in counted if call["allocation"] not in strays]
    units = _units(counted)
    _give(units, joined)
    (experiment,) = [one for one in config.experiments if one.name == name]
    window = max([WEEK, *(config.metrics[m].window for m in _names(experiment) if m in config.metrics)])
    strata, moved, seen = _strata(list(units.values()), _times(counted, forces), tables, window)
    groups = [group.name for group in experiment.groups]
    quality = {
        "synthetic": sum(call["synthetic"] for call in mine),
        "overrides": sum(call["reason"] == "override" and not call["synthetic"] for call in mine),
        **common,
        "unknown_allocation": sum(strays.values()),
    }
    users: dict[str, set[str]] = {group: set() for group in groups}
    for unit in (unit for stratum in strata.values() for unit in stratum):
        users[unit.group].add(unit.user)
    metrics: dict[tuple[str, str], tuple[float, float] | None] = {}
    if seen:
        quality["moved_by_ramp"] = len(moved)
        compared = {user for names in users.values() for user in names}
        quality["not_compared"] = len(moved - compared)
        quality["in_both_groups"] = sum(map(len, users.values())) - len(compared)
        for metric in set(_names(experiment)) & set(_VALUES):
            for group in groups:
                if group != "control" and len(users[group]):
                    metrics[metric, group] = _compared(metric, group, strata)
    kept = [unit for stratum in strata.values() for unit in stratum]
    facts: dict[str, tuple[int, int, int, int]] = {}
    for group in groups if seen else ():
        done = [call for unit in kept if unit.group == group for call in unit.calls]
        fallbacks = sum(call["fallback"] is not None for call in done)
        facts[group] = (len(users[group]), len(done), fallbacks, sum(failed(call) for call in done))
    return Truth(facts, metrics, quality)


def _names(experiment: Any) -> list[str]:
    metrics = experiment.metrics
    return [metrics.primary, *(one.name for one in metrics.guardrails), *metrics.secondary]


def _units(calls: Sequence[Record]) -> dict[tuple[str, str], Unit]:
    units: dict[tuple[str, str], Unit] = {}
    for call in sorted(calls, key=lambda call: call["ts"]):
        key = (call["user_id"], call["allocation"])
        if key not in units:
            units[key] = Unit(*key, call["group"], call["bucket"], at_of(call))
        units[key].calls.append(call)
    return units


def _give(units: Mapping[tuple[str, str], Unit], joined: Sequence[tuple[Record, Record | None]]) -> None:
    """Each outcome to the unit that it belongs to."""
    by_user: dict[str, list[Unit]] = {}
    for unit in units.values():
        by_user.setdefault(unit.user, []).append(unit)
    ids = {id(call): unit for unit in units.values() for call in unit.calls}
    for outcome, call in joined:
        if call is not None:
            if id(call) in ids:
                ids[id(call)].outcomes.append((outcome, call))
        elif outcome["user_id"] is not None:
            begun = [unit for unit in by_user.get(outcome["user_id"], []) if unit.first <= at_of(outcome)]
            if begun:
                max(begun, key=lambda unit: unit.first).outcomes.append((outcome, None))


def _times(calls: Sequence[Record], forces: Sequence[tuple[datetime, str]]) -> list[tuple[datetime, str]]:
    """When an allocation's first call was, each time that it came into force."""
    found: list[tuple[datetime, str]] = []
    slow = timedelta(seconds=5)  # clocks of routers differ by less
    for (begin, allocation), (end, _) in zip(
        forces, [*forces[1:], (datetime.max.replace(tzinfo=UTC), "")], strict=True
    ):
        mine = [at_of(call) for call in calls if call["allocation"] == allocation]
        here = [at for at in mine if begin - slow <= at and at - slow < end]
        if here and (not found or found[-1][1] != allocation):
            found.append((min(here), allocation))
    return found


@dataclass(frozen=True, slots=True)
class _Spell:
    """A time in which an allocation is in force, with what became of its buckets.

    Attributes:
        fate: Of each bucket, the first later spell in which it is in another group.
        away: Since the allocation was in force before, were in another group.
    """

    allocation: str
    begin: datetime
    fate: Sequence[int | None]
    away: frozenset[int]

    @property
    def moves(self) -> list[int]:
        return sorted({later for later in self.fate if later is not None})


def _spells(times: Sequence[tuple[datetime, str]], tables: Mapping[str, _Table]) -> list[_Spell]:
    def moved(one: int, other: int) -> list[int]:
        between = [tables[allocation] for _, allocation in times[one : other + 1]]
        if len({table.salt for table in between}) > 1:
            return []
        return [n for n in range(BUCKETS) if between[0].groups[n] != between[-1].groups[n]]

    spells = []
    for index, (begin, allocation) in enumerate(times):
        fate: list[int | None] = [None] * BUCKETS
        for later in range(len(times) - 1, index, -1):
            for number in moved(index, later):
                fate[number] = later
        before = [earlier for earlier in range(index) if times[earlier][1] == allocation]
        away = [moved(before[-1], between) for between in range(before[-1] + 1, index)] if before else []
        spells.append(_Spell(allocation, begin, fate, frozenset(n for numbers in away for n in numbers)))
    return spells


def _strata(
    units: Sequence[Unit], times: Sequence[tuple[datetime, str]], tables: Mapping[str, _Table], window: timedelta
) -> tuple[dict[tuple[int, str, int], list[Unit]], set[str], bool]:
    """The units that are compared with each other; users who are left out because their bucket has moved; and whether
    the log shows all moves: a border between groups that nobody came near to is known by the shares alone."""
    spells = _spells(times, tables)
    order = {spell.allocation for spell in spells}
    seen = True
    if len(order) > 1:
        for one in order:
            table = tables[one]
            begin = min(spell.begin for spell in spells if spell.allocation == one)
            end = min((spell.begin for spell in spells if spell.begin > begin), default=None)
            here = Counter(u.group for u in units if u.allocation == one and (end is None or u.first < end))
            wanted = {group for group, weight in table.weights.items() if weight}
            seen &= {group for group, n in here.items() if n >= LEAST_USERS} >= wanted >= here.keys()
            seen &= table.runs == len(wanted) <= 3
    earliest: dict[tuple[str, int], datetime] = {}  # of a user under a salt
    for unit in units:
        key = (unit.user, unit.bucket)
        earliest[key] = min(earliest.get(key, unit.first), unit.first)
    strata: dict[tuple[int, str, int], list[Unit]] = {}
    moved: set[str] = set()
    for unit in units:
        mine = [number for number, spell in enumerate(spells) if spell.allocation == unit.allocation]
        own = [number for number in mine[1:] if spells[number].away and unit.first >= spells[number].begin]
        number = own[-1] if own else mine[0]
        spell, who = spells[number], "everybody"
        if own:
            who = "new" if earliest[unit.user, unit.bucket] == unit.first else "known"
        move = spell.fate[unit.bucket]
        late = move is not None and unit.first >= spells[move].begin - window
        if late or (who == "known" and unit.bucket in spell.away):
            moved.add(unit.user)
        else:
            span = sum(unit.first >= spells[one].begin - window for one in spell.moves)
            strata.setdefault((number, who, span), []).append(unit)
    return strata, moved, seen


def _compared(metric: str, group: str, strata: Mapping[tuple[int, str, int], list[Unit]]) -> tuple[float, float] | None:
    """The metric in a group and in control, strata weighted with n0 n1 / (n0 + n1)."""
    for least in (2, 1):
        total = value = baseline = 0.0
        for units in strata.values():
            parts = []
            for name in ("control", group):
                pairs = [_VALUES[metric](unit) for unit in units if unit.group == name]
                y, z = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
                parts.append((len(pairs), y / z if z else None))
            (n0, v0), (n1, v1) = parts
            if min(n0, n1) < least or v0 is None or v1 is None:
                continue
            weight = n0 * n1 / (n0 + n1)
            total, value, baseline = total + weight, value + weight * v1, baseline + weight * v0
        if total:
            return value / total, baseline / total
    return None


def failed(call: Record) -> bool:
    """Whether the assigned version failed."""
    unsent = call["attempts"] == 0 and call["status"] == "DEADLINE_EXCEEDED" and call["fallback"] is None
    return not unsent and (call["fallback"] in FAILED or call["status"] in FAILED_STATUSES)


def _timed(call: Record) -> bool:
    unsent = call["attempts"] == 0 and call["status"] == "DEADLINE_EXCEEDED" and call["fallback"] is None
    return call["status"] in ("OK", "DEADLINE_EXCEEDED") and not unsent


def _of(unit: Unit, kind: str, window: timedelta = WEEK) -> list[tuple[Record, Record | None]]:
    return [
        (outcome, call)
        for outcome, call in unit.outcomes
        if outcome["type"] == kind and (call is not None or at_of(outcome) - unit.first <= window)
    ]


def _ctr(unit: Unit) -> tuple[float, float]:
    clicked = {(call and call["request_id"], o["item_id"]) for o, call in _of(unit, "click") if _shown(o, call)}
    seen: dict[str, set[int]] = {}
    for outcome, call in _of(unit, "impression"):
        if call is not None and outcome["item_id"] is not None and _shown(outcome, call):
            seen.setdefault(call["request_id"], set()).add(outcome["item_id"])
    lists = [call for call in unit.calls if call["status"] == "OK"]
    return len(clicked), sum(max(len(seen.get(call["request_id"], ())), 1) for call in lists)


def _shown(outcome: Record, call: Record | None) -> bool:
    if call is None:
        return True
    return call["status"] == "OK" and (outcome["item_id"] is None or outcome["item_id"] in call["items"])


def _any(kind: str) -> Any:
    return lambda unit: (float(bool(_of(unit, kind))), 1.0)


def _timing(unit: Unit) -> tuple[float, float]:
    timed = [call["latency_ms"] for call in unit.calls if _timed(call)]
    return sum(timed), len(timed)


_VALUES: Final[dict[str, Any]] = {
    "ctr": _ctr,
    "conversion_rate": _any("conversion"),
    "liked": _any("like"),
    "plays": lambda unit: (float(len(_of(unit, "play", WINDOWS["plays"]))), 1.0),
    "finished": lambda unit: (float(len(_of(unit, "finish"))), float(len(_of(unit, "play")))),
    "error_rate": lambda unit: (float(any(failed(call) for call in unit.calls)), 1.0),
    "fallback_rate": lambda unit: (float(any(call["fallback"] for call in unit.calls)), 1.0),
    "response_time_mean": _timing,
}
"""What a user adds to a metric's numerator and denominator."""
