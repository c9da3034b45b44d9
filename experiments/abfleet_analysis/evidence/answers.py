"""Who answered at all shortly before each look and the report. Ibis expressions over one experiment's calls."""

from dataclasses import replace
from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_statistics.moments import Floats
from abfleet_statistics.outages import SECOND, Times

from abfleet_analysis.decision.evidence import ABSENT_MINUTES, Answers
from abfleet_analysis.decision.excluded_time import NOTHING_EXCLUDED
from abfleet_analysis.decision.metrics import Failure
from abfleet_analysis.evidence.tables import Tables
from abfleet_analysis.periods.allocation_periods import microseconds
from abfleet_analysis.storage.fetching import columns_of, fetched_one, fetched_rows

WINDOW_US: Final = ABSENT_MINUTES * 60 * SECOND


def answers_of(tables: Tables) -> Answers:
    """Calls of the last 30 minutes before each look and the report, by group; excluded time is no part of these.

    Looks that are closer together than that are known in whole ones.
    """
    looks, calls = tables.looks, tables.calls
    calls = calls.filter(calls.own | (calls.failure != Failure.NONE))
    as_of, done = microseconds(tables.as_of), looks.calendar.done
    time = NOTHING_EXCLUDED if tables.exclusion is None else tables.exclusion.time
    at = looks.anchor_us + np.arange(done, dtype=np.int64) * looks.look_us
    since_us = at - WINDOW_US
    if time:
        since_us = np.array([time.back(one, WINDOW_US) for one in at.tolist()], dtype=np.int64)
    before = calls.filter(calls.look < done)
    if looks.look_us > WINDOW_US:
        before = before.filter(before["at"] > looks.anchor_us + before.look * looks.look_us - WINDOW_US)
    sums = np.stack([_calls_by_group(before, done, tables), _calls_by_group(before.filter(before.own), done, tables)])
    if looks.look_us > WINDOW_US:
        recent = sums
        longer = np.flatnonzero(since_us != at - WINDOW_US)
        if len(longer):
            recent[:, longer] = _calls_between(calls, since_us[longer], at[longer], tables)
    else:
        total = np.concatenate([np.zeros_like(sums[:, :1]), sums.cumsum(axis=1)], axis=1)
        first = np.maximum(-((looks.anchor_us - since_us) // looks.look_us) + 1, 0)
        recent = total[:, 1:] - total[:, first]
    now = calls.filter(calls["at"] > time.back(as_of, WINDOW_US)).mutate(look=ibis.literal(0))
    last = np.stack([_calls_by_group(now, 1, tables), _calls_by_group(now.filter(now.own), 1, tables)])
    answers = Answers(*np.concatenate([recent, last], axis=1))
    since, lost = {}, {}
    for group in range(1, len(tables.groups)):
        if answers.silent(-1, group):
            mine = calls.filter(calls.g == group)
            answered = fetched_one(mine.filter(mine.own)["at"].max())
            left = mine.filter(mine["at"] > (-1 if answered is None else answered))
            row = fetched_rows(left.aggregate(first=left["at"].min(), n=left.count()))[0]
            since[group], lost[group] = int(row["first"] if answered is None else answered), int(row["n"])
    return replace(answers, since_us=since, lost=lost)


def _calls_between(calls: ir.Table, begin: Times, end: Times, tables: Tables) -> Floats:
    """How many calls there are after one moment and up to another, and answered ones: float64[2, moments, groups].

    Few moments, and most of them with the same begin: within a window nothing is added.
    """
    different, index = np.unique(begin, return_index=True)
    spans = zip(different.tolist(), end[index].tolist(), strict=True)
    within = [(calls["at"] > low) & (calls["at"] <= high) for low, high in spans]
    counts = {f"calls_{n}": calls.count(where=one) for n, one in enumerate(within)}
    counts |= {f"own_{n}": calls.count(where=one & calls.own) for n, one in enumerate(within)}
    columns = columns_of(calls.group_by("g").aggregate(**counts))
    result = np.zeros((2, len(different), len(tables.groups)))
    group = columns["g"].astype(np.int64)
    for kind, name in enumerate(("calls", "own")):
        for n in range(len(different)):
            result[kind, n, group] = columns[f"{name}_{n}"]
    return result[:, np.searchsorted(different, begin)]


def _calls_by_group(calls: ir.Table, looks: int, tables: Tables) -> Floats:
    """How many calls: float64[looks, groups]."""
    columns = columns_of(calls.group_by("look", "g").aggregate(n=ibis._.count()))
    result = np.zeros((looks, len(tables.groups)))
    look, group = (columns[name].astype(np.int64) for name in ("look", "g"))
    result[look, group] = columns["n"]
    return result
