"""What goes out on one client's connection: answers, as flow control allows, and the end."""

from collections import deque
from typing import Final

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.allowance import LEAST_DUE, WorkAccount
from abfleet_transport.http2.call import (
    PREFIX_BYTES,
    Http2Call,
    answer_frames,
    headers_frame,
    ok_trailers,
    pushback_trailers,
    trailers_frame,
)
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.control_frames import NOT_KEPT, EndedStreams
from abfleet_transport.http2.flow_control import FlowControl, FlowControlled, SendBuffer
from abfleet_transport.http2.forwarding import ForwardedStream
from abfleet_transport.http2.frames import ProtocolError
from abfleet_transport.http2.socket import ConnectionSocket

DRAIN_PING: Final = b"abfleet!"
"""Payload of the PING that goes out with the first GOAWAY."""
PONG_SECONDS: Final = 1.0
"""A client that has not answered our PING by then will not."""
ANSWER_UNITS: Final = 8
"""Of work without a call that an answered call is worth: windows, pings and settings of an honest client are fewer."""
HELD_UNITS: Final = 64
"""Of an answer that waits for the window of its own stream: a client that gives none has us keep them."""


class StreamHistory:
    """Which streams a client has begun, and which of them are over. Changed by the connection's parts.

    Attributes:
        last: The last that was begun.
        takes_no_more: The GOAWAY that names the last stream has been sent; what comes after it is not read.
        ended: Those that we have ended and the client has not.
    """

    def __init__(self) -> None:
        self.last = 0
        self.takes_no_more = False
        self.ended = EndedStreams()
        self._gaps: deque[range] = deque(maxlen=NOT_KEPT)  # streams that the client has passed over

    def begin(self, stream: int) -> None:
        """The client opens this stream, and so closes those between it and the last one (RFC 9113, 5.1.1)."""
        if stream > self.last + 2:
            self._gaps.append(range(self.last + 1, stream))
        self.last = stream

    def check_begun(self, stream: int) -> None:
        """Raises ProtocolError for a stream that the client has not opened."""
        if not stream & 1 or (stream > self.last and not self.takes_no_more):
            raise ProtocolError(f"frame on stream {stream}, which the client has not opened")

    def on_closed(self, stream: int, *, ended: bool) -> None:
        """DATA or HEADERS on a stream that is not open. Raises ProtocolError, unless the client could not know."""
        self.check_begun(stream)
        if stream in self.ended:
            if ended:
                self.ended.discard(stream)
        elif stream <= self.last:
            if any(stream in gap for gap in self._gaps):
                raise ProtocolError(f"stream {stream}: it is lower than {self.last}, which was opened before")
            raise ProtocolError(f"frame on stream {stream}, which has ended", http2.STREAM_CLOSED)


class Drain:
    """The way out of a connection whose client should go elsewhere.

    Attributes:
        begun: Whether it has been told so; changed only here.
    """

    def __init__(
        self,
        socket: ConnectionSocket,
        flow: FlowControl,
        history: StreamHistory,
        streams: dict[int, Http2Call | ForwardedStream],
    ) -> None:
        self._socket = socket
        self._flow = flow
        self._history = history
        self._streams = streams
        self.begun = False

    def begin(self) -> None:
        """Lets the client know that it should go elsewhere, and closes when all that it sent is answered.

        First without saying which call is the last, because some are on their way; when a PING has come back they are
        here, and the client is told that what it sends from then on was not read (RFC 9113, 6.8).
        """
        if not self.begun and not self._socket.closed:
            self.begun = True
            ping = http2.frame(http2.PING, 0, 0, DRAIN_PING)
            self._socket.write(http2.goaway(http2.MAX_WINDOW, http2.NO_ERROR) + ping)
            self._socket.loop.call_later(PONG_SECONDS, self._take_no_more)

    def on_pong(self, payload: bytes) -> None:
        """A PING of ours is answered."""
        if self.begun and payload == DRAIN_PING:
            self._take_no_more()

    def _take_no_more(self) -> None:
        if not self._history.takes_no_more and not self._socket.closed:
            self._history.takes_no_more = True
            self._socket.write(http2.goaway(self._history.last, http2.NO_ERROR))
            self.leave_if_done()

    def leave_if_done(self) -> None:
        """Closes, once the last GOAWAY is sent and every call up to its last stream is answered."""
        if self._history.takes_no_more and not self._socket.closed and not self._flow.unsent:
            if any(call.owes_answer for call in self._streams.values()):
                return
            self._socket.leave()


