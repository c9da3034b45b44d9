"""How much speaks against a treatment in a guardrail, time by time. Knows bad events and outages; gives no verdict."""

import math
from dataclasses import dataclass

import numpy as np
from abfleet_statistics import guardrails, outages
from abfleet_statistics.blocks import log_e_by_blocks
from abfleet_statistics.moments import Floats
from numpy.typing import NDArray

from abfleet_analysis.decision.evidence import BadEvents, PairOutages


@dataclass(frozen=True, slots=True)
class GuardrailPath:
    """One guardrail of one treatment.

    Attributes:
        log_e: float64[times], ln E as the highest that it has been; the guardrail acts at 1/alpha.
        wrong, absent: ln of its two halves where it was highest, up to the report: of users with a bad event, and of
            outages; absent is None where these take no part.
        capped: Blocks that count for less than what was in them.
    """

    log_e: Floats
    wrong: float
    absent: float | None = None
    capped: int = 0


@dataclass(frozen=True, slots=True)
class _Steps:
    """A process over time: int[steps] as of BadEvents, int[steps] microseconds, and float64[steps], ln E after each."""

    time: NDArray[np.int64]
    at_us: NDArray[np.int64]
    log_e: Floats


def guardrail_path(events: BadEvents, group: int, looks: int, pair: PairOutages | None = None) -> GuardrailPath:
    """The path of a guardrail against a treatment. pair: Where its outages are the other half of the evidence."""
    steps, capped = _of_users(events, group)
    if pair is None:
        path = np.concatenate([[0.0], steps.log_e])
        return GuardrailPath(_at_times(path, steps.time, looks), float(path.max()), capped=capped)
    at, time, wrong, absent = _merged(steps, pair)
    path = np.concatenate([[0.0], np.logaddexp(wrong, absent) - math.log(2)])
    highest = int(path.argmax())
    halves = (float(wrong[highest - 1]), float(absent[highest - 1])) if highest else (0.0, 0.0)
    assert (np.diff(at) >= 0).all()
    return GuardrailPath(_at_times(path, time, looks), *halves, capped=capped)


def _of_users(events: BadEvents, group: int) -> tuple[_Steps, int]:
    """Where users' first bad events leave the process: by blocks where they are known."""
    pair = events.shares[:, [0, group]]
    usable = (pair > 0).all(axis=1)
    share = pair[usable, 1] / pair[usable].sum(axis=1)
    treatment, control = events.counts[usable, group], events.control_of(group)[usable]
    time, blocks = events.time[usable], events.blocks
    if blocks is None:
        return _Steps(time, time, guardrails.log_e_process(treatment, control, share)), 0
    at = blocks.at_us[usable]
    log_e, capped = log_e_by_blocks(
        treatment, control, share, at // blocks.length_us, first=blocks.first, horizon=blocks.horizon
    )
    return _Steps(time, at, log_e), capped


def _merged(steps: _Steps, pair: PairOutages) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """The moments at which either half changes, the time that knows of each, and ln of both halves then.

    What a tolerated rate allows grows from day to day, so the outages' half is that of each moment.
    """
    counts = ~pair.shared
    known, mine = pair.known_us[counts], pair.of_treatment[counts]
    path = np.concatenate([[0.0], outages.log_e_of_outages(mine, pair.share[counts])])
    at = np.concatenate([steps.at_us, known])
    time = np.concatenate([steps.time, pair.time[counts]])
    order = np.argsort(at, kind="stable")
    at, time = at[order], time[order]
    wrong = np.concatenate([[0.0], steps.log_e])[np.searchsorted(steps.at_us, at, side="right")]
    so_far = np.searchsorted(known, at, side="right")
    number = np.concatenate([[0.0], mine.cumsum()])[so_far]
    days = pair.excluded.between(pair.began_us, at) / outages.DAY_US
    absent = np.minimum(path[so_far], outages.log_e_of_rate(number, days, tolerated=pair.tolerated_a_day))
    return at, time, wrong, absent


def _at_times(path: Floats, time: NDArray[np.int64], looks: int) -> Floats:
    """The highest of a path, which begins before its first step, up to each time: float64[times]."""
    return np.asarray(np.maximum.accumulate(path)[np.searchsorted(time, np.arange(looks + 1), side="right")])
