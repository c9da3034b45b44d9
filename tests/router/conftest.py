"""A router over a fleet without a network for every test of its stories, and a fleet on real sockets."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.router.bench import Bench
from tests.router.place import Place


@pytest.fixture
async def make_bench() -> AsyncIterator[Callable[..., Any]]:
    """Makes open benches, and closes them afterwards."""
    made: list[Bench] = []

    async def make(**parts: Any) -> Bench:
        bench = Bench(**parts)
        made.append(bench)
        await bench.open()
        return bench

    yield make
    for bench in made:
        await bench.close()


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """Closed at the end."""
    one = Place()
    yield one
    await one.close()
