"""More calls than the fleet can serve: a short form of `./run prove overload`."""

from pathlib import Path

import pytest

from tests.proofs.overload import check, overload

pytestmark = pytest.mark.system


def test_too_many_calls_are_refused_alike(tmp_path: Path) -> None:
    """Three times what the workers can do: calls are served or refused with a pushback, each refused one is logged with
    its group, and no group is refused more than another."""
    check(overload(tmp_path, seconds=3, seed=2))
