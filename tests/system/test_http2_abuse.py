"""Abuses of HTTP/2 that the transports hold: a short form of `./run prove http2-abuse`."""

from pathlib import Path

import pytest

from tests.proofs.http2_abuse import run

pytestmark = pytest.mark.system


@pytest.mark.parametrize(("abuse", "transport"), [("rapid reset", "native")])
def test_others_are_served_beside_an_abuser(tmp_path: Path, abuse: str, transport: str) -> None:
    """No call of another caller fails meanwhile, nor afterwards."""
    # Few calls that may take long: the abuser and this test share the cores with others, and no call may be dropped.
    felt = run(tmp_path, abuse, transport=transport, seconds=1.5, rate=40.0, timeout_seconds=20.0)
    assert felt.outcomes
    assert felt.failed == 0, {one.details for one in felt.outcomes}
    assert felt.answers_after
