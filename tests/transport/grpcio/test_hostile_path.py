"""A call whose path is not UTF-8 would end grpc.aio's server: ours does not mind, nor does the native one."""

import asyncio

import grpc
import pytest
from abfleet_transport.call import Call
from abfleet_transport.grpcio import grpcio_server
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame
from abfleet_transport.server import Transport
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.frames import FrameReader
from tests.transport.serving import PATIENCE_SECONDS, TRANSPORTS, Serving, serving, until

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
    frames = FrameReader()
    async with asyncio.timeout(30):
        # HEADERS or RST_STREAM of the call, GOAWAY, or the end of the connection.
        while data := await reader.read(65_536):
            if any(got.stream == 1 or got.kind == http2.GOAWAY for got in list(frames.feed(data))):
                break
    writer.close()


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_path_that_is_no_text_disturbs_nobody(transport: Transport) -> None:
    """Three such calls: one that is under way is answered, so are later ones, and those behind the native transport;
    a method that nobody knows is UNIMPLEMENTED, as before; the server did not begin again."""
    waiting: list[Call] = []
    async with serving(transport, waiting.extend) as server:
        under_way = server.say(b"x")
        await until(lambda: bool(waiting))
        for _ in range(3):
            await send_hostile(server.address)
        health = health_pb2_grpc.HealthStub(server.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)).status
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.say(b"x", method="/test.Echo/Nobody")
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        waiting[0].reply(b"y")
        assert await under_way == b"y"
        assert getattr(server.server, "restarts", 0) == 0


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


async def test_a_server_that_ended_by_itself_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the library's own server, as under a version of it that ours was not tried with, such a call ends it; at the
    same port other callers are answered after each of three."""
    monkeypatch.setattr(grpcio_server, "TRIED_VERSIONS", ())
    async with serving("grpcio") as server:
        port = server.server.port
        for number in range(3):
            assert await answers(server) == b"x"
            await send_hostile(server.address)
            await until(lambda number=number: server.server.restarts > number)  # type: ignore[attr-defined,misc]
        assert await answers(server) == b"x"
        assert server.server.port == port
