"""The wire to a worker, without a socket: frames, windows, endings, and peers that break the protocol."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import pairwise
from typing import cast

import hpack
import pytest
from abfleet_router.connection import (
    DEAD_AFTER_BEATS,
    DEAD_ALONE_AFTER_BEATS,
    MAX_UNREAD_REPLIES,
    PING_AFTER_BEATS,
    Connection,
)
from abfleet_router.exchange import Exchange, RpcFailed
from abfleet_transport import http2
from abfleet_transport.call import Code
from abfleet_transport.http2 import Frame, FrameReader, ProtocolError, frame
from hypothesis import given, settings
from hypothesis import strategies as st

BYTES = st.binary(max_size=60)
OK_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.unread = 0
        """What the worker has not read, as the transport would say."""
        self.aborted = self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closed = True

    def frames(self) -> list[Frame]:
        """What was written since the last time, without the preface."""
        data, self.written = self.written.removeprefix(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), b""
        return list(FrameReader().feed(data))


class Peer:
    """A connection, and a worker at its other end that says whatever the test wants."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.lost = 0
        self.connection = Connection("worker:1", self.on_closed)
        self.connection.connection_made(cast(asyncio.Transport, self.wire))
        self.wire.frames()

    def on_closed(self, connection: Connection) -> None:
        self.lost += 1

    def call(self, message: bytes = b"hello", timeout_seconds: float | None = 0.5) -> Exchange:
        """Starts a call."""
        return self.connection.call("/s/m", message, timeout_seconds)

    def say(self, *frames: bytes) -> None:
        """The worker sends this."""
        self.connection.data_received(b"".join(frames))

    def headers(self, stream: int, fields: list[tuple[str, str]], *, end: bool = False) -> bytes:
        """A HEADERS frame, coded by a library of others."""
        encoder = hpack.Encoder()
        encoder.header_table_size = 0
        return frame(
            http2.HEADERS, http2.END_HEADERS | (http2.END_STREAM if end else 0), stream, encoder.encode(fields)
        )

    def answer(self, stream: int, message: bytes, status: int = 0, text: str = "") -> None:
        """A whole answer."""
        self.say(
            self.headers(stream, OK_HEADERS),
            frame(http2.DATA, 0, stream, http2.MESSAGE_PREFIX.pack(0, len(message)) + message),
            self.headers(stream, [("grpc-status", str(status)), ("grpc-message", text)], end=True),
        )


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """An open connection."""
    one = Peer()
    yield one
    one.connection.close()


async def failure(exchange: Exchange) -> RpcFailed:
    """How a call ended that did not end well."""
    async with asyncio.timeout(10):
        with pytest.raises(RpcFailed) as caught:
            await exchange.done
    return caught.value


def hpack_fields(block: bytes) -> dict[str, str]:
    """The fields of a header block, read by a library of others."""
    return {str(name): str(value) for name, value in hpack.Decoder().decode(block)}


# --- bytes ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 255), st.integers(0, 2**31 - 1), BYTES), max_size=8),
       st.lists(st.integers(0, 400), max_size=10))  # fmt: skip
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


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=300),
       st.floats(0.0, 1e6))  # fmt: skip
