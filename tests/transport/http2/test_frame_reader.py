"""From bytes to whole frames: however they are cut, header blocks in parts, and what is refused before it is there."""

import random
import time
from itertools import pairwise

import pytest
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frame_reader import FrameReader
from abfleet_transport.http2.frames import ProtocolError, frame
from hypothesis import given
from hypothesis import strategies as st

GREETING = frame(http2.SETTINGS, 0, 0)
Heard = list[tuple[int, int, int, bytes]]
"""Type, flags, stream and payload."""
STREAMS = st.integers(0, 2**31 - 1)
BYTES = st.binary(max_size=60)


class Handler:
    """Keeps what a reader gives."""

    def __init__(self) -> None:
        self.frames: Heard = []

    def on_data(self, flags: int, stream: int, payload: bytes) -> None:
        self.frames.append((http2.DATA, flags, stream, payload))

    def on_headers(self, flags: int, stream: int, block: bytes) -> None:
        self.frames.append((http2.HEADERS, flags, stream, block))

    def on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self.frames.append((kind, flags, stream, payload))


def read(*parts: bytes, preface: bytes = b"", max_frame: int = http2.OUR_MAX_FRAME) -> Heard:
    """What is read of these parts, after the greeting."""
    heard = Handler()
    reader = FrameReader(heard, max_frame=max_frame, preface=preface)
    for part in parts:
        reader.feed(part)
    return heard.frames[1:]


FRAMES = st.one_of(
    st.tuples(st.sampled_from((0, 2, 3, 4, 5, 6, 7, 8, 32)), st.integers(0, 255), STREAMS, BYTES),
    st.tuples(st.just(http2.HEADERS), st.sampled_from((4, 5)), STREAMS, BYTES),
)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 400), max_size=10), st.sampled_from((b"", http2.PREFACE)))
def test_frames_do_not_depend_on_how_they_are_cut(frames: Heard, cuts: list[int], preface: bytes) -> None:
    """TCP cuts where it likes: the same frames come out, on either side."""
    data = preface + GREETING + b"".join(frame(*one) for one in frames)
    places = sorted({0, *(min(cut, len(data)) for cut in cuts), len(data)})
    assert read(*(data[begin:end] for begin, end in pairwise(places)), preface=preface) == frames


@given(st.binary(min_size=1), st.lists(st.integers(0, 60), max_size=5), st.booleans())
def test_a_header_block_in_parts_is_one(block: bytes, cuts: list[int], ended: bool) -> None:
    """It has the flags of its HEADERS; CONTINUATION is given by itself, too, for what it costs."""
    places = sorted({0, *(min(cut, len(block)) for cut in cuts), len(block)})
    parts = [block[begin:end] for begin, end in pairwise(places)]
    first, *more = parts
    flags = http2.END_STREAM if ended else 0
    sent = frame(http2.HEADERS, flags | (0 if more else http2.END_HEADERS), 1, first)
    for number, part in enumerate(more):
        sent += frame(http2.CONTINUATION, http2.END_HEADERS if number == len(more) - 1 else 0, 1, part)
    kinds = [one[0] for one in read(GREETING + sent)]
    assert kinds == [http2.CONTINUATION] * len(more) + [http2.HEADERS]
    _, got_flags, stream, got = read(GREETING + sent)[-1]
    assert (got_flags & http2.END_STREAM, stream, got) == (flags, 1, block)


@pytest.mark.parametrize(
    ("hostile", "code"),
    [
        pytest.param(http2.frame_header(http2.DATA, 0, 1, 101), http2.FRAME_SIZE_ERROR, id="a frame past the limit"),
        pytest.param(frame(http2.CONTINUATION, 4, 1), http2.PROTOCOL_ERROR, id="continuation of nothing"),
        pytest.param(
            frame(http2.HEADERS, 0, 1) + frame(http2.CONTINUATION, 4, 3), http2.PROTOCOL_ERROR, id="of another stream"
        ),
        pytest.param(
            frame(http2.HEADERS, 0, 1) + frame(http2.DATA, 0, 1), http2.PROTOCOL_ERROR, id="DATA inside a block"
        ),
        pytest.param(
            frame(http2.HEADERS, 0, 1) + frame(http2.CONTINUATION, 0, 1, bytes(100)) * 700,
            http2.ENHANCE_YOUR_CALM,
            id="a block without end",
        ),
    ],
)
def test_what_is_refused(hostile: bytes, code: int) -> None:
    """As soon as it shows: a frame that is too long before its payload is waited for."""
    with pytest.raises(ProtocolError) as caught:
        read(GREETING + hostile, max_frame=100)
    assert caught.value.code == code


def test_a_header_block_of_one_very_large_frame_is_refused() -> None:
    """Where frames may be larger than a header block may be."""
    with pytest.raises(ProtocolError, match="header block"):
        read(GREETING + frame(http2.HEADERS, http2.END_HEADERS, 1, bytes(http2.MAX_HEADER_BLOCK + 1)))


def test_a_large_frame_in_very_small_parts_is_joined_once() -> None:
    """100,000 parts of a frame cost their bytes, not the square of them; nothing but whole frames is given."""
    payload = random.Random(1).randbytes(1_000_000)
    data = GREETING + frame(http2.DATA, 0, 1, payload) + frame(http2.PING, 0, 0, bytes(8))
    begun = time.process_time()
    got = read(*(data[start : start + 10] for start in range(0, len(data), 10)))
    assert got == [(http2.DATA, 0, 1, payload), (http2.PING, 0, 0, bytes(8))]
    assert time.process_time() - begun < 10  # 0.1 s here; joined each time it would be 50 GB
