"""From calls to what guardrails rest on: users' first bad events by block, and outages; who answered is in answers.py.

Ibis expressions, which bring back few rows; which of them count, and how often, is in statistics/outages.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from abfleet_statistics import outages
from abfleet_statistics.blocks import BLOCK_SECONDS
from abfleet_statistics.moments import Floats
from abfleet_statistics.outages import SECOND, CountedOutages, GroupOutages, Times
from numpy.typing import NDArray

from abfleet_analysis.decision.evidence import Answers, BadEvents, Blocks, PairOutages
from abfleet_analysis.decision.excluded_time import NOTHING_EXCLUDED, ExcludedTime
from abfleet_analysis.decision.metrics import BadEvent, Failure
from abfleet_analysis.evidence.answers import answers_of
from abfleet_analysis.evidence.response_times import slow_calls
from abfleet_analysis.evidence.tables import Tables
from abfleet_analysis.periods.allocation_periods import microseconds
from abfleet_analysis.storage.fetching import columns_of, fetched_one

BLOCK_US: Final = BLOCK_SECONDS * SECOND
MINUTE_US: Final = 60 * SECOND


@dataclass(frozen=True, slots=True)
class GuardrailEvents:
    """What the guardrails of an experiment rest on."""

    bad_events: Mapping[str, BadEvents]
    outages: Mapping[int, PairOutages]
    answers: Answers


@dataclass(frozen=True, slots=True)
class _Absences:
    """Calls of one group that found nobody, those of a second together: int64[seconds] each, ascending.

    `certain`: Whether the log says so; else it does not say why control failed.
    """

    begin: Times
    end: Times
    calls: Times
    certain: NDArray[np.bool_]

    def outages(self) -> GroupOutages:
        found = GroupOutages()
        for one in zip(self.begin.tolist(), self.end.tolist(), self.calls.tolist(), strict=True):
            found.see(*one)
        return found


def guardrail_events(tables: Tables) -> GuardrailEvents:
    """Everything of an experiment's guardrails. Failures are found in one pass over the calls, and kept."""
    rules = [rule for rule in tables.rules if rule.bad_event is not None]
    answers = answers_of(tables)
    if not rules:
        return GuardrailEvents({}, {}, answers)
    counted = tables.lines.calls.allocated(tables.name)
    failures = tables.keep("failures", _failures(tables)) if any(row["error"] for row in counted) else None
    every = failures  # outages are found in all that happened; what is excluded is dropped afterwards
    if tables.exclusion is not None:
        every = tables.keep("every_failure", _failures(replace(tables, calls=tables.exclusion.every_call)))
    absences = _absences(every, len(tables.groups))
    spans = {group: _spans(absences[0], absences[group]) for group in range(1, len(tables.groups))}
    bad_events = {}
    for rule in rules:
        if rule.bad_event is BadEvent.SLOW:
            control = sum(row["n"] for row in counted if row["group"] == tables.groups[0])
            events = slow_calls(tables.calls, rule, most=control)
            if events is not None:
                events = events.mutate(known=events["at"] + outages.NEAR_US, waits=True)
        else:
            events = None if failures is None else failures.filter(failures.failure != Failure.ABSENT)
        bad_events[rule.name] = _bad_events(tables, events, spans)
    asking = (rule.outages_per_day for rule in rules if rule.bad_event is BadEvent.ERROR)
    tolerated = next(asking, outages.TOLERATED_A_DAY)
    pairs = {
        group: replace(
            _pair(tables, absences, group),
            left_out=_left_out(tables, failures, group, spans[group]),
            tolerated_a_day=tolerated,
        )
        for group in spans
    }
    return GuardrailEvents(bad_events, pairs, answers)


def _failures(tables: Tables) -> ir.Table:
    """Calls that their version failed, with when that is `known`: a timeout waits for an outage near to it."""
    calls = tables.calls
    counts = calls.failure.isin([Failure.ABSENT, Failure.WRONG, Failure.LATE])
    if tables.deployment.default_control:
        counts |= (calls.failure == Failure.AMBIGUOUS) & (calls.g == 0)
    found = calls.filter(counts)
    late = found.failure == Failure.LATE
    known = found["at"] + ibis.ifelse(late, outages.NEAR_US, 0)
    return found.select("at", "user", "g", "period", "failure", known=known, waits=late)


