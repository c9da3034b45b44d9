"""One client's HTTP/2 connection to our own server: requests in.

What a client can make us keep is bounded, and so is for how long: header blocks, messages that are not whole, answers
that it does not read, and frames that are all control and no call. Built on control_frames, that on sender, and that on
socket.
"""

import asyncio
from typing import Final

import structlog

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.call import (
    ACCEPTED_ENCODINGS,
    PREFIX_BYTES,
    BadMessage,
    Http2Call,
    http_error,
    trailers_frame,
    whole_message,
)
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.control_frames import OTHER_UNITS, REFUSAL_UNITS, ControlFrames
from abfleet_transport.http2.forwarding import CROWDED, NO_ROOM, ForwardedStream
from abfleet_transport.http2.frames import Frame, ProtocolError
from abfleet_transport.http2.header_block import MALFORMED, EarlyDecoder, Head, are_trailers, head_of
from abfleet_transport.plan import too_large

STREAM_WINDOW: Final = http2.DEFAULT_WINDOW
"""What a client may send of one request unasked; a longer message that we take gets its own length."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
GREETING_SECONDS: Final = 20.0
"""For the preface and for taking our settings; who does not is no client."""
STREAM_SECONDS: Final = 60.0
"""For a request to end, and for its answer to be read."""
HEADER_BYTES_A_UNIT: Final = 8
"""Of a header block that was not seen before, in units of work of 2 µs: with Huffman coding, or of very many fields."""
EARLY_UNITS, EARLY_BYTES_A_UNIT = 8, 4
"""Of one that may use a table, and of trailers."""
SMALL_BYTES: Final = 128
"""DATA with fewer costs what a frame without a call does, unless it is the last of a request."""
SUSPECT_STREAMS: Final = 4
"""Calls under way of a connection whose address has sent a flood, until one of them is answered."""
SUSPECT_REFUSAL_UNITS: Final = 8
"""Of a call past that, which an honest client sends again."""
TOO_SLOW: Final = f"message: it did not end within {STREAM_SECONDS:g} s"

log = structlog.get_logger("abfleet.transport")


class ServerConnection(ControlFrames):
    """Reads requests, and hands those that are whole to the queue of calls."""

    __slots__ = (
        "_continued",
        "_early",
        "_greeted",
        "_greeting",
        "_heads",
        "_methods",
        "_most_streams",
        "_received",
        "_rest",
        "_slow",
    )

    def __init__(self, queue: CallQueue) -> None:
        super().__init__(queue)
        self._methods = queue.methods
        self._heads = queue.heads
        self._most_streams = queue.plan.max_concurrent_streams
        self._rest = b""  # of a frame that is not whole yet
        self._greeted = False
        self._greeting: asyncio.TimerHandle | None = None
        self._early: EarlyDecoder | None = EarlyDecoder()
        self._continued: tuple[int, int, bytearray] | None = None  # stream, flags and block of HEADERS that go on
        self._received = 0  # bytes of DATA not given back to the connection's window yet
        self._slow: dict[int, float] = {}  # streams that wait for their client, and since when we have known

    # --- the connection itself ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        queue = self._queue
        if len(queue.connections) >= queue.most_connections:
            queue.cut("crowded", self.peer, f"{len(queue.connections)} connections are open")
            self.abort()
            return
        queue.connections[self] = None
        self._greeting = self.loop.call_later(GREETING_SECONDS, self._run_out)
        ours = {
            http2.HEADER_TABLE_SIZE: 0,
            http2.MAX_CONCURRENT_STREAMS: self._plan.max_concurrent_streams,
            http2.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            http2.MAX_HEADER_LIST_SIZE: self._plan.max_metadata_bytes,
        }
        self._write(http2.settings_frame(ours) + http2.window_update(0, CONNECTION_WINDOW - http2.DEFAULT_WINDOW))
        if queue.draining:  # it was accepted at the last moment
            self.drain()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._greeting is not None:
            self._greeting.cancel()
        for stream in list(self._unsent):
            self._drop_unsent(stream)
        streams, self.streams = self.streams, {}
        for call in streams.values():
            self._forget(call)
        self._queue.connection_ended(self)

    def _on_acknowledged(self) -> None:
        super()._on_acknowledged()
        if self._greeting is not None:
            self._greeting.cancel()

    def cut_slow_streams(self, now: float) -> None:
        """Cuts streams whose client takes too long. To be called from time to time, with seconds of a clock."""
        slow = {stream for stream, call in self.streams.items() if call.unfinished} | self._unsent.keys()
        self._slow = {stream: self._slow.get(stream, now) for stream in slow}
        for stream, since in self._slow.items():
            if now - since > STREAM_SECONDS:
                call = self.streams.get(stream)
                self._queue.refuse("slow", self.peer, TOO_SLOW)
                if call is not None and stream not in self._unsent:
                    call.fail(Code.DEADLINE_EXCEEDED, TOO_SLOW)
                else:
                    self._cut(stream)

    # --- frames -------------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Reads bytes that the client has sent, cut anywhere."""
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
            self._fail(self._last_stream, error)
            return
        except Exception:
            log.exception("a connection failed", peer=self.peer)
            self._fail(self._last_stream, ProtocolError("internal error", http2.INTERNAL_ERROR))
            return
        self._rest = data[position:] if position < len(data) else b""

    def _greet(self, data: bytes) -> int:
        """Checks the preface and the first frame, SETTINGS (RFC 9113, 3.4); returns where frames begin."""
        size = len(http2.PREFACE)
        got = data[:size]
        if got != http2.PREFACE[: len(got)]:
            raise ProtocolError("preface: this port accepts only gRPC over HTTP/2 without TLS")
        if len(data) < size + http2.FRAME_HEADER.size:
            return 0
        _, _, kind, flags, _ = http2.FRAME_HEADER.unpack_from(data, size)
        if kind != http2.SETTINGS or flags & http2.ACK:
            raise ProtocolError(
                f"the first frame is of type {kind} with flags {flags}; it must be SETTINGS without ACK"
            )
        self._greeted = True
        return size

    def _read_frames(self, data: bytes, position: int) -> int:
        if not self._greeted:
            return 0
        size, unpack = len(data), http2.FRAME_HEADER.unpack_from
        while size - position >= 9:
            high, low, kind, flags, stream = unpack(data, position)
            length = high << 8 | low
            start, end = position + 9, position + 9 + length
            if length > http2.DEFAULT_MAX_FRAME:
                text = f"frame: {length} bytes; at most {http2.DEFAULT_MAX_FRAME} are allowed"
                raise ProtocolError(text, http2.FRAME_SIZE_ERROR)
            if end > size:
                break
            position = end
            if self._continued is not None and kind != http2.CONTINUATION:
                raise ProtocolError(f"frame of type {kind} inside a header block; only CONTINUATION is allowed")
            if kind == http2.DATA:
                self._on_data(flags, stream & http2.MAX_WINDOW, data[start:end])
            elif kind == http2.HEADERS:
                self._on_headers(flags, stream & http2.MAX_WINDOW, data[start:end])
            elif kind == http2.CONTINUATION:
                self._on_continuation(flags, stream & http2.MAX_WINDOW, data[start:end])
            else:
                self._on_control(kind, flags, stream & http2.MAX_WINDOW, data[start:end])
        return position

    # --- headers ------------------------------------------------------------------------------------------------------

    def _on_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & (http2.PADDED | http2.PRIORITY):
            payload = http2.unpadded(Frame(http2.HEADERS, flags, stream, payload))
        if flags & http2.END_HEADERS:
            self._on_block(flags, stream, payload)
        else:
            self._continued = (stream, flags, bytearray(payload))

    def _on_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._continued is None or self._continued[0] != stream:
            raise ProtocolError(f"CONTINUATION on stream {stream} has no HEADERS before it")
        _, first_flags, block = self._continued
        block += payload
        self._charge(OTHER_UNITS)  # or empty ones could go on for ever
        if len(block) > http2.MAX_HEADER_BLOCK:
            text = f"header block: more than {http2.MAX_HEADER_BLOCK} bytes are not allowed"
            raise ProtocolError(text, http2.ENHANCE_YOUR_CALM)
        if flags & http2.END_HEADERS:
            self._continued = None
            self._on_block(first_flags, stream, bytes(block))

    def _on_block(self, flags: int, stream: int, block: bytes) -> None:
        if stream <= self._last_stream or not stream & 1:
            self._on_trailers(flags, stream, block)
            return
        paid = 0
        if self._early is not None and not self._acknowledged:
            # In any case, because until our SETTINGS are taken it changes the table.
            self._charge(paid := EARLY_UNITS + len(block) // EARLY_BYTES_A_UNIT)
            head = head_of(self._early.decode(block))
        else:
            self._early = None
            known = self._heads.get(block)
            if known is None:  # paid before it is read: who may not pay has us read nothing
                self._charge(paid := OTHER_UNITS + len(block) // HEADER_BYTES_A_UNIT)
                known = self._queue.head(block)
            head = known
        if self._takes_no_more:
            return
        if stream != self._last_stream + 2:
            self._pass_over(stream)
        self._last_stream = stream
        # Answered ones count until all is sent, or a client without a window could have us keep any number of them. (A
        # watch that is held up counts twice, which no client notices.)
        most = self._most_streams if not self.suspect else SUSPECT_STREAMS
        if len(self.streams) + len(self._unsent) >= most:
            self._charge(SUSPECT_REFUSAL_UNITS if self.suspect else REFUSAL_UNITS)
            self._queue.refuse("streams", self.peer, f"{len(self.streams) + len(self._unsent)} streams are open")
            if not flags & http2.END_STREAM:
                self._cut_short(stream)
            self._write(http2.reset(stream, http2.REFUSED_STREAM))
            return
        self._open(stream, head, paid, ended=bool(flags & http2.END_STREAM))

    def _on_trailers(self, flags: int, stream: int, block: bytes) -> None:
        """Headers of a stream that was opened before. A request of gRPC has none: they only end it."""
        self._charge(OTHER_UNITS + len(block) // EARLY_BYTES_A_UNIT)
        if self._early is not None and not self._acknowledged:
            fields = self._early.decode(block)
        else:
            fields = self._queue.fields(block)
        ended = bool(flags & http2.END_STREAM)
        call = self.streams.get(stream)
        if call is None:
            self._on_closed(stream, ended=ended)
        elif call.ended:
            self._break_stream(stream, "HEADERS after END_STREAM", http2.STREAM_CLOSED)
        elif not ended:
            self._break_stream(stream, "HEADERS without END_STREAM; trailers must end the stream")
        elif not are_trailers(fields):
            self._break_stream(stream, "trailers: pseudo-headers, upper case and HTTP/1's headers are not allowed")
        else:
            self._take(call, b"", ended=True)

    def _open(self, stream: int, head: Head, paid: int, *, ended: bool) -> None:
        forwarded: ForwardedStream | None
        code = None
        if head.size > self._plan.max_metadata_bytes:
            reason, text = "metadata", f"metadata: more than {self._plan.max_metadata_bytes} bytes are not allowed"
            frames = trailers_frame(stream, Code.RESOURCE_EXHAUSTED, text, headers_sent=False)
        elif head.http_status != 200:
            malformed = head.http_status == MALFORMED
            reason, text = "malformed" if malformed else "not_grpc", f"HTTP status {head.http_status}"
            frames = http_error(stream, head.http_status)
            code = http2.PROTOCOL_ERROR if malformed else None
        elif head.problem is not None:
            reason, text = "header", head.problem[1]
            more = ACCEPTED_ENCODINGS if head.bad_encoding else b""
            frames = trailers_frame(stream, *head.problem, more, headers_sent=False)
        elif (method := self._methods.get(head.path)) is not None:
            call = self.streams[stream] = Http2Call(self, stream, head, method, self._stream_window, paid)
            if ended:
                self._take(call, b"", ended=True)
            return
        elif (forwarded := self._queue.backend.open(self, stream, head, self._stream_window)) is not None:
            self._due -= paid
            self.streams[stream] = forwarded
            if ended:
                self._take(forwarded, b"", ended=True)
            return
        else:
            reason, text = "crowded", CROWDED
            frames = trailers_frame(stream, Code.RESOURCE_EXHAUSTED, CROWDED, headers_sent=False)
        self._charge(REFUSAL_UNITS)
        self._queue.refuse(reason, self.peer, text)
        self._write_headers(frames)
        if not ended:
            self._cut_short(stream)
            self._write(http2.reset(stream, code or http2.NO_ERROR))  # answered: the rest of it is not wanted

    # --- messages -----------------------------------------------------------------------------------------------------

    def _on_data(self, flags: int, stream: int, payload: bytes) -> None:
        size = len(payload)
        self._received += size
        if self._received >= CONNECTION_WINDOW // 2:
            self._write(http2.window_update(0, self._received))
            self._received = 0
        call = self.streams.get(stream)
        ended = bool(flags & http2.END_STREAM)
        if not ended and size < SMALL_BYTES:
            self._charge(OTHER_UNITS)
        if call is None:  # answered already, or refused
            self._charge(OTHER_UNITS + size // 1024)
            self._on_closed(stream, ended=ended)
            return
        if flags & http2.PADDED:
            payload = http2.unpadded(Frame(http2.DATA, flags, stream, payload))
            self._charge(OTHER_UNITS)
            if not ended:
                self._write(http2.window_update(stream, size - len(payload)))
        self._take(call, payload, ended=ended)

    def _take(self, call: Http2Call | ForwardedStream, data: bytes, *, ended: bool) -> None:
        """Takes bytes of a request; `ended`: they are its last. With them the call is whole, and goes to the queue."""
        if call.ended:
            self._break_stream(call.stream, "DATA after END_STREAM", http2.STREAM_CLOSED)
            return
        if (length := call.head.content_length) is not None:
            call.received += len(data)
            if call.received > length or (ended and call.received < length):
                self._break_stream(call.stream, f"content-length: {length} bytes, and {call.received} were sent")
                return
        if type(call) is not Http2Call:
            call.take(data, ended=ended)  # type: ignore[union-attr]
            return
        call.ended = ended
        try:
            gathered = data if ended and call.buffer is None else self._gathered(call, data)
            if ended:
                self._let_go(call)
                call.payload = whole_message(gathered, call.head.encoding, self._plan.max_message_bytes)
                if call.paid:  # it leads to something
                    self._due -= call.paid
                    call.paid = 0
                self._queue.arrived(call)
        except BadMessage as error:
            if error.code is Code.RESOURCE_EXHAUSTED:
                self._queue.oversized += 1
            self._queue.refuse("message", self.peer, str(error))
            self._charge(REFUSAL_UNITS)
            call.fail(error.code, str(error))

    def _gathered(self, call: Http2Call, data: bytes) -> bytes | bytearray:
        """A message that comes in parts, as far as it is there. Raises BadMessage when it will not be taken."""
        buffer = call.buffer
        if buffer is None:
            buffer = call.buffer = bytearray()
        measured = len(buffer) >= PREFIX_BYTES
        buffer += data
        has_room = self.hold(len(data))
        if len(buffer) >= PREFIX_BYTES:
            length = http2.MESSAGE_PREFIX.unpack_from(buffer)[1]
            if length > self._plan.max_message_bytes:
                raise BadMessage(Code.RESOURCE_EXHAUSTED, too_large(length, self._plan.max_message_bytes))
            if len(buffer) > length + PREFIX_BYTES:
                raise BadMessage(Code.INTERNAL, f"message: its prefix says {length} bytes, and more were sent")
            if not measured and length + PREFIX_BYTES > STREAM_WINDOW:
                self.give_window(call.stream, length + PREFIX_BYTES - STREAM_WINDOW)
        if not has_room:
            raise BadMessage(Code.UNAVAILABLE, NO_ROOM)
        return buffer
