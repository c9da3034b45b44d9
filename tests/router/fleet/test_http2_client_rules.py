"""What a client must check of its server (RFC 9113), byte by byte: the connection ends, one stream does, or none."""

import pytest
from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.control_frames import NOT_KEPT
from abfleet_transport.http2.frames import frame

from tests.router.peer import Peer, failure
from tests.support.frames import Frame

OK = bytes.fromhex("88 0f10 10") + b"application/grpc"
HEAD = frame(http2.HEADERS, 4, 1, OK)
BODY = bytes.fromhex("000008 00 00 00000001 00 00000003 616263")
DONE = frame(http2.HEADERS, 5, 1, b"\x00\x0bgrpc-status\x010")
GREETING = bytes.fromhex("000000 04 00 00000000")
HINTS = bytes.fromhex("000005 01 04 00000001 08 03 313033")
"""HEADERS with `:status: 103`."""


def goodbye(frames: list[Frame]) -> int | None:
    """The code of the GOAWAY that we wrote."""
    return next((http2.UINT32.unpack_from(got.payload, 4)[0] for got in frames if got.kind == http2.GOAWAY), None)


def setting(name: int, value: int) -> bytes:
    """A frame with one setting."""
    return frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(name, value))


@pytest.mark.parametrize(
    "first",
    [
        frame(http2.PING, 0, 0, bytes(8)),
        frame(http2.SETTINGS, http2.ACK, 0),
        http2.window_update(0, 1),
        frame(0x20, 0, 0, b"of an extension"),
        HEAD,
    ],
)
async def test_the_first_frame_is_settings(first: bytes) -> None:
    """Anything else is no preface of a server (3.4)."""
    peer = Peer(greeting=b"")
    call = peer.call()
    peer.say(first)
    assert goodbye(peer.wire.frames()) == http2.PROTOCOL_ERROR
    assert peer.wire.aborted
    assert "first frame" in str(await failure(call))


