"""Everything that is not delivered as calls, served by grpcio as the back end of our server.

Health, reflection and whatever else a server has: written for grpc.aio, which serves it on a unix socket that nobody
else can reach. A stream of a client becomes one call over a channel to it, whatever its kind.
"""

import asyncio
import base64
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import structlog

from abfleet_transport.call import Code, Metadata
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.call import PREFIX_BYTES, BadMessage, inflated, ok_trailers, trailers_frame
from abfleet_transport.http2.flow_control import SendBuffer
from abfleet_transport.http2.header_block import Head
from abfleet_transport.plan import OTHER_MESSAGE_BYTES, ServerInterceptor, ServerPlan, too_large

log = structlog.get_logger("abfleet.transport")

MOST_STREAMS: Final = 1000
"""At a time, on all connections: one for each client that watches health, and some."""
LONGEST_SOCKET_PATH: Final = 103
"""Bytes; macOS takes 103, Linux 107."""
ABANDONED_SECONDS: Final = 60.0
"""Age from which a socket without a listener counts as abandoned."""
PROBE_SECONDS: Final = 0.1
"""For a connection to such a socket."""
PATIENCE_SECONDS: Final = 1.0
"""For the client of an unknown method to end its request, before it is refused."""
QUEUED_BYTES: Final = 128
"""What a message that waits costs in addition to its own bytes."""
LASTING: Final = frozenset(
    (
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    )
)
"""Methods whose streams go on for as long as their client likes, so a drain does not wait for them."""
FAILED: Final = "internal error: the grpcio back end failed"
CROWDED: Final = "overloaded: too many streams of other methods are open; try again later"
NO_SUCH_METHOD: Final = "Method not found!"
"""As grpcio says it."""
NO_ROOM: Final = "overloaded: too many bytes of incomplete messages are held; try again later"


class StreamConnection(Protocol):
    """The client's connection that a forwarded stream belongs to."""

    loop: asyncio.AbstractEventLoop

    @property
    def hold(self) -> Callable[[int], bool]:
        """Counts so many more bytes of unfinished messages, or fewer; False when that is too much."""

    def give_window(self, stream: int, count: int) -> None:
        """Lets the client send so many more bytes of the stream."""

    def begin(self, forwarded: "ForwardedStream") -> None:
        """Sends the response headers."""

    def send(self, forwarded: "ForwardedStream", message: bytes) -> SendBuffer:
        """Sends a message; the buffer says when flow control has let all of it out."""

    def end(self, forwarded: "ForwardedStream", trailers: bytes, *, whole: bool) -> None:
        """Sends the trailers; `whole`: the client has sent its whole request."""


