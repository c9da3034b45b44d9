"""Forwarded streams: what grpcio serves as the back end of our server, seen by a client of that server."""

import asyncio
import gzip
import os
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from abfleet_transport.call import Code
from abfleet_transport.http2 import forwarding
from abfleet_transport.http2.forwarding import LONGEST_SOCKET_PATH, ForwardedStream, make_socket_path
from abfleet_transport.http2.server import Http2Server
from abfleet_transport.plan import OTHER_MESSAGE_BYTES, ServerPlan

from tests.transport.serving import PATIENCE_SECONDS, until

UNARY, WATCH = "/test.Forwarded/Record", "/grpc.health.v1.Health/Watch"
Handler = Callable[[Any, grpc.aio.ServicerContext], Any]


async def echo(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
    """Its own message back, with a trailer of bytes."""
    context.set_trailing_metadata((("x-trailer-bin", b"\x00\xff\x01"), ("x-text", "1")))
    return request


@asynccontextmanager
async def served(unary: Handler = echo, **limits: int) -> AsyncIterator[tuple[Http2Server, grpc.aio.Channel]]:
    """A server whose back end has a method of its own, and a watch that says one thing and then nothing."""

    async def watch(request: bytes, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        yield request
        await asyncio.Event().wait()

    def add_services(server: grpc.aio.Server) -> None:
        for service, name, handler in (
            ("test.Forwarded", "Record", grpc.unary_unary_rpc_method_handler(unary)),
            ("grpc.health.v1.Health", "Watch", grpc.unary_stream_rpc_method_handler(watch)),
        ):
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))

    plan = ServerPlan(address="127.0.0.1:0", methods=("/test.Echo/Say",), add_services=add_services, **limits)  # type: ignore[arg-type]
    server = Http2Server(plan, lambda calls: None, lambda call: None)
    await server.start()
    try:
        async with channel(server) as one:
            yield server, one
    finally:
        await server.close()


def channel(server: Http2Server, *options: tuple[str, Any], **more: Any) -> grpc.aio.Channel:
    """With a connection of its own."""
    own = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1), *options]
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", own, **more)


def held(server: Http2Server) -> int:
    """Bytes of messages that wait in it."""
    assert server._queue is not None
    return server._queue.unfinished_bytes


