"""What our server and our client make of each rule of RFC 9113 and RFC 7541, beside what nghttp2 does, and with it."""

import asyncio
import ctypes
from typing import cast

import pytest
from abfleet_router.fleet.http2_client import ClientConnection
from abfleet_transport.http2 import frames as http2

from tests.fuzz.codecs import ClientWire
from tests.proofs.nghttp2 import GOES_ON, KNOWN, NO_TABLE, Written, compared, read, verdict
from tests.support import nghttp2
from tests.transport.http2_client import PATH, Client


@pytest.fixture
def library() -> ctypes.CDLL:
    """The library, where it is installed."""
    found = nghttp2.loaded()
    if found is None:
        pytest.skip(f"{nghttp2.NAME} is not installed (Debian: libnghttp2-14)")
    return found


async def test_each_rule_as_nghttp2_has_it_or_as_the_rfc_does(library: ctypes.CDLL) -> None:
    """Where they differ it is said why, and nothing is said of what is alike."""
    found = await compared(library)
    assert len(found) > 200
    assert {(side, case.name) for side, case, ours, theirs in found if ours != theirs} == KNOWN.keys()


@pytest.mark.parametrize("settings", [(), (NO_TABLE,)], ids=["a table", "none"])
async def test_nghttp2_as_a_server_takes_what_our_client_says(
    library: ctypes.CDLL, settings: tuple[tuple[int, int], ...]
) -> None:
    """Calls before its settings are known and after, and one that is given up."""
    session, pipe = nghttp2.Session(library, server=True, settings=settings), Written()
    client = ClientConnection("server", lambda connection: None)
    client.connection_made(cast(asyncio.Transport, ClientWire(pipe)))  # type: ignore[arg-type]
    for _ in range(3):
        client.call(PATH, b"abc", 1.0, lambda end: None)
        given_up = client.call(PATH, b"abc", None, lambda end: None)
        client.cancel(given_up)
        said, pipe.written = pipe.written, b""
        assert session.take(said)
        answer = session.said()
        assert verdict(read(answer)) == GOES_ON
        client.data_received(answer)
    assert client.usable
    client.close()
    session.close()


@pytest.mark.parametrize("settings", [(), (NO_TABLE,)], ids=["a table", "none"])
async def test_nghttp2_as_a_client_takes_what_our_server_says(
    library: ctypes.CDLL, settings: tuple[tuple[int, int], ...]
) -> None:
    """To requests whose headers it codes with a table as long as it may, and without one."""
    session = nghttp2.Session(library, server=False, settings=((http2.ENABLE_PUSH, 0), *settings))
    fields = (
        *((b":method", b"POST"), (b":scheme", b"http"), (b":path", PATH.encode()), (b":authority", b"server")),
        *((b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"x-user-id", b"a user's id")),
    )
    client = Client(greeting=b"")
    for _ in range(4):
        session.request(fields)
        client.connection.data_received(session.said())
        for _ in range(3):
            await asyncio.sleep(0)
        answer, client.wire.written = bytes(client.wire.written), bytearray()
        assert verdict(read(answer)) == GOES_ON
        assert session.take(answer)
    assert verdict(read(session.said())) == GOES_ON
    assert not client.side.queue.counts.cuts
    assert client.side.queue.counts.refusals == {"message": 4}, "they have no message, which is a status of gRPC"
    session.close()
