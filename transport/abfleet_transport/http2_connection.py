"""One client's HTTP/2 connection to our own server: requests in, answers out. Knows the wire, no meaning.

Everything runs on the event loop. What a client can make us keep is bounded here: header blocks, messages that are not
whole, answers that it does not read, and frames that are all control and no call.
"""

import asyncio
import threading
import time
from typing import Final, cast

from abfleet_transport import http2
from abfleet_transport.behind import NO_ROOM, OtherStream
from abfleet_transport.call import Code
from abfleet_transport.header_block import EarlyDecoder, Head, head_of
from abfleet_transport.http2 import Frame, ProtocolError
from abfleet_transport.http2_call import (
    PREFIX_BYTES,
    BadMessage,
    Http2Call,
    answer_frames,
    headers_frame,
    http_error,
    ok_trailers,
    pushback_trailers,
    trailers_frame,
    whole_message,
)
from abfleet_transport.http2_intake import MAX_UNFINISHED_BYTES, Intake
from abfleet_transport.outgoing import Outgoing
from abfleet_transport.plan import too_large

STREAM_WINDOW: Final = http2.DEFAULT_WINDOW
"""What a client may send of one request unasked; a longer message that we take gets its own length."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
UNREAD_BYTES: Final = 1024 * 1024
"""Of answers: a client that lets more wait is not read from either, until it has read."""
UNREAD_SECONDS: Final = 30.0
"""And for no longer than this."""
GREETING_SECONDS: Final = 20.0
"""For the preface; who says nothing for so long is no client."""
CONTROL_FRAMES_A_SECOND: Final = 20_000
"""PING, SETTINGS, RST_STREAM and the like. Clients that cancel all of their calls stay below it."""
STREAMS_A_FRAME: Final = 16
"""A frame that concerns every open stream costs as much as one more for so many."""
DRAIN_PING: Final = b"abfleet!"
PONG_SECONDS: Final = 1.0
"""A client that has not answered our PING by then will not."""


class ServerConnection(asyncio.BufferedProtocol):
    """`streams` has every call that is not answered, from its headers on; changed only here."""

    def __init__(self, intake: Intake) -> None:
        self.loop = intake.loop
        self.thread = threading.get_ident()
        self.peer = ""
        self.streams: dict[int, Http2Call | OtherStream] = {}
        self._intake = intake
        self._plan = intake.plan
        self._methods = intake.methods
        self._transport: asyncio.Transport | None = None
        self._rest = b""  # of a frame that is not whole yet
        self._greeted = False
        self._early: EarlyDecoder | None = EarlyDecoder(intake.plan.max_metadata_bytes * 2)
        self._continued: tuple[int, int, bytearray] | None = None  # stream, flags and block of HEADERS that go on
        self._last_stream = 0
        self._received = 0  # bytes of DATA not given back to the connection's window yet
        self._window = http2.DEFAULT_WINDOW  # of the connection, for what we send
        self._stream_window = http2.DEFAULT_WINDOW
        self._max_frame = http2.DEFAULT_MAX_FRAME
        self._out: list[bytes] = []  # written at the end of the turn
        self._unsent: dict[int, Outgoing] = {}  # what flow control holds up, oldest first
        self._control_frames, self._control_since = 0, 0.0
        self._patience: asyncio.TimerHandle | None = None
        self._unread = False  # the client does not read what is written
        self._draining = False
        self._takes_no_more = False  # the client has been told which call was the last
        self.closed = False

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""
        return sum(type(call) is Http2Call and call.delivered for call in self.streams.values())

    # --- the connection itself ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        most = self._plan.max_connections
        if most is not None and len(self._intake.connections) >= most:
            self.closed = True
            transport.abort()  # type: ignore[attr-defined]
            return
        self._intake.connections.add(self)
        self.peer = peer_name(transport)
        self._transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self._patience = self.loop.call_later(GREETING_SECONDS, self._lose_patience)
        ours = {
            http2.HEADER_TABLE_SIZE: 0,
            http2.MAX_CONCURRENT_STREAMS: self._plan.max_concurrent_streams,
            http2.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            http2.MAX_HEADER_LIST_SIZE: self._plan.max_metadata_bytes,
        }
        self._write(http2.settings_frame(ours) + http2.window_update(0, CONNECTION_WINDOW - http2.DEFAULT_WINDOW))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._stop_waiting()
        streams, self.streams = self.streams, {}
        for call in streams.values():
            self._forget(call)
        for outgoing in self._unsent.values():
            outgoing.dropped()
        self._unsent.clear()
        self._out.clear()
        intake = self._intake
        intake.connections.discard(self)
        if not intake.connections:
            intake.emptied.set()

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._unread = True
        self._transport.pause_reading()
        self._stop_waiting()
        self._patience = self.loop.call_later(UNREAD_SECONDS, self._lose_patience)

    def resume_writing(self) -> None:
        assert self._transport is not None
        self._unread = False
        self._stop_waiting()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _lose_patience(self) -> None:
        self.abort()

    def abort(self) -> None:
        """Cuts the connection; what is open on it is gone."""
        if self._transport is not None:
            self._transport.abort()

    def _write(self, data: bytes) -> None:
        out = self._out
        if not out:
            self.loop.call_soon(self._flush)
        out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if out and self._transport is not None and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            if self._done:
                self._transport.close()  # once all of it is written

    # --- drain --------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Lets the client know that it should go elsewhere, and closes when all that it sent is answered.

        First without saying which call is the last, because some are on their way; when a PING has come back they are
        here, and the client is told that what it sends from then on was not looked at (RFC 9113, 6.8).
        """
        if not self._draining and not self.closed and self._transport is not None:
            self._draining = True
            self._write(goaway(http2.MAX_WINDOW, http2.NO_ERROR) + http2.frame(http2.PING, 0, 0, DRAIN_PING))
            self.loop.call_later(PONG_SECONDS, self._take_no_more)

    def _take_no_more(self) -> None:
        if not self._takes_no_more and not self.closed:
            self._takes_no_more = True
            self._write(goaway(self._last_stream, http2.NO_ERROR))

    @property
    def _done(self) -> bool:
        """Whether nothing is left to do on a connection that takes no more calls."""
        if not self._takes_no_more or self._unsent:
            return False
        return not any(type(call) is Http2Call or call.owes_answer for call in self.streams.values())  # type: ignore[union-attr]

    def _fail(self, error: ProtocolError) -> None:
        assert self._transport is not None
        self._write(goaway(self._last_stream, error.code, str(error).encode()[:200]))
        self._flush()
        self.closed = True
        self._transport.close()

    # --- in -----------------------------------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._intake.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._intake.buffer[:nbytes]))
        transport = self._transport
        if transport is not None and not transport.is_closing() and self._intake.holds_up(self):
            transport.pause_reading()

    def read_on(self) -> None:
        """The next turn has begun."""
        if not self._unread and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """What the client sent next."""
        if self.closed:
            return
        if self._rest:
            data = self._rest + data  # less than a frame, so at most 16 KiB are copied again
        position = 0
        try:
            if not self._greeted:
                position = self._greet(data)
            position = self._read_frames(data, position)
        except ProtocolError as error:
            self._fail(error)
            return
        self._rest = data[position:] if position < len(data) else b""

    def _greet(self, data: bytes) -> int:
        got = data[: len(http2.PREFACE)]
        if got != http2.PREFACE[: len(got)]:
            raise ProtocolError("this port speaks gRPC over HTTP/2 alone")
        if len(got) < len(http2.PREFACE):
            return 0
        self._greeted = True
        self._stop_waiting()
        return len(got)

    def _read_frames(self, data: bytes, position: int) -> int:
        if not self._greeted:
            return 0
        size, unpack = len(data), http2.FRAME_HEADER.unpack_from
        while size - position >= 9:
            high, low, kind, flags, stream = unpack(data, position)
            length = high << 8 | low
            start, end = position + 9, position + 9 + length
            if length > http2.DEFAULT_MAX_FRAME:
                raise ProtocolError(f"frame of {length} bytes; at most {http2.DEFAULT_MAX_FRAME} are allowed")
            if end > size:
                break
            position = end
            if self._continued is not None and kind != http2.CONTINUATION:
                raise ProtocolError("a header block was interrupted")
            if kind == http2.DATA:
                self._on_data(flags, stream & http2.MAX_WINDOW, data[start:end])
            elif kind == http2.HEADERS:
                self._on_headers(flags, stream & http2.MAX_WINDOW, data[start:end])
            else:
                self._on_control(Frame(kind, flags, stream & http2.MAX_WINDOW, data[start:end]))
        return position

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & (http2.PADDED | http2.PRIORITY):
            payload = http2.unpadded(Frame(http2.HEADERS, flags, stream, payload))
        if flags & http2.END_HEADERS:
            self._on_block(flags, stream, payload)
        else:
            self._continued = (stream, flags, bytearray(payload))

    def _on_continuation(self, got: Frame) -> None:
        if self._continued is None or self._continued[0] != got.stream:
            raise ProtocolError("CONTINUATION of nothing")
        stream, flags, block = self._continued
        block += got.payload
        self._count_control()  # or empty ones could go on for ever
        if len(block) > http2.MAX_HEADER_BLOCK:
            text = f"header block of more than {http2.MAX_HEADER_BLOCK} bytes"
            raise ProtocolError(text, http2.ENHANCE_YOUR_CALM)
        if got.flags & http2.END_HEADERS:
            self._continued = None
            self._on_block(flags, stream, bytes(block))

    def _head(self, block: bytes) -> Head:
        if self._early is not None:
            if not self._early.over(block):
                return head_of(self._early.decode(block))
            self._early = None
        return self._intake.head(block)

    def _on_block(self, flags: int, stream: int, block: bytes) -> None:
        head = self._head(block)  # in any case, because until our SETTINGS are taken it changes the table
        if stream <= self._last_stream:
            call = self.streams.get(stream)
            if call is not None:  # trailers, of which a request of gRPC has none: it has ended
                if not flags & http2.END_STREAM:
                    raise ProtocolError(f"headers in the middle of stream {stream}")
                self._take(call, b"", ended=True)
            return  # else they come after we have answered
        if not stream & 1:
            raise ProtocolError(f"stream {stream}; a client's have odd numbers")
        if self._takes_no_more:
            return
        self._last_stream = stream
        # Answered ones count until all is sent, or a client without a window could have us keep any number of them.
        if len(self.streams) + len(self._unsent) >= self._plan.max_concurrent_streams:
            self._count_control()
            self._write(reset(stream, http2.REFUSED_STREAM))
            return
        self._open(stream, head, ended=bool(flags & http2.END_STREAM))

    def _open(self, stream: int, head: Head, *, ended: bool) -> None:
        if head.http_status != 200:
            self._write(http_error(stream, head.http_status))
        elif head.size > self._plan.max_metadata_bytes:
            text = f"metadata: {head.size} bytes; at most {self._plan.max_metadata_bytes} bytes are allowed"
            self._write(trailers_frame(stream, Code.RESOURCE_EXHAUSTED, text, headers_sent=False))
        elif head.problem is not None:
            self._write(trailers_frame(stream, *head.problem, headers_sent=False))
        else:
            method = self._methods.get(head.path)
            if method is not None:
                call = self.streams[stream] = Http2Call(self, stream, head, method, self._stream_window)
                if ended:
                    self._take(call, b"", ended=True)
            elif (other := self._intake.behind.open(self, stream, head, self._stream_window)) is not None:
                self.streams[stream] = other
                if ended:
                    other.take(b"", ended=True)
            else:
                text = "too many streams beside the calls; try again later"
                self._write(trailers_frame(stream, Code.RESOURCE_EXHAUSTED, text, headers_sent=False))
        if stream not in self.streams and not ended:
            self._write(reset(stream, http2.NO_ERROR))  # answered: the rest of the request is not wanted

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self._received += size
        if self._received >= CONNECTION_WINDOW // 2:
            self._write(http2.window_update(0, self._received))
            self._received = 0
        call = self.streams.get(stream)
        if call is None:
            if stream > self._last_stream and not self._takes_no_more:
                raise ProtocolError(f"data of stream {stream}, which was not opened")
            return  # answered already, or refused
        if flags & http2.PADDED:
            payload = http2.unpadded(Frame(http2.DATA, flags, stream, payload))
        ended = bool(flags & http2.END_STREAM)
        if not size and not ended:
            self._count_control()
        self._take(call, payload, ended=ended)

    def _take(self, call: Http2Call | OtherStream, data: bytes, *, ended: bool) -> None:
        """Bytes of a request."""
        if type(call) is not Http2Call:
            call.take(data, ended=ended)  # type: ignore[union-attr]
            return
        if call.ended:
            raise ProtocolError(f"stream {call.stream} goes on after its end")
        try:
            if call.buffer is not None or not ended:
                gathered: bytes | bytearray = self._gathered(call, data)
            else:
                gathered = data
            if ended:
                call.ended = True
                self._let_go(call)
                call.payload = whole_message(gathered, call.head.encoding, self._plan.max_message_bytes)
                self._intake.arrived(call)
        except BadMessage as error:
            if error.code is Code.RESOURCE_EXHAUSTED:
                self._intake.oversized += 1
            call.fail(error.code, str(error))

    def _gathered(self, call: Http2Call, data: bytes) -> bytearray:
        """A message that comes in parts, as far as it is there. Raises BadMessage when it will not be taken."""
        buffer = call.buffer
        if buffer is None:
            buffer = call.buffer = bytearray()
        measured = len(buffer) >= PREFIX_BYTES
        buffer += data
        has_room = self.hold(len(data))
        if not measured and len(buffer) >= PREFIX_BYTES:
            length = http2.MESSAGE_PREFIX.unpack_from(buffer)[1]
            if length > self._plan.max_message_bytes:
                raise BadMessage(Code.RESOURCE_EXHAUSTED, too_large(length, self._plan.max_message_bytes))
            if length + PREFIX_BYTES > STREAM_WINDOW:
                self._write(http2.window_update(call.stream, length + PREFIX_BYTES - STREAM_WINDOW))
        if len(buffer) > self._plan.max_message_bytes + PREFIX_BYTES:
            raise BadMessage(Code.INTERNAL, "message: the request has more than one")
        if not has_room:
            raise BadMessage(Code.UNAVAILABLE, NO_ROOM)
        return buffer

    def hold(self, count: int) -> bool:
        """So many more bytes (or fewer) of a message that is not whole are kept; False when that is too much."""
        self._intake.unfinished_bytes += count
        return self._intake.unfinished_bytes <= MAX_UNFINISHED_BYTES

    def _let_go(self, call: Http2Call) -> None:
        if call.buffer is not None:
            self.hold(-len(call.buffer))
            call.buffer = None

    def _forget(self, call: Http2Call | OtherStream) -> None:
        """The client does not want this call any more."""
        if type(call) is Http2Call:
            self._let_go(call)
            self._intake.gone(call)
        else:
            call.gone()  # type: ignore[union-attr]

    def _on_control(self, got: Frame) -> None:
        kind = got.kind
        if kind == http2.WINDOW_UPDATE:
            self._on_window(got)
            return
        if kind == http2.CONTINUATION:
            self._on_continuation(got)
            return
        self._count_control()
        if kind == http2.RST_STREAM:
            if (outgoing := self._unsent.pop(got.stream, None)) is not None:
                outgoing.dropped()
            if (call := self.streams.pop(got.stream, None)) is not None:
                self._forget(call)
                self._close_if_done()
        elif kind == http2.PING:
            if len(got.payload) != http2.PING_BYTES:
                raise ProtocolError(f"PING of {len(got.payload)} bytes")
            if not got.flags & http2.ACK:
                self._write(http2.frame(http2.PING, http2.ACK, 0, got.payload))
            elif self._draining and got.payload == DRAIN_PING:
                self._take_no_more()
        elif kind == http2.SETTINGS:
            self._on_settings(got)
        elif kind == http2.PUSH_PROMISE:
            raise ProtocolError("PUSH_PROMISE from a client")

    def _count_control(self, frames: int = 1) -> None:
        self._control_frames += frames
        if self._control_frames > CONTROL_FRAMES_A_SECOND:
            now = time.monotonic()
            if now - self._control_since < 1:
                text = f"more than {CONTROL_FRAMES_A_SECOND} frames a second that carry no call"
                raise ProtocolError(text, http2.ENHANCE_YOUR_CALM)
            self._control_frames, self._control_since = 0, now

    def _on_settings(self, got: Frame) -> None:
        if got.flags & http2.ACK:
            if self._early is not None:
                self._early.acknowledged = True
            return
        changed = http2.settings(got.payload)
        self._max_frame = changed.get(http2.MAX_FRAME_SIZE, self._max_frame)
        if (window := changed.get(http2.INITIAL_WINDOW_SIZE)) is not None:
            more = window - self._stream_window
            self._count_control((len(self.streams) + len(self._unsent)) // STREAMS_A_FRAME)
            for one in {*self.streams.values(), *(outgoing.owner for outgoing in self._unsent.values())}:
                one.window += more
            self._stream_window = window
        self._write(http2.frame(http2.SETTINGS, http2.ACK, 0))
        self._send_more()

    def _on_window(self, got: Frame) -> None:
        increment = http2.uint31(got.payload)
        if got.stream == 0:
            self._window += increment
            if self._window > http2.MAX_WINDOW:
                raise ProtocolError("WINDOW_UPDATE beyond 2^31 - 1", 3)
            if self._unsent:
                self._count_control(1 + len(self._unsent) // STREAMS_A_FRAME)
                self._send_more()
            return
        outgoing = self._unsent.get(got.stream)
        one = self.streams.get(got.stream) if outgoing is None else outgoing.owner
        if one is not None:
            one.window += increment
        if outgoing is not None:  # it alone: a frame must not cost as much as there are streams
            self._send_of(got.stream, outgoing)

    # --- out ----------------------------------------------------------------------------------------------------------

    def answer(self, call: Http2Call, payload: bytes) -> None:
        """Answers a call, if it still waits."""
        stream = call.stream
        if self.streams.pop(stream, None) is None:
            return
        size = len(payload) + PREFIX_BYTES
        if size <= self._window and size <= call.window and size <= self._max_frame and not self._unsent:
            self._window -= size
            self._write(answer_frames(stream, payload))
        else:
            self._write(headers_frame(stream))
            outgoing = Outgoing(call)
            outgoing.add(http2.MESSAGE_PREFIX.pack(0, len(payload)) + payload)
            outgoing.end(ok_trailers(stream))
            self._unsent[stream] = outgoing
            self._send_more()
        if self._draining:
            self._close_if_done()

    def refuse(self, call: Http2Call, code: Code, message: str, pushback_ms: int | None) -> None:
        """Answers a call with an error, if it still waits."""
        stream = call.stream
        if self.streams.pop(stream, None) is None:
            return
        more = b"" if pushback_ms is None else pushback_trailers(pushback_ms)
        self._write(trailers_frame(stream, code, message, more, headers_sent=False))
        self._let_go(call)
        if not call.ended:
            self._write(reset(stream, http2.NO_ERROR))
        if self._draining:
            self._close_if_done()

    def outgoing(self, other: OtherStream) -> Outgoing:
        """Where messages of a stream beside the calls go out, after its headers."""
        found = self._unsent.get(other.stream)
        if found is None:
            found = self._unsent[other.stream] = Outgoing(other)
        return found

    def write_frames(self, frames: bytes) -> None:
        """Frames that no flow control concerns."""
        self._write(frames)

    def send_outgoing(self) -> None:
        """Something was added to what goes out."""
        self._send_more()

    def end(self, other: OtherStream) -> None:
        """A stream beside the calls has ended, or its end is among what goes out."""
        self.streams.pop(other.stream, None)
        if self._draining:
            self._close_if_done()

    def _send_more(self) -> None:
        """Sends what the windows allow; a stream that its own window holds up lets the others pass."""
        if self._transport is None:
            return
        for stream, outgoing in list(self._unsent.items()):
            self._send_of(stream, outgoing)
            if self._window <= 0:
                break

    def _send_of(self, stream: int, outgoing: Outgoing) -> None:
        self._window -= outgoing.send(self._write, self._window, self._max_frame)
        if outgoing.finished:
            del self._unsent[stream]

    def _close_if_done(self) -> None:
        if self._done and not self._out and self._transport is not None:
            self._transport.close()


def goaway(last_stream: int, code: int, text: bytes = b"") -> bytes:
    """The connection ends; streams after the last one were not looked at."""
    payload = http2.UINT32.pack(last_stream) + http2.UINT32.pack(code) + text
    return http2.frame(http2.GOAWAY, 0, 0, payload)


def reset(stream: int, code: int) -> bytes:
    """A stream ends at once."""
    return http2.frame(http2.RST_STREAM, 0, stream, http2.UINT32.pack(code))


def peer_name(transport: asyncio.BaseTransport) -> str:
    """Who is at the other end, as gRPC writes it."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return "unix:"
    host, port = name[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
