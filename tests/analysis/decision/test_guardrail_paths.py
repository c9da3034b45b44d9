"""How both halves of a guardrail come together over looks, on events made to meet each rule. No log."""

import math
from dataclasses import replace

import numpy as np
import pytest
from abfleet_analysis.decision.evidence import Answers, BadEvents, Blocks, PairOutages
from abfleet_analysis.decision.guardrail_paths import guardrail_path
from abfleet_statistics.guardrails import log_e_process
from abfleet_statistics.outages import DAY_US, SECOND

BLOCK = 600 * SECOND
ACTS = math.log(200)


def wrong(counts: list[tuple[float, float]], *, begin: int = 0) -> BadEvents:
    """Users of control and of the treatment in blocks one after the other, at halves; a look after each."""
    number = np.arange(len(counts))
    blocks = Blocks((number + begin + 1) * BLOCK - 1, BLOCK, 0, 4032)
    table = np.array(counts, dtype=float).reshape(-1, 2)
    return BadEvents(number, table, np.full((len(counts), 2), 0.5), blocks)


def out(hours: list[float], *, treatment: bool = True, shared: bool = False, looks: int = 0) -> PairOutages:
    """Outages of one group, counted at these hours; a look after each hour."""
    known = np.array([int(hour * 3600) * SECOND for hour in hours], dtype=np.int64)
    return PairOutages(
        time=np.minimum(np.ceil(np.array(hours, dtype=float)).astype(np.int64), looks),
        known_us=known,
        of_treatment=np.full(len(hours), treatment),
        shared=np.full(len(hours), shared),
        share=np.full(len(hours), 0.5),
        began_us=0,
        replicas=(1, 1),
        outages=((), ()),
    )


def test_steps_without_blocks_are_judged_as_they_are() -> None:
    """Sums of whole days, as simulations have them, have no cap: the plain formula, and 200 is its own threshold."""
    days = replace(wrong([(5, 20), (5, 30)]), blocks=None)
    path = guardrail_path(days, 1, 2)
    plain = log_e_process(days.counts[:, 1], days.counts[:, 0], np.full(2, 0.5))
    assert path.log_e.tolist() == pytest.approx([max(0, plain[0]), *np.maximum.accumulate(plain)[[1, 1]]])


def test_either_half_can_act() -> None:
    """Many wrong answers act without an outage, and many outages without a wrong answer."""
    nobody, nothing = out([]), wrong([])
    assert guardrail_path(wrong([(0, 30)] * 6), 1, 6, nobody).log_e[-1] >= ACTS
    every_two_hours = out([2.0 * n for n in range(1, 19)])
    path = guardrail_path(nothing, 1, 0, every_two_hours)
    assert path.log_e[-1] >= ACTS
    assert path.wrong == 0
    assert path.absent is not None
    assert path.absent > math.log(400) - 0.1


@pytest.mark.parametrize(
    "pair", [out([2.0 * n for n in range(1, 19)], shared=True), out([20.0 * n for n in range(34)])]
)
def test_shared_and_rare_outages_do_not_act(pair: PairOutages) -> None:
    """Outages that both groups had count for nobody; 1.2 a day are as good as what is tolerated."""
    assert guardrail_path(wrong([]), 1, 0, pair).log_e[-1] < math.log(20)


def test_what_is_allowed_grows_until_the_moment_of_judgement() -> None:
    """Outages of the first day weigh less beside wrong answers of the tenth: E is that of one moment."""
    early = out([1.0, 2.0, 3.0, 4.0, 5.0])
    late = wrong([(0, 1)], begin=10 * DAY_US // BLOCK)
    path = guardrail_path(late, 1, 0, early)
    at_once = guardrail_path(wrong([]), 1, 0, early)
    assert path.log_e[-1] == at_once.log_e[-1]  # where it was highest, not the sum of two highest ones
    assert path.absent == at_once.absent


def test_earlier_looks_do_not_change() -> None:
    """What a look said of both halves is the same when more is known."""
    events, pair = wrong([(1, 9), (2, 12), (1, 15), (0, 9)]), out([0.2, 0.4, 0.6], looks=4)
    pair = replace(pair, time=np.array([1, 2, 3]))
    whole = guardrail_path(events, 1, 4, pair).log_e
    for looks in range(1, 4):
        some = BadEvents(
            events.time[: looks + 1],
            events.counts[: looks + 1],
            events.shares[: looks + 1],
            replace(events.blocks, at_us=events.blocks.at_us[: looks + 1]) if events.blocks else None,
        )
        seen = pair.time <= looks
        less = replace(
            pair,
            time=pair.time[seen],
            known_us=pair.known_us[seen],
            of_treatment=pair.of_treatment[seen],
            shared=pair.shared[seen],
            share=pair.share[seen],
        )
        assert guardrail_path(some, 1, looks, less).log_e[: looks + 1].tolist() == whole[: looks + 1].tolist()


def test_absent_needs_thirty_calls_and_a_control_that_answers() -> None:
    """29 calls are too few; one answer is no absence; a control that answers nothing either is none of the version."""

    def absent(calls: float, answered: float, by_control: float) -> bool:
        return Answers(np.array([[50.0, calls]]), np.array([[by_control, answered]])).absent(0, 1)

    assert absent(30, 0, 1)
    assert not absent(29, 0, 50)
    assert not absent(1000, 1, 50)
    assert not absent(1000, 0, 0)
