"""The wire to a worker, without a socket: peers that break the protocol, and workers that mean harm."""

import time

import pytest
from abfleet_router.fleet.http2_client_reader import MAX_UNREAD_REPLIES
from abfleet_router.fleet.http2_client_stream import RpcFailed
from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.router.peer import BYTES, OK_HEADERS, Peer, failure


@pytest.mark.parametrize(
    "answer",
    [
        frame(http2.CONTINUATION, 0, 1, b""),
        frame(http2.HEADERS, 0, 1, b"\x88") + frame(http2.DATA, 0, 1, b""),
        frame(http2.HEADERS, 0, 1, b"\x88") + frame(http2.CONTINUATION, 4, 3, b""),
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
    stream = peer.call()
    peer.say(answer)
    error = await failure(stream)
    assert error.connection_broke
    assert (peer.wire.aborted, peer.lost, peer.connection.usable) == (True, 1, False)


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=100),
            st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 5), BYTES).map(lambda one: frame(*one)),
        ),
        max_size=12,
    )
)
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
    peer.watch(heard.append)
    begun = time.process_time()
    peer.say(peer.headers(1, OK_HEADERS), frame(http2.DATA, 0, 1, bytes(5) * 200_000))
    assert len(heard) == 200_000
    assert time.process_time() - begun < 10  # half a second here; a copy for each message would be 100 GB


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
    with pytest.raises(RpcFailed, match="violated HTTP/2"):
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