def test_request_headers_are_hpack(path: str, seconds: float) -> None:
    """A decoder of others reads what a gRPC request needs, whatever the length of the path."""
    block = http2.request_headers("/" + path, "worker:1") + http2.timeout_header(seconds)
    fields = hpack_fields(block)
    timeout = fields.pop("grpc-timeout")
    assert fields == {
        ":method": "POST", ":scheme": "http", ":path": "/" + path, ":authority": "worker:1",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    assert timeout.endswith("m")
    assert len(timeout) <= 9, "at most eight digits and a unit"
    assert 1 <= int(timeout[:-1]) <= max(1.0, seconds * 1000)


@given(st.binary(max_size=80))
def test_any_header_block_is_read_or_refused(block: bytes) -> None:
    """Whatever the bytes are: fields, or a ProtocolError, and no other."""
    with suppress(ProtocolError):
        assert isinstance(http2.decode_headers(block), dict)


@given(st.sampled_from([http2.DATA, http2.HEADERS]), st.integers(0, 255), BYTES)
def test_padding_is_taken_off_or_refused(kind: int, flags: int, payload: bytes) -> None:
    """Never more than there was."""
    with suppress(ProtocolError):
        assert len(http2.unpadded(Frame(kind, flags, 1, payload))) <= len(payload)


# --- calls ------------------------------------------------------------------------------------------------------------


async def test_a_call_and_its_answer(peer: Peer) -> None:
    """One HEADERS and one DATA frame out; the message back; each call a stream of its own."""
    first, second = peer.call(b"one"), peer.call(b"two", None)
    out = peer.wire.frames()
    assert [(one.kind, one.stream) for one in out] == [(1, 1), (0, 1), (1, 3), (0, 3)]
    assert hpack_fields(out[0].payload)["grpc-timeout"] == "500m"
    assert "grpc-timeout" not in hpack_fields(out[2].payload)
    assert (out[1].payload, out[1].flags) == (b"\x00\x00\x00\x00\x03one", http2.END_STREAM)
    peer.answer(3, b"second")
    peer.answer(1, b"first")
    assert (await first.done, await second.done) == (b"first", b"second")


@pytest.mark.parametrize(
    ("status", "text", "code", "says"),
    [
        (14, "going", Code.UNAVAILABLE, "going"),
        (8, "100%25 full", Code.RESOURCE_EXHAUSTED, "100% full"),
        (13, "", Code.INTERNAL, "no status"),
        (99, "odd", Code.UNKNOWN, "odd"),
    ],
)
async def test_a_status_is_told(peer: Peer, status: int, text: str, code: Code, says: str) -> None:
    """The code where it is one, and the worker's words, which are percent-encoded on the wire."""
    exchange = peer.call()
    peer.answer(1, b"", status, text)
    error = await failure(exchange)
    assert (error.code, error.connection_broke) == (code, False)
    assert says in str(error)


async def test_endings_without_an_answer(peer: Peer) -> None:
    """Only trailers; trailers without status; OK without a message; an HTTP error: each fails its own call alone."""
    calls = [peer.call() for _ in range(5)]
    peer.say(peer.headers(1, [*OK_HEADERS, ("grpc-status", "12")], end=True))
    peer.say(peer.headers(3, OK_HEADERS), peer.headers(3, [("a", "b")], end=True))
    peer.say(peer.headers(5, [*OK_HEADERS, ("grpc-status", "0")], end=True))
    peer.say(peer.headers(7, [(":status", "502")], end=True))
    assert [(await failure(call)).code for call in calls[:4]] == [
        Code.UNIMPLEMENTED, Code.UNKNOWN, Code.INTERNAL, Code.UNKNOWN,
    ]  # fmt: skip
    assert "502" in str(await failure(calls[3]))
    peer.answer(9, b"fine")
    assert await calls[4].done == b"fine"


async def test_an_answer_in_pieces(peer: Peer) -> None:
    """Any number of DATA frames, padded ones too, and a header block that is continued."""
    exchange = peer.call()
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(OK_HEADERS)
    message = b"a long answer" * 10
    data = http2.MESSAGE_PREFIX.pack(0, len(message)) + message
    peer.say(frame(http2.HEADERS, 0, 1, block[:3]), frame(http2.CONTINUATION, 0, 1, block[3:5]))
    peer.say(frame(http2.CONTINUATION, http2.END_HEADERS, 1, block[5:]))
    for begin in range(0, len(data), 7):
        piece = data[begin : begin + 7]
        peer.say(frame(http2.DATA, http2.PADDED, 1, b"\x03" + piece + b"\x00" * 3))
    peer.say(peer.headers(1, [("grpc-status", "0")], end=True))
    assert await exchange.done == message


async def test_cancelling_resets_the_stream_and_nothing_else(peer: Peer) -> None:
    """The worker hears of it; what it had sent already is dropped; the neighbour is answered."""
    gone, stays = peer.call(), peer.call()
    peer.wire.frames()
    peer.connection.cancel(gone)
    assert [(one.kind, one.stream) for one in peer.wire.frames()] == [(http2.RST_STREAM, 1)]
    peer.answer(1, b"late")
    peer.answer(3, b"fine")
    assert await stays.done == b"fine"
    assert gone.done.cancelled()


async def test_a_ping_is_answered_and_settings_are_acknowledged(peer: Peer) -> None:
    """Else the worker takes the connection for dead."""
    peer.say(frame(http2.PING, 0, 0, b"12345678"), frame(http2.SETTINGS, 0, 0), frame(http2.SETTINGS, http2.ACK, 0))
    assert peer.wire.frames() == [
        Frame(http2.PING, http2.ACK, 0, b"12345678"),
        Frame(http2.SETTINGS, http2.ACK, 0, b""),
    ]


def pings(peer: Peer) -> int:
    """How many were sent since the last look."""
    return sum(got.kind == http2.PING for got in peer.wire.frames())


async def test_a_worker_that_says_nothing_is_asked_and_given_up(peer: Peer) -> None:
    """A process that is stopped closes nothing: an unanswered ping after a silent call breaks the connection."""
    for _ in range(100):
        peer.connection.beat()
    assert pings(peer) == 0, "nothing is owed"
    exchange = peer.call()
    for _ in range(PING_AFTER_BEATS):
        assert pings(peer) == 0
        peer.connection.beat()
    assert pings(peer) == 1
    for _ in range(DEAD_AFTER_BEATS - PING_AFTER_BEATS):
        assert peer.lost == 0
        peer.connection.beat()
    assert peer.lost == 1
    assert (await failure(exchange)).connection_broke


async def test_the_last_worker_is_given_more_time(peer: Peer) -> None:
    """Its calls have nowhere else to go: a pause that others would not survive is no reason to fail them."""
    peer.call()
    for _ in range(DEAD_ALONE_AFTER_BEATS):
        assert peer.lost == 0
        peer.connection.beat(alone=True)
    assert peer.lost == 1


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_worker_that_answers_the_ping_is_only_slow(peer: Peer, cancelled: bool) -> None:
    """It lives, so the connection stays; it is not asked again before it has said something else, because servers hang
    up on clients that only ping. A call that is given up meanwhile changes nothing of that."""
    exchange = peer.call()
    if cancelled:
        peer.connection.cancel(exchange)
    for _ in range(PING_AFTER_BEATS):
        peer.connection.beat()
    assert pings(peer) == 1
    peer.say(frame(http2.PING, http2.ACK, 0, bytes(8)))
    another = peer.call()
    for _ in range(5 * DEAD_AFTER_BEATS):
        peer.connection.beat()
    assert (pings(peer), peer.lost) == (0, 0)
    peer.answer(another.stream, b"late")
    assert await another.done == b"late"
    peer.call()
    for _ in range(PING_AFTER_BEATS):
        peer.connection.beat()
    assert pings(peer) == 1


async def test_a_stream_of_messages_may_be_silent(peer: Peer) -> None:
    """A health watch says nothing for as long as nothing changes: nobody pings for that."""
    stream = peer.connection.call("/s/Watch", b"", None, lambda message: None)
    peer.say(peer.headers(stream.stream, OK_HEADERS))
    for _ in range(5 * DEAD_AFTER_BEATS):
        peer.connection.beat()
    assert (pings(peer), peer.lost) == (0, 0)


async def test_a_worker_that_says_goodbye(peer: Peer) -> None:
    """After GOAWAY what it has begun is answered, what it has not is free to go elsewhere, and then the line closes."""
    begun, not_begun = peer.call(), peer.call()
    peer.say(frame(http2.GOAWAY, 0, 0, http2.UINT32.pack(1) + http2.UINT32.pack(0)))
    error = await failure(not_begun)
    assert (error.code, error.connection_broke, peer.lost) == (Code.UNAVAILABLE, True, 1)
    with pytest.raises(RpcFailed):
        peer.call()
    assert not peer.wire.closed
    peer.answer(1, b"fine")
    assert await begun.done == b"fine"
    assert peer.wire.closed


@pytest.mark.parametrize("end", ["reset", "lost", "closed"])
async def test_a_connection_that_breaks(peer: Peer, end: str) -> None:
    """Calls under way fail at once as UNAVAILABLE on a broken connection, and it is told once."""
    exchange = peer.call()
    match end:
        case "reset":
            peer.say(frame(http2.RST_STREAM, 0, 1, http2.UINT32.pack(7)))
        case "lost":
            peer.connection.connection_lost(ConnectionResetError("reset by peer"))
            peer.connection.connection_lost(None)
        case _:
            peer.connection.close()
    error = await failure(exchange)
    assert (error.code, error.connection_broke) == (Code.UNAVAILABLE, True)
    assert peer.lost == (end != "reset")


@pytest.mark.parametrize(
    "answer",
    [
        frame(http2.CONTINUATION, 0, 1, b""),
        frame(http2.HEADERS, 0, 1, b"\x88") + frame(http2.DATA, 0, 1, b""),
        frame(http2.HEADERS, http2.END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
        frame(http2.SETTINGS, 0, 0, b"123"),
        frame(http2.GOAWAY, 0, 0, b""),
        frame(http2.DATA, http2.PADDED, 1, b"\x09abc"),
        http2.frame_header(http2.DATA, 0, 1, 2**24 - 1),
        b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n" * 3,
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
    ],
)
async def test_a_peer_that_breaks_the_protocol(peer: Peer, answer: bytes) -> None:
    """Its connection is dropped, its calls fail, and nothing else happens."""
    exchange = peer.call()
    peer.say(answer)
    error = await failure(exchange)
    assert error.connection_broke
    assert (peer.wire.aborted, peer.lost, peer.connection.usable) == (True, 1, False)


async def test_a_compressed_answer_fails_its_call(peer: Peer) -> None:
    """Compression was not offered; the caller is told at once, not when its time is up."""
    exchange = peer.call()
    data = http2.MESSAGE_PREFIX.pack(1, 3) + b"abc"
    peer.say(peer.headers(1, OK_HEADERS), frame(http2.DATA, 0, 1, data))
    peer.say(peer.headers(1, [("grpc-status", "0")], end=True))
    assert (await failure(exchange)).connection_broke


@settings(deadline=None)
@given(st.lists(st.one_of(
    st.binary(max_size=100),
    st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 5), BYTES).map(lambda one: frame(*one)),
), max_size=12))  # fmt: skip
async def test_hostile_bytes(pieces: list[bytes]) -> None:
    """Whatever a peer sends, nothing is raised, and after the end no call is left without an outcome."""
    peer = Peer()
    calls = [peer.call(), peer.call()]
    for piece in pieces:
        if not peer.wire.aborted:
            peer.say(piece)
    peer.connection.connection_lost(None)
    assert all(call.done.done() for call in calls)
    assert not peer.connection.usable
    assert peer.lost == 1


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 200_000), min_size=1, max_size=3),
    st.integers(16_384, 40_000),
    st.integers(0, 100_000),
    st.lists(st.tuples(st.sampled_from([0, 1, 3, 5]), st.integers(1, 60_000)), max_size=20),
)
async def test_windows_are_kept(sizes: list[int], most: int, first_window: int, updates: list[tuple[int, int]]) -> None:
    """Never more than connection, stream and frame allow, in order, and all of it once there is room."""
    peer = Peer()
    changed = ((http2.INITIAL_WINDOW_SIZE, first_window), (http2.MAX_FRAME_SIZE, most))
    peer.say(frame(http2.SETTINGS, 0, 0, b"".join(http2.SETTING.pack(*one) for one in changed)))
    messages = [bytes([number]) * size for number, size in enumerate(sizes, 65)]
    for message in messages:
        peer.call(message)
    room = {0: http2.DEFAULT_WINDOW} | {1 + 2 * number: first_window for number in range(len(sizes))}
    sent: dict[int, bytes] = dict.fromkeys(room, b"")
    ended: set[int] = set()
    for stream, more in [*updates, (0, 2**20), *((stream, 2**20) for stream in room if stream)]:
        for got in peer.wire.frames():
            if got.kind == http2.DATA:
                assert len(got.payload) <= most
                assert got.stream not in ended
                room[0] -= len(got.payload)
                room[got.stream] -= len(got.payload)
                sent[got.stream] += got.payload
                ended |= {got.stream} if got.flags & http2.END_STREAM else set()
                assert min(room[0], room[got.stream]) >= 0
        if stream in room:
            room[stream] += more
            peer.say(http2.window_update(stream, more))
    for got in peer.wire.frames():
        if got.kind == http2.DATA:
            sent[got.stream] += got.payload
            ended |= {got.stream} if got.flags & http2.END_STREAM else set()
    for number, message in enumerate(messages):
        assert sent[1 + 2 * number] == http2.MESSAGE_PREFIX.pack(0, len(message)) + message
    assert ended == set(room) - {0}
    peer.connection.close()


