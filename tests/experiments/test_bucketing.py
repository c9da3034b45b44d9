"""Buckets: the published vectors, the hash against a second reading of it, uniform and independent of one another."""

import itertools
import math
import uuid
from collections import Counter
from collections.abc import Callable

import pytest
from abfleet_experiments.bucketing import bucket, layer_salt, user_id_problem
from hypothesis import given
from hypothesis import strategies as st

from tests.experiments import reference

VECTORS = (
    ("user-1", 2014402165, 4690),
    ("user-2", 2248258319, 5234),
    ("42", 1569840732, 3655),
    ("пользователь-7", 763426982, 1777),
    ("用户", 1915819401, 4460),
)


@pytest.mark.parametrize(("user_id", "hashed", "expected"), VECTORS)
def test_published_vectors_hold(user_id: str, hashed: int, expected: int) -> None:
    """Anyone who computes buckets elsewhere can check themselves against these."""
    assert reference.murmur3_x86_32(f"recommender-2026-11:{user_id}".encode()) == hashed
    assert bucket("recommender-2026-11", user_id) == expected


@given(st.text(min_size=1, max_size=40).filter(lambda s: s.isprintable()), st.text(st.characters(codec="utf-8")))
def test_bucket_is_murmur3_of_salt_and_user(salt: str, user_id: str) -> None:
    """Any salt and id give what the second reading of the formula gives, 0 to 9,999."""
    assert bucket(salt, user_id) == reference.bucket(salt, user_id)
    assert 0 <= bucket(salt, user_id) < 10_000


def _chi_square(counts: Counter[object], cells: int) -> float:
    """Against equal shares."""
    expected = counts.total() / cells
    return sum((count - expected) ** 2 for count in counts.values()) / expected + (cells - len(counts)) * expected


def _expected_at_most(freedom: int) -> float:
    """Five standard deviations above the mean; the inputs are fixed, so this is no matter of luck."""
    return freedom + 5 * math.sqrt(2 * freedom)


IDS: dict[str, Callable[[int], str]] = {
    "sequential": str,
    "prefixed": lambda i: f"user-{i:08d}",
    "uuid": lambda i: str(uuid.UUID(int=i * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128)),
    "e-mail": lambda i: f"name.{i % 977}.{i}@example-{i % 13}.com",
    "hex": lambda i: f"{i:x}",
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_every_kind_are_uniform(kind: str) -> None:
    """200,000 ids of a kind that people use fall into 1,000 cells as evenly as chance would have it."""
    counts: Counter[object] = Counter(bucket("uniform", IDS[kind](i)) // 10 for i in range(200_000))
    assert _chi_square(counts, 1000) < _expected_at_most(999)


def test_decisions_are_independent() -> None:
    """Over 1 million users, layer, holdout, and the splits of two experiments tell nothing of one another."""
    salts = (layer_salt("default"), "holdout", "homepage-ranking", "search-ranking")
    users = [f"user-{i}" for i in range(1_000_000)]
    deciles = [[bucket(salt, user) // 1000 for user in users] for salt in salts]
    for one, other in itertools.combinations(deciles, 2):
        assert _chi_square(Counter(zip(one, other, strict=True)), 100) < _expected_at_most(99)


@pytest.mark.parametrize(
    ("user_id", "problem"),
    [
        ("a", None),
        ("ж" * 128, None),
        ("ж" * 128 + "a", "must be 1 to 256 bytes of UTF-8, not 257"),
        ("", "must be 1 to 256 bytes of UTF-8, not 0"),
        ("a\x00b", "must hold no control characters"),
        ("a\x85b", "must hold no control characters"),
        ("a\tb", "must hold no control characters"),
        ("\ud800", "must be valid UTF-8"),
    ],
)
def test_user_ids_have_limits(user_id: str, problem: str | None) -> None:
    """1 to 256 bytes of UTF-8 without control characters; the message says which limit it was."""
    assert user_id_problem(user_id) == problem
