"""The socket under one client's connection: one write a turn, how long we wait for whom, endings."""

import asyncio
import threading
from typing import Final, cast

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.frames import ProtocolError

UNREAD_BYTES: Final = 256 * 1024
"""Of answers, beside what the kernel takes: a client that lets more wait is not read from until it has read."""
UNREAD_SECONDS: Final = 30.0
"""And for no longer than this."""
CLOSE_SECONDS: Final = 2.0
"""For a client to take what was said last and to close, before it is cut."""


class ConnectionSocket(asyncio.BufferedProtocol):
    """Everything here runs on the event loop, and is changed only by this class and those built on it."""

    __slots__ = (
        "_out",
        "_patience",
        "_plan",
        "_queue",
        "_transport",
        "_unread",
        "_writer",
        "closed",
        "loop",
        "peer",
        "thread",
    )

    def __init__(self, queue: CallQueue) -> None:
        self.loop = queue.loop
        self.thread = threading.get_ident()
        self.peer = ""
        self.closed = False  # what comes is not read any more
        self._queue = queue
        self._plan = queue.plan
        self._transport: asyncio.Transport | None = None
        self._writer: asyncio.Transport | None = None  # None once nothing more is to be said
        self._out: list[bytes] = []  # written at the end of the turn
        self._patience: asyncio.TimerHandle | None = None
        self._unread = False  # the client does not read what is written

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._writer = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self.peer = peer_name(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._writer = None
        self._out.clear()
        self._stop_waiting()

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._unread = True
        self._transport.pause_reading()
        if not self.closed:
            self._wait(UNREAD_SECONDS)

    def resume_writing(self) -> None:
        assert self._transport is not None
        self._unread = False
        if not self.closed:
            self._stop_waiting()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._queue.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._queue.buffer[:nbytes]))
        transport = self._transport
        if transport is not None and not transport.is_closing() and self._queue.holds_up(self):
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Reads bytes that the client has sent, cut anywhere."""
        raise NotImplementedError

    def read_on(self) -> None:
        """Reads again, because the next turn has begun."""
        if not self._unread and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _wait(self, seconds: float) -> None:
        """Cuts the connection after so long."""
        self._stop_waiting()
        self._patience = self.loop.call_later(seconds, self.abort)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _write(self, data: bytes) -> None:
        out = self._out
        if not out:
            self.loop.call_soon(self._flush)
        out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        writer = self._writer
        if out and writer is not None and not writer.is_closing():
            writer.write(out[0] if len(out) == 1 else b"".join(out))

    # --- endings ------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Cuts the connection; what is open on it is gone."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _leave(self) -> None:
        """Everything is answered: says no more, and waits for the client to close.

        To close at once could cost the client the last answers, because whatever it has sent meanwhile and nobody reads
        makes the kernel reset the connection.
        """
        self._flush()
        self.closed = True
        writer, self._writer = self._writer, None
        if writer is not None and not writer.is_closing():
            try:
                writer.write_eof()
            except OSError:  # it has gone, which nobody has heard of yet
                self.abort()
            else:
                self._wait(CLOSE_SECONDS)

    def _fail(self, last_stream: int, error: ProtocolError) -> None:
        """The client has broken the protocol: says so, and closes."""
        self._write(http2.goaway(last_stream, error.code, str(error).encode()[:200]))
        self._flush()
        self.closed = True
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            self._wait(CLOSE_SECONDS)


def peer_name(transport: asyncio.BaseTransport) -> str:
    """Who is at the other end, as gRPC writes it."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return "unix:"
    host, port = name[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