class ForwardedStream:
    """One stream that goes to the back end. Changed only on the event loop."""

    def __init__(self, connection: StreamConnection, stream: int, head: Head, window: int) -> None:
        self.stream = stream
        self.head = head
        self.window = window
        self.ended = False
        """The client has sent all of it."""
        self.received = 0
        """Bytes of the request, counted where it says how many there are."""
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._buffer = bytearray()
        self._messages: asyncio.Queue[tuple[bytes, int] | None] = asyncio.Queue()
        self._granted = 0  # bytes beyond the usual window, for the message that is coming
        self._held = 0  # bytes of messages that are here
        self._headers_sent = False

    # --- from the client ----------------------------------------------------------------------------------------------

    @property
    def unfinished(self) -> bool:
        """Whether it waits for its client, and has said nothing to it."""
        return not self.ended and not self._headers_sent

    @property
    def owes_answer(self) -> bool:
        """Whether it may not be cut, because its end tells the client something."""
        return self.head.path not in LASTING

    def take(self, data: bytes, *, ended: bool) -> None:
        """Bytes of the request's messages. Its window is given back when a message is passed on, no sooner."""
        if self.ended:
            return
        buffer = self._buffer
        buffer += data
        has_room = self._hold(len(data))
        try:
            while len(buffer) >= PREFIX_BYTES:
                compressed, length = http2.MESSAGE_PREFIX.unpack_from(buffer)
                whole = PREFIX_BYTES + length
                if length > OTHER_MESSAGE_BYTES:
                    raise BadMessage(Code.RESOURCE_EXHAUSTED, too_large(length, OTHER_MESSAGE_BYTES))
                if len(buffer) < whole:
                    if whole > http2.DEFAULT_WINDOW and not self._granted:
                        self._granted = whole - http2.DEFAULT_WINDOW
                        self._connection.give_window(self.stream, self._granted)
                    break
                message = bytes(buffer[PREFIX_BYTES:whole])
                del buffer[:whole]
                if compressed:
                    message = inflated(message, self.head.encoding, OTHER_MESSAGE_BYTES)
                has_room = self._hold(len(message) + QUEUED_BYTES - whole)
                self._messages.put_nowait((message, whole - self._granted))
                self._granted = 0
            if not has_room:
                raise BadMessage(Code.UNAVAILABLE, NO_ROOM)
        except BadMessage as error:
            self.ended = ended
            self.fail(error.code, str(error))
            return
        if ended:
            self.ended = True
            self._messages.put_nowait(None)

    def _hold(self, more: int) -> bool:
        """Counts so many more bytes, or fewer; False when that is too much."""
        more = max(more, -self._held)  # `_requests` may take a message after `gone`
        self._held += more
        return self._connection.hold(more)

    def gone(self) -> None:
        """The client has reset the stream or left."""
        self._buffer.clear()
        self._hold(-self._held)
        if self.task is not None:
            self.task.cancel()

    async def _requests(self) -> AsyncIterator[bytes]:
        while (got := await self._messages.get()) is not None:
            message, window = got
            self._hold(-len(message) - QUEUED_BYTES)
            yield message
            if not self.ended:
                self._connection.give_window(self.stream, window)

    # --- to the client ------------------------------------------------------------------------------------------------

    async def carry(self, channel: grpc.aio.Channel) -> None:
        """Makes the call and passes on what comes back."""
        call = None
        try:
            call = channel.stream_stream(self.head.path, None, None)(
                self._requests(), timeout=self.head.timeout_seconds, metadata=tuple(passed_on(self.head.metadata))
            )
            async for message in call:
                self._send_headers()
                await self._connection.send(self, message).drained()
            code, details = await call.code(), await call.details()
            trailing: Sequence[tuple[str, str | bytes]] = pairs(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            code, details, trailing = error.code(), error.details() or "", pairs(error.trailing_metadata())
        except Exception:
            log.warning("a forwarded stream failed", path=self.head.path[:64], exc_info=True)
            code, details, trailing = grpc.StatusCode.INTERNAL, FAILED, ()
        finally:
            if call is not None:
                call.cancel()  # where it has ended that does nothing
        self._end(code, details or "", trailing)

    def _send_headers(self) -> None:
        if not self._headers_sent:
            self._headers_sent = True
            self._connection.begin(self)

    def _end(self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, str | bytes]]) -> None:
        number = code.value[0]
        if number == 0 and not trailing:
            self._send_headers()
            end = ok_trailers(self.stream)
        else:
            more = b"".join(map(trailer, trailing))
            end = trailers_frame(self.stream, number, details, more, headers_sent=self._headers_sent)
        self._hold(-self._held)
        self._messages.put_nowait(None)  # nobody waits for more of them
        self._connection.end(self, end, whole=self.ended)

    def fail(self, code: Code, text: str) -> None:
        """Ends the stream with an error of ours."""
        self.gone()
        frames = trailers_frame(self.stream, code, text, headers_sent=self._headers_sent)
        self._connection.end(self, frames, whole=self.ended)


class _WaitsForHalfClose(ServerInterceptor):
    """Has unknown methods refused when their client has said all, or for PATIENCE_SECONDS, no sooner.

    A message that grpcio's client sends to a stream which has just been refused fails with INTERNAL, and the refusal is
    lost; who asks for a service by its newer name needs to hear UNIMPLEMENTED.
    """

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        handler = await continuation(handler_call_details)
        return grpc.stream_stream_rpc_method_handler(_refuse) if handler is None else handler


async def _refuse(requests: AsyncIterator[bytes], context: "grpc.aio.ServicerContext[bytes, bytes]") -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            async for _ in requests:
                pass
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, NO_SUCH_METHOD)


