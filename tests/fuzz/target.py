"""What can be fuzzed looks like this. Knows no parser."""

import random
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

Trial = Callable[[random.Random], Awaitable[int]]
"""Tries the inputs that a random source gives; returns how many of them were taken as good. Raises whatever the parser
raises that it should not: what a parser may raise is caught in the trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A parser with its surroundings."""

    name: str
    inputs: int
    """Of a million of all targets: so many that none takes more than a minute or two, dear ones few."""
    each: int = 1
    """Inputs that one trial makes."""
    open: Callable[[], AbstractAsyncContextManager[Trial]]
    """What it needs, for as long as it is fuzzed."""
    growth_mb: float = 48.0
    """Resident memory may grow so much after the first fifth: caches that fill, and fragments."""
