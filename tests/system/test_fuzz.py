"""Mutated inputs for every parser: a short form of `./run prove fuzz`."""

import asyncio
import random

import pytest

from tests.fuzz.one import HANG_SECONDS
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.system
SECONDS = 0.4
"""For each; those that are processes take a second or two more."""
PROCESSES = {"callers, grpcio", "hostile workers"}
"""Left to the long form: one that is a process is enough here."""


@pytest.mark.parametrize("target", [one for one in TARGETS if one.name not in PROCESSES], ids=lambda one: one.name)
def test_mutated_inputs(target: Target) -> None:
    """Each input is taken or refused as it should be, for as many as can be tried in a moment."""

    async def tried() -> int:
        loop, count = asyncio.get_running_loop(), 0
        async with target.open() as trial:
            end = loop.time() + SECONDS
            while loop.time() < end or not count:
                async with asyncio.timeout(HANG_SECONDS):
                    await trial(random.Random(f"suite/{target.name}/{count}"))
                count += 1
        return count

    assert asyncio.run(tried())