async def test_a_stream_of_messages(peer: Peer) -> None:
    """A health watch hears each message as it comes, however they are cut, until the stream ends."""
    heard: list[bytes] = []
    exchange = peer.connection.call("/s/m", b"", None, heard.append)
    data = b"".join(http2.MESSAGE_PREFIX.pack(0, len(one)) + one for one in (b"one", b"", b"three"))
    peer.say(peer.headers(1, OK_HEADERS), frame(http2.DATA, 0, 1, data[:6]))
    assert heard == []
    peer.say(frame(http2.DATA, 0, 1, data[6:10]))
    assert heard == [b"one"]
    peer.say(frame(http2.DATA, 0, 1, data[10:]))
    assert heard == [b"one", b"", b"three"]
    peer.say(peer.headers(1, [("grpc-status", "0")], end=True))
    assert exchange.done.done()


# --- workers that mean harm -------------------------------------------------------------------------------------------


async def test_a_status_of_thousands_of_digits_is_no_status() -> None:
    """Python refuses to read such a number; the call ends as one without a known status."""
    peer = Peer()
    call = peer.call()
    peer.say(peer.headers(1, OK_HEADERS), peer.headers(1, [("grpc-status", "9" * 5000)], end=True))
    with pytest.raises(RpcFailed) as caught:
        await call.done
    assert caught.value.code is Code.UNKNOWN
    assert not peer.wire.aborted


