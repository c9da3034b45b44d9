"""Streams and connections that a worker ends: a short form of `./run prove worker-endings`."""

import asyncio

import pytest

from tests.proofs.worker_endings import run
from tests.support.fake_worker import Ending


@pytest.mark.parametrize(
    "ending",
    [
        Ending("reset", 7),
        Ending("reset", 8),
        Ending("reset", 11),
        Ending("status", 1),
        Ending("status", 13),
        Ending("status", 14),
        Ending("goodbye"),
        Ending("last"),
    ],
    ids=lambda ending: ending.name,
)
def test_no_more_is_lost_than_by_another_client(ending: Ending) -> None:
    """Of a pool of one; and no call is answered twice."""
    found = asyncio.run(run(ending, seconds=1.5, every=0.2))
    assert found.holds, found