@pytest.mark.parametrize(
    ("hostile", "code"),
    [
        pytest.param(frame(http2.PUSH_PROMISE, 4, 1, bytes(4) + OK), http2.PROTOCOL_ERROR, id="push"),
        pytest.param(frame(http2.PUSH_PROMISE, 4, 0, bytes(4)), http2.PROTOCOL_ERROR, id="push on 0"),
        pytest.param(setting(http2.ENABLE_PUSH, 1), http2.PROTOCOL_ERROR, id="enable push"),
        pytest.param(setting(http2.ENABLE_PUSH, 2), http2.PROTOCOL_ERROR, id="enable push 2"),
        pytest.param(
            frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(5, 1) + http2.SETTING.pack(5, 16_384)),
            http2.PROTOCOL_ERROR,
            id="a forbidden setting, then an allowed one",
        ),
        pytest.param(frame(http2.SETTINGS, http2.ACK, 0, bytes(6)), http2.FRAME_SIZE_ERROR, id="ack with a payload"),
        pytest.param(frame(http2.SETTINGS, 0, 0, bytes(5)), http2.FRAME_SIZE_ERROR, id="settings of 5 bytes"),
        pytest.param(frame(http2.SETTINGS, 0, 1), http2.PROTOCOL_ERROR, id="settings on a stream"),
        pytest.param(frame(http2.PING, 0, 0, bytes(7)), http2.FRAME_SIZE_ERROR, id="ping of 7 bytes"),
        pytest.param(frame(http2.PING, http2.ACK, 0, bytes(9)), http2.FRAME_SIZE_ERROR, id="pong of 9 bytes"),
        pytest.param(frame(http2.PING, 0, 1, bytes(8)), http2.PROTOCOL_ERROR, id="ping on a stream"),
        pytest.param(frame(http2.GOAWAY, 0, 0, bytes(7)), http2.FRAME_SIZE_ERROR, id="goaway of 7 bytes"),
        pytest.param(frame(http2.GOAWAY, 0, 1, bytes(8)), http2.PROTOCOL_ERROR, id="goaway on a stream"),
        pytest.param(frame(http2.RST_STREAM, 0, 1, bytes(3)), http2.FRAME_SIZE_ERROR, id="reset of 3 bytes"),
        pytest.param(frame(http2.RST_STREAM, 0, 0, bytes(4)), http2.PROTOCOL_ERROR, id="reset on 0"),
        pytest.param(frame(http2.RST_STREAM, 0, 3, bytes(4)), http2.PROTOCOL_ERROR, id="reset on an idle stream"),
        pytest.param(frame(http2.RST_STREAM, 0, 2, bytes(4)), http2.PROTOCOL_ERROR, id="reset on an even stream"),
        pytest.param(frame(http2.PRIORITY_FRAME, 0, 1, bytes(4)), http2.FRAME_SIZE_ERROR, id="priority of 4 bytes"),
        pytest.param(frame(http2.PRIORITY_FRAME, 0, 0, bytes(5)), http2.PROTOCOL_ERROR, id="priority on 0"),
        pytest.param(http2.window_update(0, 0), http2.PROTOCOL_ERROR, id="no window"),
        pytest.param(http2.window_update(0, 2**31 - 1), http2.FLOW_CONTROL_ERROR, id="too much window"),
        pytest.param(frame(http2.WINDOW_UPDATE, 0, 0, bytes(3)), http2.FRAME_SIZE_ERROR, id="window of 3 bytes"),
        pytest.param(frame(http2.WINDOW_UPDATE, 0, 0, b"\0\0\0\1\0"), http2.FRAME_SIZE_ERROR, id="window of 5 bytes"),
        pytest.param(http2.window_update(3, 1), http2.PROTOCOL_ERROR, id="window of an idle stream"),
        pytest.param(
            http2.window_update(1, 2**30) + setting(http2.INITIAL_WINDOW_SIZE, 2**31 - 1),
            http2.FLOW_CONTROL_ERROR,
            id="settings that give a stream too much window",
        ),
        pytest.param(frame(http2.DATA, 0, 0, b"x"), http2.PROTOCOL_ERROR, id="data on 0"),
        pytest.param(frame(http2.DATA, 0, 3, b"x"), http2.PROTOCOL_ERROR, id="data on an idle stream"),
        pytest.param(frame(http2.HEADERS, 5, 0, OK), http2.PROTOCOL_ERROR, id="headers on 0"),
        pytest.param(frame(http2.HEADERS, 5, 2, OK), http2.PROTOCOL_ERROR, id="headers on an even stream"),
        pytest.param(frame(http2.HEADERS, 5, 3, OK), http2.PROTOCOL_ERROR, id="headers on an idle stream"),
        pytest.param(HEAD + BODY + DONE + BODY, http2.STREAM_CLOSED, id="data after the end"),
        pytest.param(HEAD + BODY + DONE + DONE, http2.STREAM_CLOSED, id="headers after the end"),
        pytest.param(frame(http2.CONTINUATION, 4, 1, OK), http2.PROTOCOL_ERROR, id="continuation of nothing"),
        pytest.param(frame(http2.HEADERS, 4, 1, b"\xbe"), http2.COMPRESSION_ERROR, id="a table that we do not have"),
        pytest.param(http2.frame_header(0, 0, 1, 2**20 + 1), http2.FRAME_SIZE_ERROR, id="a frame that is too long"),
    ],
)
async def test_what_breaks_the_connection(peer: Peer, hostile: bytes, code: int) -> None:
    """It is told why, and another is made."""
    peer.call()
    peer.wire.frames()
    peer.say(hostile)
    assert goodbye(peer.wire.frames()) == code
    assert (peer.wire.aborted, peer.lost) == (True, 1)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        pytest.param(http2.window_update(1, 0), http2.PROTOCOL_ERROR, id="no window"),
        pytest.param(http2.window_update(1, 2**31 - 1), http2.FLOW_CONTROL_ERROR, id="too much window"),
        pytest.param(BODY, http2.PROTOCOL_ERROR, id="data before headers"),
        pytest.param(HINTS + BODY, http2.PROTOCOL_ERROR, id="data after hints"),
        pytest.param(HEAD + HEAD, http2.PROTOCOL_ERROR, id="trailers that do not end it"),
        pytest.param(frame(http2.HEADERS, 4, 1, b"\x08\x03101"), http2.PROTOCOL_ERROR, id="101"),
        pytest.param(frame(http2.HEADERS, 4, 1, b"\x08\x0220"), http2.PROTOCOL_ERROR, id="a status of two digits"),
        pytest.param(frame(http2.HEADERS, 4, 1, b"\x0f\x10\x01a"), http2.PROTOCOL_ERROR, id="no status"),
        pytest.param(frame(http2.HEADERS, 4, 1, OK + b"\x88"), http2.PROTOCOL_ERROR, id="status after a header"),
        pytest.param(frame(http2.HEADERS, 4, 1, b"\x88" + OK), http2.PROTOCOL_ERROR, id="two statuses"),
        pytest.param(frame(http2.HEADERS, 4, 1, b"\x88\x04\x01/"), http2.PROTOCOL_ERROR, id="a request's header"),
        pytest.param(frame(http2.HEADERS, 4, 1, OK + b"\x00\x01A\x01b"), http2.PROTOCOL_ERROR, id="upper case"),
        pytest.param(frame(http2.HEADERS, 4, 1, OK + b"\x00\x00\x01b"), http2.PROTOCOL_ERROR, id="no name"),
        pytest.param(
            frame(http2.HEADERS, 4, 1, OK + b"\x00\x0aconnection\x01b"), http2.PROTOCOL_ERROR, id="HTTP/1's header"
        ),
        pytest.param(HEAD + BODY + frame(http2.HEADERS, 5, 1, OK), http2.PROTOCOL_ERROR, id="status in trailers"),
        pytest.param(
            HEAD + BODY + frame(http2.HEADERS, 5, 1, b"\x00\x01A\x01b"), http2.PROTOCOL_ERROR, id="upper-case trailers"
        ),
        pytest.param(frame(http2.HEADERS, 4, 1, OK + b"\x0f\x0d\x02xx"), http2.PROTOCOL_ERROR, id="content-length xx"),
        pytest.param(
            frame(http2.HEADERS, 4, 1, OK + b"\x0f\x0d\x019") + BODY + DONE, http2.PROTOCOL_ERROR, id="content-length 9"
        ),
        pytest.param(frame(http2.HEADERS, 4, 1, b"\x08\x032xx"), http2.PROTOCOL_ERROR, id="a status of letters"),
        pytest.param(frame(http2.HEADERS, 5, 1, b"\x08\x03103"), http2.PROTOCOL_ERROR, id="hints that end it"),
        pytest.param(frame(http2.HEADERS, 4, 1, OK + b"\x00\x01a\x01\0"), http2.PROTOCOL_ERROR, id="NUL"),
        pytest.param(frame(http2.HEADERS, 4, 1, OK + b"\x00\x01a\x01\r"), http2.PROTOCOL_ERROR, id="CR"),
        pytest.param(frame(http2.HEADERS, 4, 1, OK + b"\x00\x01a\x01\n"), http2.PROTOCOL_ERROR, id="LF"),
        pytest.param(frame(http2.HEADERS, 4, 1, OK + b"\x00\x02te\x04gzip"), http2.PROTOCOL_ERROR, id="a coding"),
        pytest.param(HEAD + b"\0\0\5\0\0\0\0\0\1" + b"\1\0\0\0\0" + DONE, http2.CANCEL, id="a compressed message"),
    ],
)
async def test_what_breaks_one_stream(peer: Peer, answer: bytes, code: int) -> None:
    """It is reset and its call fails; the next one is answered on the same connection."""
    broken, stays = peer.call(), peer.call()
    peer.wire.frames()
    peer.say(answer)
    error = await failure(broken)
    assert (error.code, error.connection_broke, error.unsent) == (Code.INTERNAL, False, False)
    resets = [(got.stream, http2.uint31(got.payload)) for got in peer.wire.frames() if got.kind == http2.RST_STREAM]
    assert resets == [(1, code)]
    peer.say(BODY)  # was on its way
    peer.answer(3, b"fine")
    assert await stays.done == b"fine"
    assert not peer.wire.aborted