async def test_an_answer_has_its_trailers() -> None:
    """Those of text and those of bytes."""
    async with served() as (server, one):
        call = one.unary_unary(UNARY)(b"message", timeout=PATIENCE_SECONDS)
        assert await call == b"message"
        assert dict(await call.trailing_metadata()) == {"x-trailer-bin": b"\x00\xff\x01", "x-text": "1"}
        assert held(server) == 0


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_a_compressed_message_is_taken(compression: grpc.Compression) -> None:
    """A channel that compresses does so for every method."""
    async with served() as (server, _), channel(server, compression=compression) as one:
        assert await one.unary_unary(UNARY)(b"x" * 100_000, timeout=PATIENCE_SECONDS) == b"x" * 100_000


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_message_past_the_limit(compressed: bool) -> None:
    """Is refused, before it is all there or unpacked; the limit itself passes."""
    kind = grpc.Compression.Gzip if compressed else grpc.Compression.NoCompression

    async def count(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return b"%d" % len(request)

    async with served(count) as (server, _), channel(server, compression=kind) as one:
        most = b"%d" % OTHER_MESSAGE_BYTES
        assert await one.unary_unary(UNARY)(bytes(OTHER_MESSAGE_BYTES), timeout=PATIENCE_SECONDS) == most
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await one.unary_unary(UNARY)(bytes(OTHER_MESSAGE_BYTES + 1), timeout=PATIENCE_SECONDS)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(OTHER_MESSAGE_BYTES) in (raised.value.details() or "")
        assert held(server) == 0


async def test_headers_of_the_callers_own_connection_stay_there() -> None:
    """What begins with `grpc-` concerns one connection, and could harm another; the rest is passed on."""
    seen: list[tuple[str, Any]] = []

    async def keep_metadata(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        seen.extend(context.invocation_metadata() or ())
        return b""

    more = (("grpc-previous-rpc-attempts", "1"), ("x-text", "1"), ("x-bin", b"\xff"))
    async with served(keep_metadata) as (_, one):
        await one.unary_unary(UNARY)(b"", timeout=PATIENCE_SECONDS, metadata=more)
    assert set(seen) >= set(more[1:])
    assert "grpc-previous-rpc-attempts" not in dict(seen)


async def test_an_answer_under_way_is_not_lost_to_a_drain() -> None:
    """Neither its message nor its end; a watch holds nothing up."""
    begun, free = asyncio.Event(), asyncio.Event()

    async def slow(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        begun.set()
        await free.wait()
        context.set_trailing_metadata((("x-text", "end"),))
        return request

    async with served(slow) as (server, one):
        watch = one.unary_stream(WATCH)(b"w")
        assert await watch.read() == b"w"
        call = one.unary_unary(UNARY)(b"message", timeout=PATIENCE_SECONDS)
        await begun.wait()
        closing = asyncio.create_task(server.close(24 * 3600))
        await asyncio.sleep(0.05)
        assert not closing.done()
        free.set()
        assert await call == b"message"
        assert dict(await call.trailing_metadata()) == {"x-text": "end"}
        await asyncio.wait_for(closing, PATIENCE_SECONDS)


async def test_a_client_that_goes_ends_its_streams() -> None:
    """The back end hears of it, too."""
    ended = asyncio.Event()

    async def endless(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        ended.set()
        return b""

    async with served(endless) as (server, _):
        one = channel(server)
        call = one.unary_unary(UNARY)(b"")
        await until(lambda: bool(server._backend._streams))
        await asyncio.sleep(0.05)
        call.cancel()
        await asyncio.wait_for(ended.wait(), PATIENCE_SECONDS)
        await until(lambda: not server._backend._streams)
        await one.close()


async def test_one_client_cannot_take_all_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all are taken, the one that has most of them gives up its oldest: others still learn of health."""
    monkeypatch.setattr(forwarding, "MOST_STREAMS", 3)
    async with served() as (server, greedy), channel(server) as modest:
        watches = []
        for number in range(3):
            watches.append(greedy.unary_stream(WATCH)(b"%d" % number))
            assert await watches[-1].read() == b"%d" % number
        refused = greedy.unary_stream(WATCH)(b"more")
        assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await modest.unary_unary(UNARY)(b"x", timeout=PATIENCE_SECONDS) == b"x"
        assert await watches[0].code() is grpc.StatusCode.UNAVAILABLE
        assert not any(watch.done() for watch in watches[1:])


class Connection:
    """A connection that counts what is held, and has a limit."""

    def __init__(self, most: int) -> None:
        self.held = 0
        self.ended = b""
        self._most = most

    def hold(self, count: int) -> bool:
        self.held += count
        return self.held <= self._most

    def give_window(self, stream: int, count: int) -> None:
        """The window is of no interest here."""

    def end(self, forwarded: ForwardedStream, trailers: bytes, *, whole: bool) -> None:
        self.ended = trailers


def stream(most: int, encoding: str = "identity") -> tuple[ForwardedStream, Connection]:
    """A forwarded stream without a back end, and its connection."""
    head = forwarding.Head(UNARY, (), None, encoding, 0, 200, None)
    connection = Connection(most)
    return ForwardedStream(connection, 1, head, 65_535), connection  # type: ignore[arg-type]


def test_messages_that_wait_are_held_and_bounded() -> None:
    """Ten thousand empty ones take more than the five bytes each that their client has sent."""
    forwarded, connection = stream(most=forwarding.QUEUED_BYTES * 10)
    forwarded.take(bytes(5) * 9, ended=False)
    assert connection.held == 9 * forwarding.QUEUED_BYTES
    assert not connection.ended
    forwarded.take(bytes(5) * 3, ended=False)
    assert b"overloaded" in connection.ended
    assert connection.held == 0


def test_a_message_that_is_no_gzip_ends_its_stream() -> None:
    """And nothing of it is kept."""
    forwarded, connection = stream(10**6, "gzip")
    packed = gzip.compress(b"abc")
    forwarded.take(b"\x01" + len(packed).to_bytes(4, "big") + packed, ended=False)
    assert not connection.ended
    forwarded.take(b"\x01\x00\x00\x00\x01x", ended=True)
    assert str(int(Code.INTERNAL)).encode() in connection.ended
    assert connection.held == 0


def test_a_socket_has_a_folder_that_nobody_else_enters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the temporary folder, or in /tmp where a path there would be too long for a socket."""
    for folder, inside in ((tmp_path, True), (tmp_path / ("x" * LONGEST_SOCKET_PATH), False)):
        folder.mkdir(exist_ok=True)
        monkeypatch.setattr(forwarding.tempfile, "tempdir", str(folder))
        path = make_socket_path()
        try:
            assert len(os.fsencode(path)) <= LONGEST_SOCKET_PATH
            assert path.is_relative_to(folder) is (inside and len(os.fsencode(folder)) < 75)
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        finally:
            path.parent.rmdir()


async def test_what_a_killed_server_left_goes_with_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else: not a socket that somebody listens on, none that has only just been made, no other folder."""
    with tempfile.TemporaryDirectory(prefix="abandoned-", dir="/tmp") as name:  # a socket's path must be short
        monkeypatch.setattr(forwarding.tempfile, "tempdir", name)
        paths = {kind: make_socket_path() for kind in ("killed", "young", "live")}
        unrelated = Path(tempfile.mkdtemp(prefix="abfleet-", dir=name)) / "file"
        unrelated.touch()
        sockets = {kind: socket.socket(socket.AF_UNIX) for kind in paths}
        for kind, path in paths.items():
            sockets[kind].bind(str(path))
            if kind != "young":
                os.utime(path, (1, 1))
        sockets["live"].listen()
        for kind in ("killed", "young"):
            sockets[kind].close()
        async with served():
            assert not paths["killed"].parent.exists()
            assert paths["young"].exists()
            assert paths["live"].exists()
            assert unrelated.exists()
        sockets["live"].close()
