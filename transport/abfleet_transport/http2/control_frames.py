"""Frames that carry no call, for either side: windows, settings, resets, pings, goodbyes."""

from collections.abc import Mapping
from typing import Final, Protocol

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.flow_control import FlowControl, FlowControlled
from abfleet_transport.http2.frames import ProtocolError

STREAMS_A_UNIT: Final = 8
"""Settings that concern each stream cost a unit more for so many."""
SETTINGS_UNITS, PING_UNITS, OTHER_UNITS = 4, 2, 1
"""Units of work, of some 2 µs each."""
SENDING_UNITS: Final = 4
"""Of a window that lets something out."""
NOT_KEPT: Final = 1000
"""Streams that we have ended and the peer has not: so many are remembered of a connection."""


class ControlledSide(Protocol):
    """What differs between server and client when a control frame comes."""

    @property
    def open_streams(self) -> Mapping[int, FlowControlled]:
        """By number, the streams that are open."""

    def charge(self, units: int) -> None:
        """The peer has us do so much that serves no call. Raises ProtocolError where that is too much."""

    def reply(self, data: bytes) -> None:
        """Writes an acknowledgement. Raises ProtocolError where too many were not read."""

    def check_begun(self, stream: int) -> None:
        """Raises ProtocolError for a stream that nobody has opened."""

    def break_stream(self, stream: int, why: str, code: int) -> None:
        """The peer breaks a rule of HTTP/2 on one stream, which ends it and no other."""

    def on_reset(self, stream: int, code: int) -> None:
        """The peer ends a stream."""

    def on_setting(self, name: int, value: int) -> None:
        """One of the peer's settings; those of windows and frames are taken already. Raises ProtocolError."""

    def on_settings(self) -> None:
        """A frame of settings is taken and acknowledged."""

    def on_acknowledged(self) -> None:
        """The peer has taken our settings."""

    def on_pong(self, payload: bytes) -> None:
        """A PING of ours is answered."""

    def on_goaway(self, last_stream: int) -> None:
        """The peer takes no stream after this one."""


class ControlFrames:
    """Takes them, and changes windows as they say."""

    def __init__(self, side: ControlledSide, flow: FlowControl) -> None:
        self._side = side
        self._flow = flow

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """One frame that is neither DATA nor HEADERS. Raises ProtocolError."""
        http2.check_frame(kind, flags, stream, len(payload))
        side = self._side
        if kind == http2.WINDOW_UPDATE:
            self._on_window(stream, http2.uint31(payload))
        elif kind == http2.RST_STREAM:
            side.check_begun(stream)
            side.on_reset(stream, http2.UINT32.unpack(payload)[0])
        elif kind == http2.PING:
            side.charge(PING_UNITS)
            if flags & http2.ACK:
                side.on_pong(payload)
            else:
                side.reply(http2.frame(http2.PING, http2.ACK, 0, payload))
        elif kind == http2.SETTINGS:
            self._on_settings(flags, payload)
        elif kind == http2.PUSH_PROMISE:
            raise ProtocolError("PUSH_PROMISE is not allowed")
        else:
            side.charge(OTHER_UNITS + len(payload) // 1024)
            if kind == http2.GOAWAY:
                side.on_goaway(http2.uint31(payload))

    def _on_settings(self, flags: int, payload: bytes) -> None:
        side, flow = self._side, self._flow
        side.charge(SETTINGS_UNITS + len(payload) // STREAMS_A_UNIT)
        if flags & http2.ACK:
            side.on_acknowledged()
            return
        for name, value in http2.settings(payload):
            if name == http2.MAX_FRAME_SIZE:
                flow.max_frame = value
            elif name == http2.INITIAL_WINDOW_SIZE:
                waiting = {stream: buffer.owner for stream, buffer in flow.unsent.items()}
                owners = {**side.open_streams, **waiting}
                side.charge(len(owners) // STREAMS_A_UNIT)
                flow.change_streams(value, owners.values())
            side.on_setting(name, value)
        side.reply(http2.frame(http2.SETTINGS, http2.ACK, 0))
        flow.send_all()
        side.on_settings()

    def _on_window(self, stream: int, increment: int) -> None:
        side, flow = self._side, self._flow
        if not stream:
            side.charge(SENDING_UNITS if flow.ready else OTHER_UNITS)
            flow.widen(increment)
            return
        buffer = flow.unsent.get(stream)
        side.charge(OTHER_UNITS if buffer is None else SENDING_UNITS)
        one = side.open_streams.get(stream) if buffer is None else buffer.owner
        if one is None:
            side.check_begun(stream)
            return
        one.window += increment
        if not increment:
            side.break_stream(stream, "WINDOW_UPDATE: 0 bytes; allowed: 1 to 2^31 - 1", http2.PROTOCOL_ERROR)
        elif one.window > http2.MAX_WINDOW:
            text = f"window: {one.window} bytes; at most 2^31 - 1 are allowed"
            side.break_stream(stream, text, http2.FLOW_CONTROL_ERROR)
        elif buffer is not None:
            flow.send(buffer)


class EndedStreams:
    """Streams that we have ended and the peer has not: what it sends until it knows is passed over."""

    def __init__(self) -> None:
        self._kept: dict[int, None] = {}  # oldest first
        self._forgotten = 0  # the last of those that are not remembered

    def __contains__(self, stream: int) -> bool:
        """Whether we have ended it; where that is forgotten it is believed."""
        return stream in self._kept or stream <= self._forgotten

    def add(self, stream: int) -> None:
        """We have ended it; that of very many the oldest are forgotten harms nobody."""
        self._kept[stream] = None
        if len(self._kept) > NOT_KEPT:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            self._forgotten = max(self._forgotten, oldest)

    def discard(self, stream: int) -> None:
        """The peer has ended it, too."""
        self._kept.pop(stream, None)
