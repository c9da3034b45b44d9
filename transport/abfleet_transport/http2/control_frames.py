"""Frames that carry no call, on one client's connection: settings, windows, resets, pings."""

import time
from typing import Final

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.call import Http2Call
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.forwarding import ForwardedStream
from abfleet_transport.http2.frames import ProtocolError
from abfleet_transport.http2.sender import DRAIN_PING, ResponseSender

CONTROL_FRAMES_A_SECOND: Final = 20_000
"""Clients that cancel all of their calls stay below it."""
STREAMS_A_FRAME: Final = 8
"""Settings that concern each stream count as one frame more for so many."""
LENGTHS: Final = {http2.RST_STREAM: 4, http2.PING: 8, http2.WINDOW_UPDATE: 4, http2.PRIORITY_FRAME: 5}
"""Bytes of the payload, by type, of frames whose length is fixed."""
OF_CONNECTION: Final = frozenset((http2.SETTINGS, http2.PING, http2.GOAWAY))
"""Types that are allowed on stream 0 only."""
OF_STREAM: Final = frozenset((http2.RST_STREAM, http2.PRIORITY_FRAME))
"""Types that are not allowed on stream 0."""
GOAWAY_BYTES: Final = 8
"""Or more."""


class ControlFrames(ResponseSender):
    """Changes windows, and lets go of calls that their caller has given up."""

    __slots__ = ("_acknowledged", "_control_frames", "_control_since")

    def __init__(self, queue: CallQueue) -> None:
        super().__init__(queue)
        self._control_frames, self._control_since = 0, 0.0
        self._acknowledged = False  # the client has taken our settings

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        length = LENGTHS.get(kind)
        if length is not None and len(payload) != length:
            raise ProtocolError(
                f"frame of type {kind}: {len(payload)} bytes; exactly {length} are required", http2.FRAME_SIZE_ERROR
            )
        if (kind in OF_CONNECTION and stream) or (kind in OF_STREAM and not stream):
            raise ProtocolError(f"frame of type {kind} is not allowed on stream {stream}")
        if kind == http2.WINDOW_UPDATE:
            self._on_window(stream, http2.uint31(payload))
            return
        self._count_control()
        if kind == http2.RST_STREAM:
            self._on_reset(stream)
        elif kind == http2.PING:
            if not flags & http2.ACK:
                self._write(http2.frame(http2.PING, http2.ACK, 0, payload))
            elif self._draining and payload == DRAIN_PING:
                self._take_no_more()
        elif kind == http2.SETTINGS:
            self._on_settings(flags, payload)
        elif kind == http2.PUSH_PROMISE:
            raise ProtocolError("PUSH_PROMISE is not allowed from a client")
        elif kind == http2.GOAWAY and len(payload) < GOAWAY_BYTES:
            raise ProtocolError(
                f"GOAWAY: {len(payload)} bytes; at least {GOAWAY_BYTES} are required", http2.FRAME_SIZE_ERROR
            )

    def _count_control(self, count: int = 1) -> None:
        self._control_frames += count
        if self._control_frames > CONTROL_FRAMES_A_SECOND:
            now = time.monotonic()
            if now - self._control_since < 1:
                text = f"more than {CONTROL_FRAMES_A_SECOND} frames a second that carry no call are not allowed"
                raise ProtocolError(text, http2.ENHANCE_YOUR_CALM)
            self._control_frames, self._control_since = 0, now

    def _check_begun(self, stream: int) -> None:
        """Raises ProtocolError for a stream that the client has not opened."""
        if not stream & 1 or (stream > self._last_stream and not self._takes_no_more):
            raise ProtocolError(f"frame on stream {stream}, which the client has not opened")

    def _on_reset(self, stream: int) -> None:
        self._check_begun(stream)
        self._drop_unsent(stream)
        call = self.streams.pop(stream, None)
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
        if flags & http2.ACK:
            if payload:
                raise ProtocolError(f"SETTINGS with ACK: {len(payload)} bytes; 0 are allowed", http2.FRAME_SIZE_ERROR)
            self._on_acknowledged()
            return
        changed = http2.settings(payload)
        if changed.get(http2.HEADER_TABLE_SIZE, http2.DEFAULT_TABLE) < http2.DEFAULT_TABLE:
            self._owes_table_size, self._at_once = True, 0
        if (max_frame := changed.get(http2.MAX_FRAME_SIZE)) is not None:
            self._max_frame = max_frame
            self._at_once = 0 if self._owes_table_size else max_frame
        if (window := changed.get(http2.INITIAL_WINDOW_SIZE)) is not None:
            self._change_stream_windows(window)
        self._write(http2.frame(http2.SETTINGS, http2.ACK, 0))

    def _on_acknowledged(self) -> None:
        self._acknowledged = True

    def _change_stream_windows(self, window: int) -> None:
        """Those of streams that are open too, which may become negative (RFC 9113, 6.9.2)."""
        more, self._stream_window = window - self._stream_window, window
        owners = {*self.streams.values(), *(buffer.owner for buffer in self._unsent.values())}
        self._count_control(len(owners) // STREAMS_A_FRAME)
        for one in owners:
            one.window += more
            if one.window > http2.MAX_WINDOW:
                raise ProtocolError(
                    f"window of stream {one.stream}: {one.window} bytes; at most 2^31 - 1 are allowed",
                    http2.FLOW_CONTROL_ERROR,
                )
        for buffer in list(self._unsent.values()):
            self._send(buffer)

    def _on_window(self, stream: int, increment: int) -> None:
        if not increment:
            raise ProtocolError("WINDOW_UPDATE: 0 bytes; allowed are 1 to 2^31 - 1")
        if not stream:
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
        one = self.streams.get(stream) if buffer is None else buffer.owner
        if one is None:
            self._check_begun(stream)
            self._count_control()
            return
        one.window += increment
        if one.window > http2.MAX_WINDOW:
            raise ProtocolError(
                f"window of stream {stream}: {one.window} bytes; at most 2^31 - 1 are allowed", http2.FLOW_CONTROL_ERROR
            )
        if buffer is not None:
            self._send(buffer)

    def _cut(self, stream: int) -> None:
        """Ends a stream whose client takes too long."""
        self._drop_unsent(stream)
        call = self.streams.pop(stream, None)
        if call is not None:
            self._forget(call)
        self._write(http2.reset(stream, http2.CANCEL))
        if self._draining:
            self._leave_if_done()
