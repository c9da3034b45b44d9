"""How much speaks against a treatment in a guardrail, time by time. Knows bad events and outages; gives no verdict."""

import math
from dataclasses import dataclass

import numpy as np
from abfleet_statistics import guardrails, outages
from abfleet_statistics.blocks import log_e_by_blocks
from abfleet_statistics.effects import merged
from abfleet_statistics.moments import Floats
from numpy.typing import NDArray

from abfleet_analysis.decision.evidence import BadEvents, Evidence, PairOutages


@dataclass(frozen=True, slots=True)
class GuardrailPath:
    """One guardrail of one treatment.

    Attributes:
        log_e: float64[times], ln E as the highest that it has been; the guardrail acts at 1/alpha.
        wrong, absent: ln of its two halves where it was highest, up to the report: of users with a bad event, and of
            outages; absent is None where these take no part.
        capped: Blocks that count for less than what was in them.
        share: Of the users with a bad event, the part expected in the treatment at the end; nan where none counts.
    """

    log_e: Floats
    wrong: float
    absent: float | None = None
    capped: int = 0
    share: float = math.nan


@dataclass(frozen=True, slots=True)
class _Steps:
    """A process over time: int[steps] as of BadEvents, int[steps] microseconds, and float64[steps], ln E after each.

    capped, share: As of GuardrailPath.
    """

    time: NDArray[np.int64]
    at_us: NDArray[np.int64]
    log_e: Floats
    share: float
    capped: int = 0


def guardrail_path(
    events: BadEvents,
    group: int,
    looks: int,
    pair: PairOutages | None = None,
    excess: Floats | None = None,
) -> GuardrailPath:
    """The path of a guardrail against a treatment.

    pair: Where its outages are the other half of the evidence. excess: As of `excess_users`; None: 1 throughout.
    """
    excess = np.ones(looks + 1) if excess is None else excess
    steps = _of_users(events, group, excess)
    if pair is None:
        path = np.concatenate([[0.0], steps.log_e])
        return GuardrailPath(
            _at_times(path, steps.time, looks), float(path.max()), capped=steps.capped, share=steps.share
        )
    at, time, wrong, absent = _merged(steps, pair, excess)
    path = np.concatenate([[0.0], np.logaddexp(wrong, absent) - math.log(2)])
    highest = int(path.argmax())
    halves = (float(wrong[highest - 1]), float(absent[highest - 1])) if highest else (0.0, 0.0)
    assert (np.diff(at) >= 0).all()
    return GuardrailPath(_at_times(path, time, looks), *halves, capped=steps.capped, share=steps.share)


def excess_users(evidence: Evidence, group: int) -> Floats:
    """How many times too many users a treatment has beside control: float64[times], 1 or more; inf: control has none.

    Bad events are held against the groups' shares, and so somebody has to be in both: where control's lines are
    missing, its bad events are too. Chance is not held against the evidence: it is the ratio's lower bound, two
    standard errors below it. Fewer users of the treatment than its share asks for change nothing.
    """
    observed = merged(evidence.membership, evidence.new_users)[:, :, [0, group]]
    shares = evidence.shares[:, :, [0, group]]
    observed = np.where((shares > 0).all(axis=2, keepdims=True), observed, 0.0)
    both = observed.sum(axis=2, keepdims=True)
    total = shares.sum(axis=2, keepdims=True)
    expected = (both * np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)).sum(axis=1)
    seen = observed.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (seen[:, 1] / expected[:, 1]) / (seen[:, 0] / expected[:, 0])
        least = ratio * np.exp(-2 * np.sqrt((1 / seen).sum(axis=1)))
    # of nobody in either group nothing says that somebody is missing
    return np.where((seen[:, 0] == 0) & (seen[:, 1] > 0), np.inf, np.fmax(least, 1.0))


def _corrected(share: Floats, excess: Floats) -> Floats:
    """The treatment's share of both groups' users, where it has so many times more of them."""
    odds = share * excess
    return np.asarray(odds / (odds + 1 - share))


def _of_users(events: BadEvents, group: int, excess: Floats) -> _Steps:
    """Where users' first bad events leave the process: by blocks where they are known."""
    pair = events.shares[:, [0, group]]
    usable = (pair > 0).all(axis=1) & np.isfinite(excess[events.time])
    share = _corrected(pair[usable, 1] / pair[usable].sum(axis=1), excess[events.time[usable]])
    treatment, control = events.counts[usable, group], events.control_of(group)[usable]
    time, blocks = events.time[usable], events.blocks
    last = float(share[-1]) if len(share) else math.nan
    if blocks is None:
        return _Steps(time, time, guardrails.log_e_process(treatment, control, share), last)
    at = blocks.at_us[usable]
    log_e, capped = log_e_by_blocks(
        treatment, control, share, at // blocks.length_us, first=blocks.first, horizon=blocks.horizon
    )
    return _Steps(time, at, log_e, last, capped)


def _merged(
    steps: _Steps, pair: PairOutages, excess: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """The moments at which either half changes, the time that knows of each, and ln of both halves then.

    What a tolerated rate allows grows from day to day, so the outages' half is that of each moment.
    """
    counts = ~pair.shared & np.isfinite(excess[pair.time])
    known, mine = pair.known_us[counts], pair.of_treatment[counts]
    share = _corrected(pair.share[counts], excess[pair.time[counts]])
    path = np.concatenate([[0.0], outages.log_e_of_outages(mine, share)])
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