async def test_a_header_block_is_bounded_in_one_frame_too() -> None:
    """Not only where it goes on in CONTINUATION."""
    peer = Peer()
    call = peer.call()
    peer.say(frame(http2.HEADERS, http2.END_HEADERS, 1, bytes(http2.MAX_HEADER_BLOCK + 1)))
    assert peer.wire.aborted
    with pytest.raises(RpcFailed, match="header block"):
        await call.done


async def test_a_frame_of_very_many_messages_is_read_in_one_go() -> None:
    """200,000 empty messages in a frame of a watch: read once each, not each with a copy of all that follow."""
    peer = Peer()
    heard: list[bytes] = []
    peer.connection.call("/h/Watch", b"", None, heard.append)
    begun = time.process_time()
    peer.say(peer.headers(1, OK_HEADERS), frame(http2.DATA, 0, 1, bytes(5) * 200_000))
    assert len(heard) == 200_000
    assert time.process_time() - begun < 10  # half a second here; a copy for each message would be 100 GB


def test_a_large_frame_in_very_small_parts_is_joined_once() -> None:
    """100,000 parts of a frame cost their bytes, not the square of them; nothing but whole frames is given."""
    reader, payload = FrameReader(), random.Random(1).randbytes(1_000_000)
    data = frame(http2.DATA, 0, 1, payload) + frame(http2.PING, 0, 0, bytes(8))
    begun = time.process_time()
    got = [one for start in range(0, len(data), 10) for one in reader.feed(data[start : start + 10])]
    assert got == [Frame(http2.DATA, 0, 1, payload), Frame(http2.PING, 0, 0, bytes(8))]
    assert time.process_time() - begun < 10  # 0.1 s here; joined each time it would be 50 GB


@pytest.mark.parametrize(
    "hostile",
    [
        frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.MAX_FRAME_SIZE, 0)),
        frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.MAX_FRAME_SIZE, 2**24)),
        frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(http2.INITIAL_WINDOW_SIZE, 2**31)),
        frame(http2.PING, 0, 0, bytes(7)),
    ],
)
async def test_what_the_protocol_forbids_ends_the_connection(hostile: bytes) -> None:
    """A largest frame of nothing would have calls wait for ever; the rest is forbidden for like reasons."""
    peer = Peer()
    call = peer.call()
    peer.say(hostile)
    assert peer.wire.aborted
    with pytest.raises(RpcFailed, match="broke the protocol"):
        await call.done


@pytest.mark.parametrize("kind", [http2.PING, http2.SETTINGS])
async def test_who_asks_without_end_and_does_not_read_is_left(kind: int) -> None:
    """Replies that nobody reads are not gathered; to one who reads, any number is written."""
    asked = frame(kind, 0, 0, bytes(8) if kind == http2.PING else b"")
    for unread in (0, 1):
        peer = Peer()
        peer.wire.unread = unread
        peer.say(asked * (MAX_UNREAD_REPLIES + 1))
        assert peer.wire.aborted is bool(unread)
