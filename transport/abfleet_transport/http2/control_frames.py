"""Frames that carry no call, on one client's connection: settings, windows, resets, pings."""

from collections import deque
from typing import Final

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.call import Http2Call
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.forwarding import ForwardedStream
from abfleet_transport.http2.frames import ProtocolError
from abfleet_transport.http2.sender import DRAIN_PING, ResponseSender

STREAMS_A_UNIT: Final = 8
"""Settings that concern each stream cost a unit more for so many."""
SETTINGS_UNITS, PING_UNITS, OTHER_UNITS = 4, 2, 1
"""Units of work, of some 2 µs each."""
SENDING_UNITS: Final = 4
"""Of a window that lets something out."""
RESET_UNITS: Final = 4
"""Of a call that its caller has given up: all callers of an overloaded server do."""
RAPID_UNITS: Final = 24
"""Of one that was given up before it was whole, or before anybody could have answered (CVE-2023-44487)."""
RAPID_SECONDS: Final = 0.02
REFUSAL_UNITS: Final = 20
"""Of a request that is refused, or breaks a rule."""
NOT_KEPT: Final = 1000
"""Requests that we have ended and that go on, and gaps between streams: so many are remembered of a connection."""


class ControlFrames(ResponseSender):
    """Changes windows, and lets go of calls that their caller has given up."""

    __slots__ = ("_acknowledged", "_cut_off", "_forgotten", "_gaps")

    def __init__(self, queue: CallQueue) -> None:
        super().__init__(queue)
        self._acknowledged = False  # the client has taken our settings
        self._cut_off: dict[int, None] = {}  # streams that we have ended and the client has not, oldest first
        self._forgotten = 0  # the last of those that are not remembered
        self._gaps: deque[range] = deque(maxlen=NOT_KEPT)  # streams that the client has passed over

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        http2.check_frame(kind, flags, stream, len(payload))
        if kind == http2.WINDOW_UPDATE:
            self._on_window(stream, http2.uint31(payload))
        elif kind == http2.RST_STREAM:
            self._on_reset(stream)
        elif kind == http2.PING:
            self._charge(PING_UNITS)
            if not flags & http2.ACK:
                self._write(http2.frame(http2.PING, http2.ACK, 0, payload))
            elif self._draining and payload == DRAIN_PING:
                self._take_no_more()
        elif kind == http2.SETTINGS:
            self._on_settings(flags, payload)
        elif kind == http2.PUSH_PROMISE:
            raise ProtocolError("PUSH_PROMISE is not allowed from a client")
        else:
            self._charge(OTHER_UNITS + len(payload) // 1024)

    # --- streams that are open no more --------------------------------------------------------------------------------

    def _check_begun(self, stream: int) -> None:
        """Raises ProtocolError for a stream that the client has not opened."""
        if not stream & 1 or (stream > self._last_stream and not self._takes_no_more):
            raise ProtocolError(f"frame on stream {stream}, which the client has not opened")

    def _pass_over(self, stream: int) -> None:
        """The client opens this stream, and so closes those between it and the last one (RFC 9113, 5.1.1)."""
        if stream > self._last_stream + 2:
            self._gaps.append(range(self._last_stream + 1, stream))

    def _cut_short(self, stream: int) -> None:
        """We have ended a stream whose client goes on: what it sends until it knows is passed over."""
        self._cut_off[stream] = None
        if len(self._cut_off) > NOT_KEPT:
            oldest = next(iter(self._cut_off))
            del self._cut_off[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def _on_closed(self, stream: int, *, ended: bool) -> None:
        """DATA or HEADERS on a stream that is not open. Raises ProtocolError, unless the client could not know."""
        self._check_begun(stream)
        if stream in self._cut_off:
            if ended:
                del self._cut_off[stream]
        elif self._forgotten < stream <= self._last_stream:
            if any(stream in gap for gap in self._gaps):
                raise ProtocolError(f"stream {stream}: it is lower than {self._last_stream}, which was opened before")
            raise ProtocolError(f"frame on stream {stream}, which has ended", http2.STREAM_CLOSED)

    def _break_stream(self, stream: int, why: str, code: int = http2.PROTOCOL_ERROR) -> None:
        """A request breaks a rule of HTTP/2, which ends it and no other."""
        self._charge(REFUSAL_UNITS)
        self._queue.refuse("malformed", self.peer, why)
        self._cut(stream, code)

    def _on_reset(self, stream: int) -> None:
        self._check_begun(stream)
        self._cut_off.pop(stream, None)
        self._drop_unsent(stream)
        call = self.streams.pop(stream, None)
        rapid = type(call) is Http2Call and (not call.ended or self._queue.clock() - call.arrived < RAPID_SECONDS)
        self._charge(RAPID_UNITS if rapid else RESET_UNITS)
        if call is not None:
            self._forget(call)
        if self._draining:
            self._leave_if_done()

    def _forget(self, call: Http2Call | ForwardedStream) -> None:
        """The client does not want this call any more."""
        if type(call) is Http2Call:
            self._let_go(call)
            self._queue.caller_gone(call)
        else:
            call.gone()  # type: ignore[union-attr]

    def _on_settings(self, flags: int, payload: bytes) -> None:
        self._charge(SETTINGS_UNITS + len(payload) // STREAMS_A_UNIT)
        if flags & http2.ACK:
            self._on_acknowledged()
            return
        for name, value in http2.settings_in_order(payload):
            if name == http2.HEADER_TABLE_SIZE and value < http2.DEFAULT_TABLE:
                self._owes_table_size, self._at_once = True, 0  # the smallest is to be told (RFC 7541, 4.2)
            elif name == http2.MAX_FRAME_SIZE:
                self._max_frame = value
                self._at_once = 0 if self._owes_table_size else value
            elif name == http2.INITIAL_WINDOW_SIZE:
                self._change_stream_windows(value)
        for buffer in list(self._unsent.values()):
            self._send(buffer)
        self._write(http2.frame(http2.SETTINGS, http2.ACK, 0))

    def _on_acknowledged(self) -> None:
        self._acknowledged = True

    def _change_stream_windows(self, window: int) -> None:
        """Those of streams that are open too, which may become negative (RFC 9113, 6.9.2)."""
        more, self._stream_window = window - self._stream_window, window
        owners = {*self.streams.values(), *(buffer.owner for buffer in self._unsent.values())}
        self._charge(len(owners) // STREAMS_A_UNIT)
        for one in owners:
            one.window += more
            if one.window > http2.MAX_WINDOW:
                raise ProtocolError(
                    f"window of stream {one.stream}: {one.window} bytes; at most 2^31 - 1 are allowed",
                    http2.FLOW_CONTROL_ERROR,
                )

    def _on_window(self, stream: int, increment: int) -> None:
        if not stream:
            self._charge(SENDING_UNITS if self._ready else OTHER_UNITS)
            if not increment:
                raise ProtocolError("WINDOW_UPDATE: 0 bytes; allowed are 1 to 2^31 - 1")
            self._window += increment
            if self._window > http2.MAX_WINDOW:
                raise ProtocolError(
                    f"window of the connection: {self._window} bytes; at most 2^31 - 1 are allowed",
                    http2.FLOW_CONTROL_ERROR,
                )
            if self._ready:
                self._send_ready()
            return
        buffer = self._unsent.get(stream)
        self._charge(OTHER_UNITS if buffer is None else SENDING_UNITS)
        one = self.streams.get(stream) if buffer is None else buffer.owner
        if one is None:
            self._check_begun(stream)
            return
        one.window += increment
        if not increment:
            self._break_stream(stream, "WINDOW_UPDATE: 0 bytes; allowed are 1 to 2^31 - 1")
        elif one.window > http2.MAX_WINDOW:
            why = f"window: {one.window} bytes; at most 2^31 - 1 are allowed"
            self._break_stream(stream, why, http2.FLOW_CONTROL_ERROR)
        elif buffer is not None:
            self._send(buffer)

    def _cut(self, stream: int, code: int = http2.CANCEL) -> None:
        """Ends a stream, for what its client does or does not do."""
        self._drop_unsent(stream)
        call = self.streams.pop(stream, None)
        if call is not None:
            self._forget(call)
            if not call.ended:
                self._cut_short(stream)
        self._write(http2.reset(stream, code))
        if self._draining:
            self._leave_if_done()