async def test_informational_headers_are_passed_over(peer: Peer) -> None:
    """Any number of 1xx may come before the answer (8.1)."""
    call = peer.call()
    peer.say(HINTS, frame(http2.HEADERS, 4, 1, b"\x08\x03100"), HEAD, BODY, DONE)
    assert await call.done == b"abc"


@pytest.mark.parametrize("more", [BODY, BODY[:-1].replace(b"\x08", b"\x07", 1), frame(http2.DATA, 0, 1, b"\0")])
async def test_a_unary_answer_has_one_message(peer: Peer, more: bytes) -> None:
    """Two, or one and a part, are none."""
    call, stays = peer.call(), peer.call()
    peer.say(HEAD, BODY, more, DONE)
    error = await failure(call)
    assert (error.code, "more than one message" in str(error)) == (Code.INTERNAL, True)
    peer.answer(3, b"fine")
    assert await stays.done == b"fine"


@pytest.mark.parametrize(
    "harmless",
    [
        frame(0x20, 0xFF, 99, b"of an extension"),
        setting(0xFFFF, 1),
        setting(http2.ENABLE_PUSH, 0),
        frame(http2.PRIORITY_FRAME, 0, 99, bytes(5)),
        frame(http2.PING, http2.ACK, 0, bytes(8)),
        frame(http2.SETTINGS, http2.ACK, 0),
    ],
)
async def test_what_concerns_nobody_is_passed_over(peer: Peer, harmless: bytes) -> None:
    """Frames and settings that we do not know, or have no use for."""
    call = peer.call()
    peer.say(harmless, HEAD, harmless, BODY, harmless, DONE, harmless)
    assert await call.done == b"abc"


