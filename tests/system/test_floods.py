"""Floods of many connections: a short form of `./run prove floods`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proofs.floods import LEAST_ANSWERED, VERSION, run, serving
from tests.support.fleet import Fleet

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A router of one version."""
    folder: Path = tmp_path_factory.mktemp("floods")
    with serving(folder) as one:
        one.wait_for_serving(VERSION)
        yield one


@pytest.mark.parametrize("flood", ["window updates", "settings", "refused opens", "rapid reset", "huffman"])
def test_honest_callers_are_answered_beside_a_flood(fleet: Fleet, flood: str) -> None:
    """From the same address; the connections that flood are cut, and counted."""
    felt = run(fleet, flood, 12, seconds=1.0, rate=40.0)
    assert felt.answered >= LEAST_ANSWERED, {one.status for one in felt.outcomes}
    assert felt.cut > 0
