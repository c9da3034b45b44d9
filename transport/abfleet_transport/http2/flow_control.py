"""What one connection may send, for either side: its windows, and what waits for them."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Protocol

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import ProtocolError


class FlowControlled(Protocol):
    """A stream with a window of its own."""

    stream: int
    window: int
    """Bytes that it may still send."""


class SendBuffer:
    """What one stream still has to send while flow control holds it up.

    Changed only by the connection it goes out on, and by whoever adds to it.
    """

    def __init__(self, owner: FlowControlled) -> None:
        self.owner = owner
        self._parts: deque[memoryview] = deque()
        self._trailers: bytes | None = None  # empty: the last DATA ends the stream
        self._drained: asyncio.Future[None] | None = None

    @property
    def finished(self) -> bool:
        """Whether everything that was added is sent, and the end with it where there is one."""
        return not self._parts and not self._trailers

    def add(self, data: bytes) -> None:
        """Adds bytes of a message, which go out as DATA; nothing is sent before `send`."""
        self._parts.append(memoryview(data))

    def end(self, trailers: bytes = b"") -> None:
        """The frame that ends the stream, after what was added; without one the last DATA does."""
        self._trailers = trailers

    def send(self, write: Callable[[bytes], None], window: int, max_frame: int) -> int:
        """Writes what the windows allow, and gives the bytes that the connection's window has lost."""
        sent, owner = 0, self.owner
        while self._parts and (room := min(window - sent, owner.window, max_frame)) > 0:
            part = self._parts[0]
            if len(part) <= room:
                self._parts.popleft()
            else:
                self._parts[0] = part[room:]
                part = part[:room]
            flags = http2.END_STREAM if self._trailers == b"" and not self._parts else 0
            write(http2.frame(http2.DATA, flags, owner.stream, bytes(part)))
            sent += len(part)
            owner.window -= len(part)
        if not self._parts:
            if self._trailers:
                write(self._trailers)
                self._trailers = None
            self._notify()
        return sent

    def drained(self) -> "asyncio.Future[None]":
        """Done when nothing waits any more, sent or dropped."""
        drained = asyncio.get_running_loop().create_future()
        if self._parts:
            self._drained = drained
        else:
            drained.set_result(None)
        return drained

    def dropped(self) -> None:
        """Drops what is left, because the stream has ended; who waits in `drained` goes on."""
        self._parts.clear()
        self._notify()

    def _notify(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)


def hear_nothing(owner: FlowControlled) -> None:
    """Where nobody wants to know that all of a stream's buffer is out."""


class FlowControl:
    """The windows that the peer gives a connection, and what waits for them; changed only by the connection's parts.

    Attributes:
        window: Bytes that the connection may still send.
        stream_window: Bytes that a new stream may send.
        max_frame: Bytes of a payload that the peer takes.
        unsent: By stream, all that flow control holds up.
        ready: Those of them that wait for the connection's window and not for their own, in their order: what a peer
            sends about a window must not make us visit all of them. Empty as long as there is window.
    """

    __slots__ = ("_on_sent", "_write", "max_frame", "ready", "stream_window", "unsent", "window")

    def __init__(
        self, write: Callable[[bytes], None], on_sent: Callable[[FlowControlled], None] = hear_nothing
    ) -> None:
        """`on_sent` hears when all of a stream's buffer is out."""
        self._write = write
        self._on_sent = on_sent
        self.window = http2.DEFAULT_WINDOW
        self.stream_window = http2.DEFAULT_WINDOW
        self.max_frame = http2.DEFAULT_MAX_FRAME
        self.unsent: dict[int, SendBuffer] = {}
        self.ready: OrderedDict[int, SendBuffer] = OrderedDict()

    def buffer_of(self, owner: FlowControlled) -> SendBuffer:
        """What waits of this stream, to be added to; a new one where nothing does."""
        buffer = self.unsent.get(owner.stream)
        if buffer is None:
            buffer = self.unsent[owner.stream] = SendBuffer(owner)
        return buffer

    def send(self, buffer: SendBuffer) -> None:
        """Sends what the windows allow of one stream."""
        stream = buffer.owner.stream
        self.window -= buffer.send(self._write, self.window, self.max_frame)
        if buffer.finished:
            del self.unsent[stream]
            self.ready.pop(stream, None)
            self._on_sent(buffer.owner)
        elif buffer.owner.window > 0:
            self.ready[stream] = buffer
        else:
            self.ready.pop(stream, None)

    def send_all(self) -> None:
        """Sends what the windows of all streams allow, because they have changed."""
        for buffer in list(self.unsent.values()):
            self.send(buffer)

    def drop(self, stream: int) -> bool:
        """Drops what waits of a stream that has ended; whether there was something."""
        buffer = self.unsent.pop(stream, None)
        if buffer is None:
            return False
        self.ready.pop(stream, None)
        buffer.dropped()
        return True

    def close(self) -> None:
        """The connection has gone: drops what waits, and forgets who would hear of it, which is part of a circle."""
        for stream in list(self.unsent):
            self.drop(stream)
        self._on_sent = hear_nothing

    def widen(self, increment: int) -> None:
        """The peer takes so many more bytes on the connection. Raises ProtocolError.

        Each turn of the loop takes a stream out, or uses up the window.
        """
        if not increment:
            raise ProtocolError("WINDOW_UPDATE: 0 bytes; allowed: 1 to 2^31 - 1")
        self.window += increment
        if self.window > http2.MAX_WINDOW:
            text = f"window of the connection: {self.window} bytes; at most 2^31 - 1 are allowed"
            raise ProtocolError(text, http2.FLOW_CONTROL_ERROR)
        while self.ready and self.window > 0:
            self.send(next(iter(self.ready.values())))

    def change_streams(self, window: int, owners: Iterable[FlowControlled]) -> None:
        """The peer has set the window that streams begin with. Raises ProtocolError.

        That of streams that are open changes too, and may become negative (RFC 9113, 6.9.2).
        """
        more, self.stream_window = window - self.stream_window, window
        for one in owners:
            one.window += more
            if one.window > http2.MAX_WINDOW:
                text = f"window of stream {one.stream}: {one.window} bytes; at most 2^31 - 1 are allowed"
                raise ProtocolError(text, http2.FLOW_CONTROL_ERROR)
