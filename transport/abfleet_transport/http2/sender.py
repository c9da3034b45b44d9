"""What goes out on one client's connection: answers, as flow control allows, and the end."""

from collections import OrderedDict
from typing import Final

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.allowance import BURST_UNITS
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
from abfleet_transport.http2.flow_control import SendBuffer
from abfleet_transport.http2.forwarding import ForwardedStream
from abfleet_transport.http2.frames import ProtocolError
from abfleet_transport.http2.socket import DUE_UNITS, ConnectionSocket

DRAIN_PING: Final = b"abfleet!"
"""Payload of the PING that goes out with the first GOAWAY."""
PONG_SECONDS: Final = 1.0
"""A client that has not answered our PING by then will not."""
ANSWER_UNITS: Final = 8
"""Of work without a call that an answered call is worth: windows, pings and settings of an honest client are fewer."""
LEAST_DUE: Final = -BURST_UNITS
"""No more is saved up than a connection may spend at once."""
HELD_UNITS: Final = 64
"""Of an answer that waits for the window of its own stream: a client that gives none has us keep them."""


class ResponseSender(ConnectionSocket):
    """`streams` has every call that is not answered, from its headers on; changed only here and by requests."""

    __slots__ = (
        "_at_once",
        "_draining",
        "_last_stream",
        "_max_frame",
        "_owes_table_size",
        "_ready",
        "_stream_window",
        "_takes_no_more",
        "_unsent",
        "_window",
        "streams",
    )

    def __init__(self, queue: CallQueue) -> None:
        super().__init__(queue)
        self.streams: dict[int, Http2Call | ForwardedStream] = {}
        self._last_stream = 0
        self._window = http2.DEFAULT_WINDOW  # of the connection, for what we send
        self._stream_window = http2.DEFAULT_WINDOW
        self._max_frame = http2.DEFAULT_MAX_FRAME
        self._at_once = http2.DEFAULT_MAX_FRAME  # bytes of an answer that may go out in one piece
        self._owes_table_size = False
        self._unsent: dict[int, SendBuffer] = {}  # what flow control holds up
        # Those of them that wait for the connection's window and not for their own, in their order: what a client sends
        # about a window must not make us visit all of them. Empty as long as there is window.
        self._ready: OrderedDict[int, SendBuffer] = OrderedDict()
        self._draining = False
        self._takes_no_more = False  # the GOAWAY that names the last stream has been sent

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""
        return sum(type(call) is Http2Call and call.delivered for call in self.streams.values())

    def answer(self, call: Http2Call, payload: bytes) -> None:
        """Answers a call, if it still waits."""
        stream = call.stream
        if self.streams.pop(stream, None) is None:
            return
        size = len(payload) + PREFIX_BYTES
        if size <= self._window and size <= call.window and size <= self._at_once:
            self._window -= size
            self._write(answer_frames(stream, payload))
            if self._due > LEAST_DUE:
                self._due -= ANSWER_UNITS
            self.suspect = False
        else:
            if size > call.window:
                call.paid = HELD_UNITS
                self._charge_later(HELD_UNITS)
            self._write_headers(headers_frame(stream))
            buffer = self._unsent[stream] = SendBuffer(call)
            buffer.add(http2.MESSAGE_PREFIX.pack(0, len(payload)) + payload)
            buffer.end(ok_trailers(stream))
            self._send(buffer)
        if self._draining:
            self._leave_if_done()

    def refuse(self, call: Http2Call, code: Code, message: str, pushback_ms: int | None) -> None:
        """Answers a call with an error, if it still waits."""
        stream = call.stream
        if self.streams.pop(stream, None) is None:
            return
        more = b"" if pushback_ms is None else pushback_trailers(pushback_ms)
        self._write_headers(trailers_frame(stream, code, message, more, headers_sent=False))
        self._let_go(call)
        if not call.ended:
            self._cut_short(stream)
            self._write(http2.reset(stream, http2.NO_ERROR))
        if self._draining:
            self._leave_if_done()

    def _cut_short(self, stream: int) -> None:
        """A stream is ended whose client goes on; see ControlFrames."""
        raise NotImplementedError

    def _let_go(self, call: Http2Call) -> None:
        """Drops what was kept of an unfinished request."""
        if call.buffer is not None:
            self.hold(-len(call.buffer))
            call.buffer = None

    def hold(self, count: int) -> bool:
        """So many more bytes (or fewer) of messages that wait here; False when that is too much."""
        self._queue.unfinished_bytes += count
        return self._queue.unfinished_bytes <= self._queue.most_unfinished_bytes

    def _charge_later(self, units: int) -> None:
        """As `_charge`, where it is not the client's frame that is being read."""
        if self._due <= DUE_UNITS < self._due + units:
            self.loop.call_soon(self._settle_later)
        self._due += units

    def _settle_later(self) -> None:
        try:
            if not self.closed:
                self._settle()
        except ProtocolError as error:
            self._fail(self._last_stream, error)

    def _write_headers(self, frames: bytes) -> None:
        """HEADERS and what follows, of everything but an answer that goes out in one piece."""
        if self._owes_table_size:
            self._owes_table_size = False
            self._at_once = self._max_frame
            frames = http2.without_table(frames)
        self._write(frames)

    # --- forwarded streams --------------------------------------------------------------------------------------------

    def begin(self, forwarded: ForwardedStream) -> None:
        """Sends the response headers."""
        self._write_headers(headers_frame(forwarded.stream))

    def send(self, forwarded: ForwardedStream, message: bytes) -> SendBuffer:
        """Sends a message as far as flow control allows; the rest waits in the buffer that is returned."""
        buffer = self._unsent.get(forwarded.stream)
        if buffer is None:
            buffer = self._unsent[forwarded.stream] = SendBuffer(forwarded)
        buffer.add(http2.MESSAGE_PREFIX.pack(0, len(message)) + message)
        self._send(buffer)
        return buffer

    def end(self, forwarded: ForwardedStream, trailers: bytes, *, whole: bool) -> None:
        """Sends the trailers, and drops what waits; `whole`: the client has sent its whole request."""
        if self.streams.pop(forwarded.stream, None) is None:
            return
        self._drop_unsent(forwarded.stream)
        self._write_headers(trailers)
        if whole:
            self._credit(ANSWER_UNITS)
        else:
            self._cut_short(forwarded.stream)
            self._write(http2.reset(forwarded.stream, http2.NO_ERROR))
        if self._draining:
            self._leave_if_done()

    def give_window(self, stream: int, count: int) -> None:
        """The client may send so many more bytes of a stream."""
        self._write(http2.window_update(stream, count))

    # --- flow control -------------------------------------------------------------------------------------------------

    def _send(self, buffer: SendBuffer) -> None:
        """Sends what the windows allow of one stream."""
        stream = buffer.owner.stream
        self._window -= buffer.send(self._write, self._window, self._max_frame)
        if buffer.finished:
            del self._unsent[stream]
            if type(owner := buffer.owner) is Http2Call:
                self._credit(ANSWER_UNITS + owner.paid)
        elif buffer.owner.window > 0:
            self._ready[stream] = buffer
            return
        self._ready.pop(stream, None)
        if self._draining:
            self._leave_if_done()

    def _send_ready(self) -> None:
        """The connection's window has become larger. Each turn takes a stream out, or uses up the window."""
        while self._ready and self._window > 0:
            self._send(next(iter(self._ready.values())))

    def _drop_unsent(self, stream: int) -> None:
        buffer = self._unsent.pop(stream, None)
        if buffer is not None:
            self._ready.pop(stream, None)
            buffer.dropped()

    # --- drain --------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Lets the client know that it should go elsewhere, and closes when all that it sent is answered.

        First without saying which call is the last, because some are on their way; when a PING has come back they are
        here, and the client is told that what it sends from then on was not read (RFC 9113, 6.8).
        """
        if not self._draining and not self.closed:
            self._draining = True
            self._write(http2.goaway(http2.MAX_WINDOW, http2.NO_ERROR) + http2.frame(http2.PING, 0, 0, DRAIN_PING))
            self.loop.call_later(PONG_SECONDS, self._take_no_more)

    def _take_no_more(self) -> None:
        if not self._takes_no_more and not self.closed:
            self._takes_no_more = True
            self._write(http2.goaway(self._last_stream, http2.NO_ERROR))
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        """Closes, once the last GOAWAY is sent and every call up to its last stream is answered."""
        if self._takes_no_more and not self.closed and not self._unsent:
            if any(call.owes_answer for call in self.streams.values()):
                return
            self._leave()
