"""Everything that is not delivered as calls, served by grpcio behind our own server. Knows streams of messages.

Health, reflection and whatever else a server has: written for grpc.aio, which serves it on a unix socket that nobody
else can reach. A stream of a client becomes one call over a channel to it, whatever its kind.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog

from abfleet_transport import http2
from abfleet_transport.call import Code
from abfleet_transport.header_block import Head
from abfleet_transport.http2_call import PREFIX_BYTES, headers_frame, ok_trailers, trailers_frame
from abfleet_transport.plan import OTHER_MESSAGE_BYTES, ServerPlan, too_large

if TYPE_CHECKING:
    from abfleet_transport.http2_connection import ServerConnection

log = structlog.get_logger("abfleet.transport")

MOST_STREAMS: Final = 1000
"""At a time, on all connections: one for each client that watches health, and some."""
LONGEST_SOCKET_PATH: Final = 103
"""Bytes; macOS takes 103, Linux 107."""
FAILED: Final = "the server behind failed"
NO_ROOM: Final = "overloaded: too many bytes of messages that are not whole; try again later"


class OtherStream:
    """One stream beside the calls. Changed only on the event loop."""

    def __init__(self, connection: "ServerConnection", stream: int, head: Head, window: int) -> None:
        self.stream = stream
        self.head = head
        self.window = window
        self.task: asyncio.Task[None] | None = None
        self._connection = connection
        self._buffer = bytearray()
        self._messages: asyncio.Queue[tuple[bytes, int] | None] = asyncio.Queue()
        self._granted = 0  # bytes beyond the usual window, for the message that is coming
        self._held = 0  # bytes in the buffer
        self._ended = False
        self._headers_sent = False

    # --- from the client ----------------------------------------------------------------------------------------------

    @property
    def owes_answer(self) -> bool:
        """Whether nothing has been said yet: one that goes on and on, such as a watch, may be cut at any time."""
        return not self._headers_sent

    def take(self, data: bytes, *, ended: bool) -> None:
        """Bytes of the request's messages. Its window is given back when a message is passed on, no sooner."""
        if self._ended:
            return
        buffer = self._buffer
        buffer += data
        while len(buffer) >= PREFIX_BYTES:
            compressed, length = http2.MESSAGE_PREFIX.unpack_from(buffer)
            whole = PREFIX_BYTES + length
            if compressed:
                self._refuse(Code.UNIMPLEMENTED, "message: compressed; of this method it may not be")
                return
            if length > OTHER_MESSAGE_BYTES:
                self._refuse(Code.RESOURCE_EXHAUSTED, too_large(length, OTHER_MESSAGE_BYTES))
                return
            if len(buffer) < whole:
                if whole > http2.DEFAULT_WINDOW and not self._granted:
                    self._granted = whole - http2.DEFAULT_WINDOW
                    self._connection.write_frames(http2.window_update(self.stream, self._granted))
                break
            self._messages.put_nowait((bytes(buffer[PREFIX_BYTES:whole]), whole - self._granted))
            self._granted = 0
            del buffer[:whole]
        if not self._hold_buffer():
            self._refuse(Code.UNAVAILABLE, NO_ROOM)
        elif ended:
            self._ended = True
            self._messages.put_nowait(None)

    def _hold_buffer(self) -> bool:
        """Accounts for what is not whole; False when that is too much."""
        more, self._held = len(self._buffer) - self._held, len(self._buffer)
        return self._connection.hold(more)

    def gone(self) -> None:
        """The client has reset the stream or left."""
        self._buffer.clear()
        self._hold_buffer()
        if self.task is not None:
            self.task.cancel()

    async def _requests(self) -> AsyncIterator[bytes]:
        while (got := await self._messages.get()) is not None:
            yield got[0]
            if not self._ended:
                self._connection.write_frames(http2.window_update(self.stream, got[1]))

    # --- to the client ------------------------------------------------------------------------------------------------

    async def carry(self, channel: grpc.aio.Channel) -> None:
        """Makes the call and passes on what comes back."""
        metadata = [pair for pair in self.head.metadata if pair[0] != "user-agent"]
        try:
            call = channel.stream_stream(self.head.path, None, None)(
                self._requests(), timeout=self.head.timeout_seconds, metadata=tuple(metadata)
            )
            async for message in call:
                await self._send(message)
            code, details = await call.code(), await call.details()
            trailing: Sequence[tuple[str, str | bytes]] = pairs(await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            code, details, trailing = error.code(), error.details() or "", pairs(error.trailing_metadata())
        except Exception:
            log.warning("a stream beside the calls failed", path=self.head.path[:64], exc_info=True)
            code, details, trailing = grpc.StatusCode.INTERNAL, FAILED, ()
        self._end(code, details or "", trailing)

    async def _send(self, message: bytes) -> None:
        connection = self._connection
        self._send_headers()
        outgoing = connection.outgoing(self)
        outgoing.add(http2.MESSAGE_PREFIX.pack(0, len(message)) + message)
        connection.send_outgoing()
        await outgoing.drained()

    def _send_headers(self) -> None:
        if not self._headers_sent:
            self._headers_sent = True
            self._connection.write_frames(headers_frame(self.stream))

    def _end(self, code: grpc.StatusCode, details: str, trailing: Sequence[tuple[str, str | bytes]]) -> None:
        number = code.value[0]
        if number == 0 and not trailing:
            self._send_headers()
            end = ok_trailers(self.stream)
        else:
            more = b"".join(
                b"\x00" + http2.literal(key) + http2.literal(value)
                for key, value in trailing
                if isinstance(value, str) and value.isascii()
            )
            end = trailers_frame(self.stream, number, details, more, headers_sent=self._headers_sent)
        if not self._ended:
            end += http2.frame(http2.RST_STREAM, 0, self.stream, http2.UINT32.pack(http2.NO_ERROR))
        self._connection.write_frames(end)
        self._connection.end(self)

    def _refuse(self, code: Code, text: str) -> None:
        self._ended = True
        self.gone()
        reset = http2.frame(http2.RST_STREAM, 0, self.stream, http2.UINT32.pack(http2.NO_ERROR))
        frames = trailers_frame(self.stream, code, text, headers_sent=self._headers_sent)
        self._connection.write_frames(frames + reset)
        self._connection.end(self)


class Behind:
    """The grpcio server, the channel to it and the streams over that."""

    def __init__(self, plan: ServerPlan) -> None:
        self._plan = plan
        self._server: grpc.aio.Server | None = None
        self._channel: grpc.aio.Channel | None = None
        self._folder: Path | None = None
        self._streams: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Serves on a socket in a folder of its own."""
        path = make_socket_path()
        self._folder = path.parent
        self._server = grpc.aio.server(interceptors=self._plan.interceptors)
        self._plan.add_services(self._server)
        self._server.add_insecure_port(f"unix:{path}")
        await self._server.start()
        self._channel = grpc.aio.insecure_channel(f"unix:{path}", [("grpc.use_local_subchannel_pool", 1)])

    def open(self, connection: "ServerConnection", stream: int, head: Head, window: int) -> OtherStream | None:
        """Begins to carry a stream; None when there are too many."""
        if self._channel is None or len(self._streams) >= MOST_STREAMS:
            return None
        other = OtherStream(connection, stream, head, window)
        other.task = connection.loop.create_task(other.carry(self._channel), name="beside the calls")
        self._streams.add(other.task)
        other.task.add_done_callback(self._streams.discard)
        return other

    async def close(self) -> None:
        """Cuts what is open and leaves no file."""
        for task in list(self._streams):
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close(None)
        if self._server is not None:
            await self._server.stop(0)
        if self._folder is not None:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self._folder)


def pairs(metadata: Iterable[Any] | None) -> Sequence[tuple[str, str | bytes]]:
    """Metadata as grpcio gives it, in either of its types."""
    return [(key, value) for key, value in metadata or ()]


def make_socket_path() -> Path:
    """A path for the server behind, in a new folder of its own: in the temporary folder, or in /tmp where that is too
    long for a socket."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > LONGEST_SOCKET_PATH - len("/abfleet-12345678/grpc.sock"):
        folder = "/tmp"  # noqa: S108  # mkdtemp makes a folder that nobody else can enter
    return Path(tempfile.mkdtemp(prefix="abfleet-", dir=folder)) / "grpc.sock"
