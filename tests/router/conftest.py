"""What is opened for a test of the router and closed after it: benches, a fleet on sockets, a connection, reloaders."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.router.bench import Bench
from tests.router.follower import Follower, experiments
from tests.router.peer import Peer
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
    """A fleet on real sockets without workers yet; closed after the test."""
    one = Place()
    yield one
    await one.close()


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A connection to a worker that the test plays; closed after the test."""
    one = Peer()
    yield one
    one.connection.close()


@pytest.fixture
async def followers() -> AsyncIterator[list[Follower]]:
    """What is put here is closed at the end."""
    made: list[Follower] = []
    yield made
    for follower in made:
        await follower.bench.close()


@pytest.fixture
async def follower(tmp_path: Path, followers: list[Follower]) -> Follower:
    """A reloader with weights of 90 and 10 in force; closed after the test."""
    one = Follower(tmp_path, experiments(90, 10))
    followers.append(one)
    await one.begin()
    assert one.weights == [90, 10]
    return one
