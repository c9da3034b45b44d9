"""A call whose path is not UTF-8 ends grpc.aio's server; ours is there again, and the native one never minds."""

import asyncio

import grpc
import pytest
from abfleet_transport import http2
from abfleet_transport.http2 import frame
from abfleet_transport.server import Transport

from tests.transport.serving import TRANSPORTS, Serving, serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATH = b"/te\xffst.Echo/Say"


async def send_hostile(address: str) -> None:
    """One call with such a path, and waits until the server has said something to it or hung up."""
    head = http2.request_headers("/", "server").replace(b"\x04\x01/", b"\x04" + bytes((len(PATH),)) + PATH)
    assert PATH in head
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(PREFACE + frame(http2.SETTINGS, 0, 0) + frame(http2.HEADERS, http2.END_HEADERS, 1, head))
    writer.write(frame(http2.DATA, http2.END_STREAM, 1, bytes(5)))
    frames = http2.FrameReader()
    async with asyncio.timeout(30):
        # HEADERS or RST_STREAM of the call, GOAWAY, or the end of the connection.
        while data := await reader.read(65_536):
            if any(got.stream == 1 or got.kind == http2.GOAWAY for got in list(frames.feed(data))):
                break
    writer.close()


async def answers(server: Serving) -> bytes:
    """A call that is made again while nobody listens."""
    async with asyncio.timeout(30):
        while True:
            try:
                got: bytes = await server.say(b"x", timeout=10)
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise
                await asyncio.sleep(0.01)
            else:
                return got


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_path_that_is_no_text_ends_no_service(transport: Transport) -> None:
    """Three such calls, one after the other: at the same port, other callers are answered after each."""
    async with serving(transport) as server:
        port = server.server.port
        for _ in range(3):
            assert await answers(server) == b"x"
            await send_hostile(server.address)
        assert await answers(server) == b"x"
        assert server.server.port == port
