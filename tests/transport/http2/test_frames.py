"""The wire format of HTTP/2: frames however they are cut, headers that others read, padding, hostile blocks."""

from contextlib import suppress
from itertools import pairwise

import pytest
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import ProtocolError, StreamError, frame
from hypothesis import given
from hypothesis import strategies as st

from tests.support.frames import FrameReader
from tests.support.header_fields import fields_of

BYTES = st.binary(max_size=60)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 255), st.integers(0, 2**31 - 1), BYTES), max_size=8),
    st.lists(st.integers(0, 400), max_size=10),
)
def test_frames_do_not_depend_on_how_they_are_cut(frames: list[tuple[int, int, int, bytes]], cuts: list[int]) -> None:
    """TCP cuts where it likes: the same frames come out."""
    data = b"".join(frame(*one) for one in frames)
    reader, got, places = FrameReader(), [], sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    for begin, end in pairwise(places):
        got += list(reader.feed(data[begin:end]))
    assert [tuple(one) for one in got] == frames


def test_a_frame_past_the_limit_is_refused() -> None:
    """Before its payload is waited for."""
    with pytest.raises(ProtocolError, match="at most"):
        list(FrameReader(max_frame=100).feed(http2.frame_header(http2.DATA, 0, 1, 101)))


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
