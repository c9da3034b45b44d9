"""What goes out on a connection to a worker: calls, as the worker's limits allow.

What comes in is the business of http2_client_reader.py.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.control_frames import EndedStreams
from abfleet_transport.http2.flow_control import FlowControl

from abfleet_router.fleet.http2_client_stream import ClientStream

WATCHING: Final = 2
"""Streams that a worker must allow so that one can be a health watch, which never ends."""


class WorkerSocket:
    """What is written to a worker goes out at once; nothing does before it is open, or once it has ended."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None

    @property
    def is_open(self) -> bool:
        """Whether something can be written."""
        return self._transport is not None

    @property
    def unread_bytes(self) -> int:
        """Of what was written, those that the worker has not read, as far as is known here."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def open(self, transport: asyncio.Transport) -> None:
        """It is connected."""
        self._transport = transport

    def write(self, data: bytes) -> None:
        """Writes, as long as it is open."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Closes when what was written is out."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Ends it at once."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()


class CallSender:
    """The calls of one connection: those that wait for a stream, and those that have one.

    Attributes:
        open: By number, the streams that have not ended; changed by `take_out` and here.
        most_streams: How many of them the worker allows.
        next_stream: The number of the next.
        ended: Those that we have ended and the worker has not.
        takes_calls: Whether new ones may begin; changed by the connection.
        owed: Whether a call was made, and nothing has come since; changed by the connection, too.
        owes_table_size: Whether the worker takes a smaller table, and has not been told that we know: the next header
            block says so, though our encoder uses none (RFC 9113, 4.3.1). Set by who takes its settings.
    """

    def __init__(self, write: Callable[[bytes], None], on_used_up: Callable[[], None]) -> None:
        """`on_used_up` hears when the numbers of streams are."""
        self._write = write
        self._on_used_up = on_used_up
        self.flow = FlowControl(write)
        self.open: dict[int, ClientStream] = {}
        self._pending: deque[tuple[ClientStream, bytes, bytes]] = deque()  # headers and body; for want of a stream
        self.most_streams = http2.MAX_WINDOW
        self.next_stream = 1
        self.ended = EndedStreams()
        self.takes_calls = False
        self.owed = False
        self.owes_table_size = False

    def call(self, stream: ClientStream, head: bytes, message: bytes) -> None:
        """Begins a call, or has it wait while the worker allows no further stream."""
        body = http2.MESSAGE_PREFIX.pack(0, len(message)) + message
        if len(self.open) < self.most_streams and not self._pending:
            self._open(stream, head, body)
        else:
            self._pending.append((stream, head, body))

    def _open(self, stream: ClientStream, head: bytes, body: bytes) -> None:
        number, flow, size = self.next_stream, self.flow, len(body)
        if self.owes_table_size:
            self.owes_table_size = False
            head = http2.NO_TABLE + head
        stream.stream, stream.window = number, flow.stream_window
        self.next_stream += 2
        self.open[number] = stream
        self.owed = True
        headers = http2.frame_header(http2.HEADERS, http2.END_HEADERS, number, len(head))
        if size <= flow.window and size <= stream.window and size <= flow.max_frame:
            flow.window -= size
            data = http2.frame_header(http2.DATA, http2.END_STREAM, number, size)
            self._write(b"".join((headers, head, data, body)))
        else:
            self._write(headers + head)
            buffer = flow.buffer_of(stream)
            buffer.add(body)
            buffer.end()
            flow.send(buffer)
        if self.next_stream > http2.MAX_WINDOW:
            self._on_used_up()

    def open_pending(self) -> None:
        """A stream has ended, or the worker allows more of them."""
        while self._pending and self.takes_calls and len(self.open) < self.most_streams:
            self._open(*self._pending.popleft())

    def take_pending(self) -> list[ClientStream]:
        """Takes out those that wait for a stream."""
        pending = [stream for stream, _, _ in self._pending]
        self._pending.clear()
        return pending

    def take_open(self, after: int = 0) -> list[ClientStream]:
        """Takes out those that are open and have a higher number; nothing more of them is sent."""
        taken = [self.open.pop(number) for number in list(self.open) if number > after]
        for stream in taken:
            self.flow.drop(stream.stream)
        return taken

    def give_up(self, stream: ClientStream) -> None:
        """Nobody waits for this call any more."""
        if not stream.stream:
            self._pending = deque(entry for entry in self._pending if entry[0] is not stream)
        elif stream.stream in self.open:
            self.reset(stream, http2.CANCEL)

    def reset(self, stream: ClientStream, code: int) -> None:
        """Ends an open stream from our side; what was on its way is dropped."""
        del self.open[stream.stream]
        self.flow.drop(stream.stream)
        self.ended.add(stream.stream)
        self._write(http2.reset(stream.stream, code))

    def answered(self, stream: ClientStream) -> None:
        """The worker has ended a stream. Where its request was not all sent, the worker wants no more of it."""
        number = stream.stream
        del self.open[number]
        if self.flow.unsent and self.flow.drop(number):
            self._write(http2.reset(number, http2.NO_ERROR))

    @property
    def awaits_answer(self) -> bool:
        """Whether the worker owes something."""
        return self.owed or any(stream.is_unary for stream in self.open.values())
