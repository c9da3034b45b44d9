"""Whether this process takes too much memory, by what Linux reports; not what took it.

Resident memory is watched instead of limited by RLIMIT_AS. That limit counts address space, of which threads and
mapped files take gigabytes that are no memory; and past it an allocation fails wherever it happens to be, which ends a
process of Rust or C++ libraries at once. A container's own limit stays as the last bound.
"""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

STATM = Path("/proc/self/statm")
BACK_BELOW = 0.9
"""Of the limit: without a distance a process near it would flap."""


class MemoryWatch:
    """Compares resident memory with a limit. `over` is changed only by `check`."""

    def __init__(
        self,
        limit_bytes: int,
        resident: Callable[[], int] | None = None,
        give_back: Callable[[], None] | None = None,
    ) -> None:
        """`give_back` is called at each check while it is over."""
        self.over = False
        self._limit_bytes = limit_bytes
        self._resident = resident or resident_bytes
        self._give_back = give_back or give_back_freed

    def check(self) -> bool:
        """Whether the process takes more than the limit; once it does, until it takes a tenth less."""
        if self.over:
            self._give_back()
        self.over = self._resident() > self._limit_bytes * (BACK_BELOW if self.over else 1.0)
        return self.over


def resident_bytes() -> int:
    """Memory of this process that is not swapped out. Raises OSError on systems other than Linux."""
    return int(STATM.read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def give_back_freed() -> None:
    """Lets the C library return what was freed: without that, one burst would keep a process over its limit."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
