"""The short form of `./run prove infer-bytes`."""

from pathlib import Path

import pytest

from tests.proofs.infer_bytes import run
from tests.transport.serving import TRANSPORTS

pytestmark = pytest.mark.system


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_not_a_byte_is_changed(tmp_path: Path, transport: str) -> None:
    """On the way to a server of the Open Inference Protocol and back; only the contract's fields are added."""
    seen = await run(tmp_path, transport, 300)
    assert (seen.messages, dict(seen.wrong)) == (300, {})