class ResponseSender:
    """Answers calls, and what goes out of forwarded streams.

    Attributes:
        hold: Counts so many more bytes of unfinished messages, or fewer; False when that is too much.
        streams: By number, every call that is not answered, from its headers on; changed by the connection's parts.
    """

    def __init__(self, queue: CallQueue, socket: ConnectionSocket, account: WorkAccount) -> None:
        self.loop = queue.loop
        self.thread_id = queue.thread_id
        self.thread = queue.thread_id()
        self.hold = queue.hold
        self._socket = socket
        self._account = account
        self.streams: dict[int, Http2Call | ForwardedStream] = {}
        self.history = StreamHistory()
        self.flow = FlowControl(socket.write, self._on_sent)
        self.drain = Drain(socket, self.flow, self.history, self.streams)
        self._at_once = http2.DEFAULT_MAX_FRAME  # bytes of an answer that may go out in one piece
        self._owes_table_size = False

    @property
    def peer(self) -> str:
        """Who is at the other end."""
        return self._socket.peer

    def answer(self, call: Http2Call, payload: bytes) -> None:
        """Answers a call, if it still waits."""
        stream = call.stream
        if self.streams.pop(stream, None) is None:
            return
        call.owner = None  # which has the call, too: together they would wait for the collector
        flow, account = self.flow, self._account
        size = len(payload) + PREFIX_BYTES
        if size <= flow.window and size <= call.window and size <= self._at_once:
            flow.window -= size
            self._socket.write(answer_frames(stream, payload))
            if account.due > LEAST_DUE:
                account.due -= ANSWER_UNITS
            account.suspect = False
        else:
            if size > call.window:
                call.paid = HELD_UNITS
                if account.charge_later(HELD_UNITS):
                    self.loop.call_soon(self._settle_later)
            self._write_headers(headers_frame(stream))
            buffer = flow.buffer_of(call)
            buffer.add(http2.MESSAGE_PREFIX.pack(0, len(payload)) + payload)
            buffer.end(ok_trailers(stream))
            flow.send(buffer)
        if self.drain.begun:
            self.drain.leave_if_done()

    def refuse(self, call: Http2Call, code: Code, message: str, pushback_ms: int | None) -> None:
        """Answers a call with an error, if it still waits."""
        stream = call.stream
        if self.streams.pop(stream, None) is None:
            return
        call.owner = None
        more = b"" if pushback_ms is None else pushback_trailers(pushback_ms)
        self._write_headers(trailers_frame(stream, code, message, more, headers_sent=False))
        self.let_go(call)
        if not call.ended:
            self._cut_short(stream, http2.NO_ERROR)
        if self.drain.begun:
            self.drain.leave_if_done()

    def refuse_new(self, stream: int, frames: bytes, code: int, *, ended: bool) -> None:
        """Answers a stream that no call comes of; `ended`: the client has sent its whole request."""
        if frames:
            self._write_headers(frames)
        if not ended:
            self._cut_short(stream, code)
        elif not frames:
            self._socket.write(http2.reset(stream, code))

    def _cut_short(self, stream: int, code: int) -> None:
        """A stream is ended whose client goes on: what it sends until it knows is passed over."""
        self.history.ended.add(stream)
        self._socket.write(http2.reset(stream, code))

    def let_go(self, call: Http2Call) -> None:
        """Drops what was kept of an unfinished request."""
        self.unbuffer(call)
        if call.paid:
            self._account.break_promise(call.paid)
            call.paid = 0

    def unbuffer(self, call: Http2Call) -> None:
        """Drops the parts of a request's message."""
        if call.buffer is not None:
            self.hold(-len(call.buffer))
            call.buffer = None

    def _settle_later(self) -> None:
        try:
            if not self._socket.closed:
                self._account.settle()
        except ProtocolError as error:
            self._socket.fail(self.history.last, error)

    def _on_sent(self, owner: FlowControlled) -> None:
        """All of an answer is out that flow control had held up."""
        if type(owner) is Http2Call:
            self._account.credit(ANSWER_UNITS + owner.paid)
        if self.drain.begun:
            self.drain.leave_if_done()

    def on_setting(self, name: int, value: int) -> None:
        """One of the client's settings; flow control knows it already."""
        if name == http2.HEADER_TABLE_SIZE and value < http2.DEFAULT_TABLE:
            self._owes_table_size, self._at_once = True, 0  # the smallest is to be told (RFC 7541, 4.2)
        elif name == http2.MAX_FRAME_SIZE:
            self._at_once = 0 if self._owes_table_size else value

    def _write_headers(self, frames: bytes) -> None:
        """HEADERS and what follows, of everything but an answer that goes out in one piece."""
        if self._owes_table_size:
            self._owes_table_size = False
            self._at_once = self.flow.max_frame
            frames = http2.without_table(frames)
        self._socket.write(frames)

    # --- forwarded streams --------------------------------------------------------------------------------------------

    def begin(self, forwarded: ForwardedStream) -> None:
        """Sends the response headers."""
        self._write_headers(headers_frame(forwarded.stream))

    def send(self, forwarded: ForwardedStream, message: bytes) -> SendBuffer:
        """Sends a message as far as flow control allows; the rest waits in the buffer that is returned."""
        buffer = self.flow.buffer_of(forwarded)
        buffer.add(http2.MESSAGE_PREFIX.pack(0, len(message)) + message)
        self.flow.send(buffer)
        return buffer

    def end(self, forwarded: ForwardedStream, trailers: bytes, *, whole: bool) -> None:
        """Sends the trailers, and drops what waits; `whole`: the client has sent its whole request."""
        if self.streams.pop(forwarded.stream, None) is None:
            return
        self.flow.drop(forwarded.stream)
        self._write_headers(trailers)
        if whole:
            self._account.credit(ANSWER_UNITS)
        else:
            self._cut_short(forwarded.stream, http2.NO_ERROR)
        if self.drain.begun:
            self.drain.leave_if_done()

    def give_window(self, stream: int, count: int) -> None:
        """The client may send so many more bytes of a stream."""
        self._socket.write(http2.window_update(stream, count))
