"""A few logs drawn at random keep every invariant of `./run prove fuzz-logs`, which tries thousands."""

from functools import cache

import pytest
from abfleet_log.schema import problems

from tests.proofs import fuzz_logs
from tests.support.fuzzed_log import fuzzed


@pytest.mark.parametrize("seed", [1, 8, 13, 139, 54057, 70383])
def test_fuzzed_logs_keep_the_invariants(seed: int) -> None:
    """A winsorised metric, buckets that few users are in, users in two allocations, the second of whom comes first,
    money in two currencies with a line of a wrong clock, a lone call days before all others, and buckets that no line
    tells: each look says what it said on its day, counts are those counted by hand, and neither order nor one clock
    matters."""
    assert fuzz_logs.check(fuzzed(seed), fuzz_logs.INVARIANTS).experiments


@cache
def exact_seed() -> int:
    """Of a log whose lines are all as the schema has them, or no lines."""
    return next(seed for seed in range(1, 100) if fuzzed(seed).exact)


def test_a_seed_is_one_log() -> None:
    """So that what a run has found can be found again; and its lines are those of a router, but for what went wrong."""
    log = fuzzed(exact_seed())
    assert log.files == fuzzed(exact_seed()).files
    assert [problem for record in log.records() for problem in problems(record)] == []
    assert len({call["user_id"] for call in log.named("exposure")}) >= 200


def test_a_broken_invariant_is_told_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the run ends with 1."""
    monkeypatch.setattr(fuzz_logs, "truths", lambda log: ({}, 7))
    (told,) = fuzz_logs.run([exact_seed()], ["truth"], 0, print)
    assert "truth: log: shown and true {'duplicates':" in told
    assert told.endswith(f"again: ./run prove fuzz-logs --seed {exact_seed()} --logs 1")
