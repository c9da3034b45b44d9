"""The wire format of HTTP/2: headers that others read, padding, hostile blocks."""

from contextlib import suppress

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import ProtocolError, StreamError
from hypothesis import given
from hypothesis import strategies as st

from tests.support.header_fields import fields_of

BYTES = st.binary(max_size=60)


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300), st.floats(0.0, 1e6))
def test_request_headers_are_hpack(path: str, seconds: float) -> None:
    """A decoder of others reads what a gRPC request needs, whatever the length of the path."""
    block = http2.request_headers("/" + path, "worker:1") + http2.timeout_header(seconds)
    fields = fields_of(block)
    timeout = fields.pop("grpc-timeout")
    assert fields == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/" + path,
        ":authority": "worker:1",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    assert timeout.endswith("m")
    assert len(timeout) <= 9, "at most eight digits and a unit"
    assert 1 <= int(timeout[:-1]) <= max(1.0, seconds * 1000)


@given(st.binary(max_size=80))
def test_any_header_block_is_read_or_refused(block: bytes) -> None:
    """Whatever the bytes are: fields, or an error of the connection or of its stream, and no other."""
    with suppress(ProtocolError, StreamError):
        assert isinstance(http2.decode_headers(block), dict)


@given(st.sampled_from([http2.DATA, http2.HEADERS]), st.integers(0, 255), BYTES)
def test_padding_is_taken_off_or_refused(kind: int, flags: int, payload: bytes) -> None:
    """The payload without padding is no longer than the frame's, or ProtocolError is raised."""
    with suppress(ProtocolError):
        assert len(http2.unpadded(kind, flags, payload)) <= len(payload)
