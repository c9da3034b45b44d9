"""Ibis' memory of comparisons, whoever is deleted when."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from abfleet_analysis.storage import ibis_equality, storage  # noqa: F401 - the storage makes it safe
from ibis.common.bases import Comparable


class Compared(Comparable):
    """An object that is equal to all others of its kind."""

    def __equals__(self, other: object) -> bool:
        return True


def remembered_of(*ids: int) -> list[int]:
    """Which of these the memory still names, as its own or as another one's."""
    named = set(Comparable.__cache__) | {other for others in Comparable.__cache__.values() for other in others}
    return [one for one in ids if one in named]


def test_who_is_deleted_within_the_deletion_of_another_is_forgotten() -> None:
    """As the collector does it between any two steps: the other one's entries are gone before these are."""
    first, second, third = Compared(), Compared(), Compared()
    assert first == second
    assert first == third
    Comparable.__cache__.pop(id(second))  # so far `second` has come
    first.__del__()
    assert remembered_of(id(first)) == []


def test_two_threads_that_delete_what_they_have_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """No error, which Python would print, and nothing left that a later object with the same id could be taken for."""
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: unraisable.append(told.exc_value))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as threads:
            for _ in range(100):
                mine, theirs = ([Compared() for _ in range(20)] for _ in range(2))
                ids = [id(one) for one in (*mine, *theirs)]
                assert all(one == other for one in mine for other in theirs)
                clearing = [threads.submit(mine.clear), threads.submit(theirs.clear)]
                assert [one.result() for one in clearing] == [None, None]
                assert remembered_of(*ids) == []
    finally:
        sys.setswitchinterval(interval)
    assert unraisable == []
