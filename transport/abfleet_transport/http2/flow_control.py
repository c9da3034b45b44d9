"""What one stream still has to send while flow control holds it up."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from abfleet_transport.http2 import frames as http2


class FlowControlled(Protocol):
    """A stream with a window of its own."""

    stream: int
    window: int
    """Bytes that it may still send."""


class SendBuffer:
    """Changed only by the connection it goes out on, and by whoever adds to it."""

    __slots__ = ("_drained", "_parts", "_trailers", "owner")

    def __init__(self, owner: FlowControlled) -> None:
        self.owner = owner
        self._parts: deque[memoryview] = deque()
        self._trailers: bytes | None = None
        self._drained: asyncio.Future[None] | None = None

    @property
    def finished(self) -> bool:
        """Whether everything that was added is sent, and the end with it where there is one."""
        return not self._parts and not self._trailers

    def add(self, data: bytes) -> None:
        """Adds bytes of a message, which go out as DATA; nothing is sent before `send`."""
        self._parts.append(memoryview(data))

    def end(self, trailers: bytes) -> None:
        """The frame that ends the stream, after what was added."""
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
            write(http2.frame(http2.DATA, 0, owner.stream, bytes(part)))
            sent += len(part)
            owner.window -= len(part)
        if not self._parts:
            if self._trailers:
                write(self._trailers)
                self._trailers = b""
            self._notify()
        return sent

    async def drained(self) -> None:
        """Returns when nothing waits any more, sent or dropped."""
        if self._parts:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained

    def dropped(self) -> None:
        """Drops what is left, because the stream has ended; who waits in `drained` goes on."""
        self._parts.clear()
        self._notify()

    def _notify(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