@pytest.mark.parametrize("value", ["André".encode(), "André".encode("latin-1"), b"a\tb", b"x" * 100])
async def test_foreign_headers_of_an_answer_harm_nothing(peer: Peer, value: bytes) -> None:
    """Whatever a proxy on the way adds."""
    field = b"\x00" + http2.literal("x-who") + http2.integer(len(value), 7) + value
    call = peer.call()
    peer.say(frame(http2.HEADERS, 4, 1, OK + field), BODY)
    peer.say(frame(http2.HEADERS, 5, 1, b"\x00\x0bgrpc-status\x010" + field))
    assert await call.done == b"abc"


@pytest.mark.parametrize(("size", "told"), [(0, True), (4095, True), (4096, False), (65_536, False)])
async def test_a_server_with_a_smaller_table_is_told_that_we_know(peer: Peer, size: int, told: bool) -> None:
    """At the beginning of the next header block, and once; a server may end a connection that leaves it out (4.3.1)."""
    peer.call()
    peer.wire.frames()
    peer.say(setting(http2.HEADER_TABLE_SIZE, size))
    peer.call()
    peer.call()
    blocks = [got.payload for got in peer.wire.frames() if got.kind == http2.HEADERS]
    assert [block.startswith(http2.NO_TABLE) for block in blocks] == [told, False]
    assert blocks[0].removeprefix(http2.NO_TABLE) == blocks[1]


async def test_the_servers_limit_of_streams_is_kept(peer: Peer) -> None:
    """Calls wait for their turn; what is given up while it waits never goes out; the limit may change."""
    peer.say(setting(http2.MAX_CONCURRENT_STREAMS, 2))
    calls = [peer.call(bytes([65 + number])) for number in range(6)]

    def begun() -> list[int]:
        return [got.stream for got in peer.wire.frames() if got.kind == http2.HEADERS]

    assert begun() == [1, 3]
    peer.give_up(calls[2])
    peer.answer(1, b"one")
    assert begun() == [5]
    peer.say(http2.reset(3, http2.INTERNAL_ERROR))
    assert begun() == [7]
    peer.give_up(calls[3])
    assert begun() == [9]
    peer.say(setting(http2.MAX_CONCURRENT_STREAMS, 0))
    peer.answer(7, b"five")
    assert (await calls[4].done, begun()) == (b"five", [])
    calls.append(peer.call())
    assert begun() == []
    peer.say(setting(http2.MAX_CONCURRENT_STREAMS, 100))
    assert begun() == [11]


async def test_calls_that_wait_for_a_stream_at_a_goodbye_were_not_sent(peer: Peer) -> None:
    """So they may go elsewhere; one that lost its connection so, too."""
    peer.say(setting(http2.MAX_CONCURRENT_STREAMS, 1))
    begun, waits = peer.call(), peer.call()
    peer.say(http2.goaway(1, http2.NO_ERROR))
    assert (await failure(waits)).unsent
    peer.answer(1, b"fine")
    assert await begun.done == b"fine"
    other = Peer(greeting=setting(http2.MAX_CONCURRENT_STREAMS, 1))
    begun, waits = other.call(), other.call()
    other.connection.connection_lost(None)
    assert [(one.unsent, one.connection_broke) for one in (await failure(begun), await failure(waits))] == [
        (False, True),
        (True, False),
    ]


async def test_a_watch_leaves_its_stream_to_calls(peer: Peer) -> None:
    """Where the server allows one alone, which it says after the watch has begun."""
    watch = peer.watch(lambda message: None)
    call = peer.call()
    peer.say(setting(http2.MAX_CONCURRENT_STREAMS, 1))
    assert (await failure(watch)).unsent
    assert not peer.connection.may_watch
    peer.answer(3, b"fine")
    assert await call.done == b"fine"


async def test_numbers_of_streams_that_are_used_up_are_a_goodbye(peer: Peer) -> None:
    """The last call is answered; the next ones need a new connection."""
    peer.connection._calls.next_stream = http2.MAX_WINDOW
    last = peer.call()
    assert (peer.left, peer.connection.usable) == (1, False)
    peer.answer(http2.MAX_WINDOW, b"fine")
    assert await last.done == b"fine"
    assert peer.wire.closed


async def test_many_resets_of_ours_are_not_held_against_the_worker(peer: Peer) -> None:
    """What was on its way for them is dropped, though not every one of them is remembered."""
    for _ in range(NOT_KEPT + 5):
        peer.give_up(peer.call())
    stays = peer.call()
    peer.say(frame(http2.HEADERS, 4, 3, OK), frame(http2.DATA, 0, 3, b"x"), HEAD)
    peer.answer(stays.stream_id, b"fine")
    assert await stays.done == b"fine"
