"""A connection to a worker without a socket, and the worker at its other end that says whatever a test wants."""

import asyncio
from collections.abc import Callable
from typing import cast

import hpack
import pytest
from abfleet_router.fleet.http2_client import ClientConnection
from abfleet_router.fleet.http2_client_stream import ClientStream, OnEnd, RpcFailed
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame
from hypothesis import strategies as st

from tests.support.frames import Frame, FrameReader

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


class PeerCall:
    """A call on the connection of a test; `done` is how it ended."""

    def __init__(self, start: Callable[[OnEnd], ClientStream]) -> None:
        self.done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.stream = start(self._on_end)

    @property
    def stream_id(self) -> int:
        return self.stream.stream

    def _on_end(self, outcome: bytes | RpcFailed) -> None:
        if isinstance(outcome, RpcFailed):
            self.done.set_exception(outcome)
            self.done.exception()  # not every test asks
        else:
            self.done.set_result(outcome)


class Peer:
    """A connection, and a worker at its other end that says whatever the test wants."""

    def __init__(self, greeting: bytes = frame(http2.SETTINGS, 0, 0)) -> None:
        self.wire = Wire()
        self.lost = 0
        self.left = 0
        self.connection = ClientConnection("worker:1", self.on_closed, on_leaving=self.on_leaving)
        self.connection.connection_made(cast(asyncio.Transport, self.wire))
        if greeting:
            self.say(greeting)
        self.wire.frames()

    def on_closed(self, connection: ClientConnection) -> None:
        self.lost += 1

    def on_leaving(self, connection: ClientConnection) -> None:
        self.left += 1

    def call(self, message: bytes = b"hello", timeout_seconds: float | None = 0.5) -> PeerCall:
        """Starts a call of `/s/m` on the connection."""
        return PeerCall(lambda on_end: self.connection.call("/s/m", message, timeout_seconds, on_end))

    def watch(self, on_message: Callable[[bytes], None]) -> PeerCall:
        """Starts a call of `/h/Watch` whose answer is a stream of messages."""
        return PeerCall(lambda on_end: self.connection.call("/h/Watch", b"", None, on_end, on_message))

    def give_up(self, call: PeerCall) -> None:
        """Cancels a call."""
        self.connection.cancel(call.stream)

    def say(self, *frames: bytes) -> None:
        """The connection receives these frames from the worker."""
        self.connection.data_received(b"".join(frames))

    def headers(self, stream: int, fields: list[tuple[str, str]], *, end: bool = False) -> bytes:
        """A HEADERS frame, coded by a library of others."""
        encoder = hpack.Encoder()
        encoder.header_table_size = 0
        return frame(
            http2.HEADERS, http2.END_HEADERS | (http2.END_STREAM if end else 0), stream, encoder.encode(fields)
        )

    def answer(self, stream: int, message: bytes, status: int = 0, text: str = "") -> None:
        """The worker sends headers, a message and trailers with this status."""
        self.say(
            self.headers(stream, OK_HEADERS),
            frame(http2.DATA, 0, stream, http2.MESSAGE_PREFIX.pack(0, len(message)) + message),
            self.headers(stream, [("grpc-status", str(status)), ("grpc-message", text)], end=True),
        )


async def failure(stream: PeerCall) -> RpcFailed:
    """How a call ended that did not end well."""
    async with asyncio.timeout(10):
        with pytest.raises(RpcFailed) as caught:
            await stream.done
    return caught.value
