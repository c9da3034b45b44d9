"""The watch of memory: over the limit until a tenth less, and what it does meanwhile."""

import sys

import pytest
from abfleet_process.memory import MemoryWatch, give_back_freed, resident_bytes


def test_over_and_back() -> None:
    """Over above the limit; back only below nine tenths of it; while over, freed memory is given back."""
    sizes, given = iter((100, 101, 95, 91, 89, 95)), [0]

    def give_back() -> None:
        given[0] += 1

    watch = MemoryWatch(100, lambda: next(sizes), give_back)
    assert [watch.check() for _ in range(6)] == [False, True, True, True, False, False]
    assert given == [3]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, as the watch does on Linux alone")
def test_resident_memory_is_this_process() -> None:
    """50 MB more are seen, and less after they were freed and given back."""
    before = resident_bytes()
    ballast = bytearray(b"x" * 50_000_000)
    grown = resident_bytes()
    assert grown - before > 40_000_000
    del ballast
    give_back_freed()
    assert resident_bytes() < grown - 40_000_000