class GrpcioBackend:
    """The grpcio server, the channel to it and the streams over that."""

    def __init__(self, plan: ServerPlan) -> None:
        self._plan = plan
        self._server: grpc.aio.Server | None = None
        self._channel: grpc.aio.Channel | None = None
        self._folder: Path | None = None
        self._streams: dict[ForwardedStream, StreamConnection] = {}  # oldest first

    async def start(self) -> None:
        """Serves on a socket in a folder of its own."""
        path = make_socket_path()
        self._folder = path.parent
        await asyncio.to_thread(remove_abandoned, path.parent.parent)
        library = self._plan.machine.grpcio
        self._server = library.server(interceptors=(_WaitsForHalfClose(), *self._plan.interceptors))
        self._plan.add_services(self._server)
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()
        self._channel = library.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)])

    def open(self, connection: StreamConnection, stream: int, head: Head, window: int) -> ForwardedStream | None:
        """Begins to carry a stream; None when there are too many."""
        if self._channel is None or not self._has_room(connection):
            return None
        forwarded = ForwardedStream(connection, stream, head, window)
        forwarded.task = connection.loop.create_task(forwarded.carry(self._channel), name="forward stream")
        self._streams[forwarded] = connection
        forwarded.task.add_done_callback(lambda task: self._streams.pop(forwarded, None))
        return forwarded

    def _has_room(self, asking: StreamConnection) -> bool:
        """Where all are taken the connection that has most gives up its oldest, or nobody else could ask for health."""
        if len(self._streams) < MOST_STREAMS:
            return True
        (greediest, most), *_ = Counter(self._streams.values()).most_common(1)
        if greediest is asking or most == 1:
            return False
        oldest = next(forwarded for forwarded, connection in self._streams.items() if connection is greediest)
        del self._streams[oldest]
        oldest.fail(Code.UNAVAILABLE, CROWDED)
        return True

    async def close(self) -> None:
        """Cuts what is open and leaves no file."""
        tasks = [forwarded.task for forwarded in self._streams if forwarded.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close(None)
        if self._server is not None:
            await self._server.stop(0)
        if self._folder is not None:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._folder)


def passed_on(metadata: Metadata) -> Iterable[tuple[str, str | bytes]]:
    """The metadata of a request that the back end gets: all but gRPC's own, which concerns one connection, and what a
    client of gRPC may not send, which proxies add all the same."""
    for key, value in metadata:
        if key == "user-agent" or key.startswith("grpc-") or isinstance(value, str) is key.endswith("-bin"):
            continue
        if isinstance(value, bytes) or (value.isascii() and value.isprintable()):
            yield key, value


def trailer(pair: tuple[str, str | bytes]) -> bytes:
    """A field of trailers, encoded; bytes as base64 without padding."""
    key, value = pair
    text = value if isinstance(value, str) else base64.b64encode(value).rstrip(b"=").decode("ascii")
    return b"\x00" + http2.literal(key) + http2.literal(text)


def pairs(metadata: Iterable[Any] | None) -> Sequence[tuple[str, str | bytes]]:
    """Metadata as grpcio gives it, in either of its types."""
    return [(key, value) for key, value in metadata or ()]


def make_socket_path() -> Path:
    """A path for the back end, in a new folder of its own: in the temporary folder, or in /tmp where that is too
    long for a socket."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > LONGEST_SOCKET_PATH - len("/abfleet-12345678/grpc.sock"):
        folder = "/tmp"  # noqa: S108  # mkdtemp makes a folder that nobody else can enter
    return Path(tempfile.mkdtemp(prefix="abfleet-", dir=folder)) / "grpc.sock"


def remove_abandoned(folder: Path) -> None:
    """Takes away what servers of this user that were killed have left there: sockets that nobody listens on.

    Not before a minute: between its two steps a socket is there without a listener.
    """
    for path in folder.glob("abfleet-*/grpc.sock"):
        try:
            status = path.stat()
            if status.st_uid != os.getuid() or time.time() - status.st_mtime < ABANDONED_SECONDS:
                continue
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(PROBE_SECONDS)
                probe.connect(str(path))
        except ConnectionRefusedError:
            shutil.rmtree(path.parent, ignore_errors=True)
        except OSError:  # it has gone meanwhile, or somebody is there and busy
            continue