# --- users' first bad events ------------------------------------------------------------------------------------------


def _bad_events(tables: Tables, events: ir.Table | None, spans: Mapping[int, Times]) -> BadEvents:
    """Users by the block, time, group and shares of their first bad event; None where nobody had one.

    Around outages of a treatment or of control what waits is left out of both, so that a user's first event may be a
    later one, and control's users may have another one beside each treatment.
    """
    every = _NOBODY if events is None else _steps(tables, events)
    pairs = dict.fromkeys(spans, every)
    for group, near in spans.items():
        if len(near) and events is not None:
            pairs[group] = _steps(tables, _outside(tables, events.filter(events.g.isin([0, group])), near, group))
    different = {id(rows): rows for rows in (every, *pairs.values())}
    keys = np.concatenate([np.stack([rows[name] for name in _KEYS], axis=1) for rows in different.values()])
    newest = np.concatenate([rows["newest"] for rows in different.values()])
    steps, index = np.unique(keys, axis=0, return_inverse=True)
    at = np.zeros(len(steps), dtype=np.int64)
    np.maximum.at(at, index.reshape(-1), newest)
    bounds = np.cumsum([0, *(len(rows["n"]) for rows in different.values())])
    places = {one: index.reshape(-1)[bounds[k] : bounds[k + 1]] for k, one in enumerate(different)}
    counts = np.zeros((len(steps), len(tables.groups)))
    control = np.zeros_like(counts)
    _add(counts[:, 0], every, places[id(every)], 0)
    for group, rows in pairs.items():
        _add(counts[:, group], rows, places[id(rows)], group)
        _add(control[:, group], rows, places[id(rows)], 0)
    weights = np.stack([one.weights for one in tables.allocations])
    began, looks = _began(tables), tables.looks
    horizon = max(looks.calendar.planned * looks.look_us // BLOCK_US, 1)
    return BadEvents(
        time=steps[:, 0],
        counts=counts,
        shares=weights[steps[:, 2]],
        blocks=Blocks(np.maximum.accumulate(at) if len(at) else at, BLOCK_US, began // BLOCK_US, horizon),
        control=control if len(different) > 1 else None,
    )


_KEYS: Final = ("look", "block", "period")
_NOBODY: Final = {name: np.zeros(0, dtype=np.int64) for name in (*_KEYS, "g", "n", "newest")}


def _steps(tables: Tables, events: ir.Table) -> dict[str, Times]:
    """Users' first events as they are known, in columns: how many in each look, block, allocation and group."""
    events = events.filter(events.known <= microseconds(tables.as_of))
    firsts = events.group_by("user").aggregate(
        at=events.known.min(), g=events.g.argmin(events.known), period=events.period.argmin(events.known)
    )
    steps = firsts.mutate(look=tables.looks.index(firsts["at"]), block=(firsts["at"] // BLOCK_US).cast("int64"))
    rows = steps.group_by("look", "block", "period", "g").aggregate(n=ibis._.count(), newest=steps["at"].max())
    return {name: column.astype(np.int64) for name, column in columns_of(rows).items()}


def _add(counts: Floats, rows: Mapping[str, Times], places: Times, group: int) -> None:
    mine = rows["g"] == group
    np.add.at(counts, places[mine], rows["n"][mine])


def _outside(tables: Tables, events: ir.Table, spans: Times, group: int) -> ir.Table:
    """The events without those that wait and are in one of the spans."""
    waiting = events.filter(events.waits)
    waiting = waiting.mutate(minute=(waiting["at"] // MINUTE_US).cast("int64"))
    near = _minutes(tables, spans, group)
    inside = [waiting.minute == near.minute, waiting["at"] >= near.low, waiting["at"] <= near.high]
    columns = ("user", "at", "g", "period", "known")
    return events.filter(~events.waits).select(*columns).union(waiting.anti_join(near, inside).select(*columns))


def _minutes(tables: Tables, spans: Times, group: int) -> ir.Table:
    """The spans by each minute that they touch, so that databases find them by an equality."""
    first = spans[:, 0] // MINUTE_US
    length = spans[:, 1] // MINUTE_US - first + 1
    offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    low, high = np.repeat(spans[:, 0], length), np.repeat(spans[:, 1], length)
    rows = pa.table({"minute": np.repeat(first, length) + offset, "low": low, "high": high})
    return tables.keep(f"near_outages_{group}", rows)


def _left_out(tables: Tables, failures: ir.Table | None, group: int, spans: Times) -> int:
    """How many timeouts of a treatment and of control are in the spans."""
    if not len(spans) or failures is None:
        return 0
    mine = failures.filter(failures.waits, failures.g.isin([0, group]))
    return int(fetched_one(mine.count())) - int(fetched_one(_outside(tables, mine, spans, group).count()))


# --- outages ----------------------------------------------------------------------------------------------------------


def _absences(failures: ir.Table | None, groups: int) -> list[_Absences]:
    """By group the calls that found nobody. An ambiguous failure of control is one, and no span around it."""
    if failures is None:
        none = np.zeros(0, dtype=np.int64)
        return [_Absences(none, none, none, none > 0)] * groups
    found = failures.filter(failures.failure.isin([Failure.ABSENT, Failure.AMBIGUOUS]))
    found = found.mutate(certain=found.failure == Failure.ABSENT, second=(found["at"] // SECOND).cast("int64"))
    rows = found.group_by("g", "second", "certain").aggregate(
        begin=found["at"].min(), end=found["at"].max(), calls=found.count()
    )
    columns = columns_of(rows.mutate(certain=rows.certain.cast("int8")))
    result = []
    for group in range(groups):
        mine = np.flatnonzero(columns["g"] == group)
        mine = mine[np.argsort(columns["begin"][mine], kind="stable")]
        begin, end, calls = (columns[name][mine].astype(np.int64) for name in ("begin", "end", "calls"))
        result.append(_Absences(begin, end, calls, columns["certain"][mine] > 0))
    return result


def _spans(control: _Absences, treatment: _Absences) -> Times:
    begin = np.concatenate([one.begin[one.certain] for one in (control, treatment)])
    end = np.concatenate([one.end[one.certain] for one in (control, treatment)])
    return outages.spans_around(begin, end)


def _pair(tables: Tables, absences: Sequence[_Absences], group: int) -> PairOutages:
    """The outages of a treatment and of control; one of the last minute is not counted yet."""
    control, treatment = absences[0].outages(), absences[group].outages()
    time = NOTHING_EXCLUDED if tables.exclusion is None else tables.exclusion.time
    counted = outages.counted_of_both(treatment, control, microseconds(tables.as_of))
    counted = _without_excluded(counted, (treatment, control), time)
    weights = np.stack([one.weights for one in tables.cells.periods])
    begins = np.array([microseconds(one.begin) for one in tables.cells.periods])
    shares = weights[np.maximum(np.searchsorted(begins, counted.at, side="right") - 1, 0)]
    both = (shares[:, [0, group]] > 0).all(axis=1)  # where one of them had no users nothing can be compared
    replicas = tables.deployment.pair(group)
    return PairOutages(
        time=_index(tables, counted.known[both]),
        known_us=counted.known[both],
        of_treatment=counted.of_treatment[both],
        shared=counted.shared[both],
        share=outages.equal_share(replicas, shares[both, group], shares[both, 0]),
        began_us=_began(tables),
        replicas=replicas,
        outages=(tuple(treatment.outages), tuple(control.outages)),
        excluded=time,
    )


def _without_excluded(
    counted: CountedOutages, groups: tuple[GroupOutages, GroupOutages], time: ExcludedTime
) -> CountedOutages:
    """Without outages that began in excluded time, however long they last, and what was counted in it of others."""
    began = [{at: one.begin for one in group.outages for at in one.counted} for group in groups]
    of = zip(counted.at.tolist(), counted.of_treatment.tolist(), strict=True)
    begin = np.array([began[0 if mine else 1][at] for at, mine in of], dtype=np.int64)
    kept = ~(time.inside(begin) | time.inside(counted.at))
    return CountedOutages(*(getattr(counted, one.name)[kept] for one in fields(CountedOutages)))


def _index(tables: Tables, at: Times) -> Times:
    """The first time that knows of each moment, as `Looks.index` says it."""
    looks = tables.looks
    return np.clip((at - looks.anchor_us + looks.look_us - 1) // looks.look_us, 0, looks.calendar.done)


def _began(tables: Tables) -> int:
    return microseconds(tables.began)
