"""Numbers of base 128."""

from abfleet_process.base128 import varint
from google.protobuf.internal.decoder import _DecodeVarint  # type: ignore[attr-defined]
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_protobufs(value: int) -> None:
    """Protobuf reads back what was written, to the last byte."""
    raw = varint(value)
    assert _DecodeVarint(raw, 0) == (value, len(raw))
