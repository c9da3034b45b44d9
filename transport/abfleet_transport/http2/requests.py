"""Requests that come in on one client's connection: from whole frames to calls and forwarded streams."""

from collections.abc import Callable
from typing import Final

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.allowance import WorkAccount
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
from abfleet_transport.http2.control_frames import OTHER_UNITS
from abfleet_transport.http2.forwarding import CROWDED, NO_ROOM, ForwardedStream
from abfleet_transport.http2.header_block import MALFORMED, EarlyDecoder, Head, are_trailers, head_of
from abfleet_transport.http2.sender import ResponseSender
from abfleet_transport.plan import too_large

STREAM_WINDOW: Final = http2.DEFAULT_WINDOW
"""What a client may send of one request unasked; a longer message that we take gets its own length."""
CONNECTION_WINDOW: Final = 16 * 1024 * 1024
HEADER_BYTES_A_UNIT: Final = 8
"""Of a header block that was not seen before, in units of work of 2 µs: with Huffman coding, or of very many fields."""
EARLY_UNITS, EARLY_BYTES_A_UNIT = 8, 4
"""Of one that may use a table, and of trailers."""
SMALL_BYTES: Final = 128
"""DATA with fewer costs what a frame without a call does, unless it is the last of a request."""
REFUSAL_UNITS: Final = 20
"""Of a request that is refused, or breaks a rule."""
SUSPECT_STREAMS: Final = 4
"""Calls under way of a connection whose address has sent a flood, until one of them is answered."""
SUSPECT_REFUSAL_UNITS: Final = 8
"""Of a call past that, which an honest client sends again."""


class RequestBodies:
    """Takes bytes of requests, and hands calls that are whole to the queue.

    Attributes:
        break_stream: Ends a stream that breaks a rule of HTTP/2: its number, why, and the error code.
    """

    def __init__(
        self,
        queue: CallQueue,
        sender: ResponseSender,
        account: WorkAccount,
        break_stream: Callable[[int, str, int], None],
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._account = account
        self.break_stream = break_stream

    def take(self, call: Http2Call | ForwardedStream, data: bytes, *, ended: bool) -> None:
        """Takes bytes of a request; `ended`: they are its last. With them the call is whole, and goes to the queue."""
        if call.ended:
            self.break_stream(call.stream, "DATA after END_STREAM", http2.STREAM_CLOSED)
            return
        if (length := call.head.content_length) is not None:
            call.received += len(data)
            if call.received > length or (ended and call.received < length):
                why = f"content-length: {length} bytes, and {call.received} were sent"
                self.break_stream(call.stream, why, http2.PROTOCOL_ERROR)
                return
        if type(call) is not Http2Call:
            call.take(data, ended=ended)  # type: ignore[union-attr]
            return
        call.ended = ended
        try:
            gathered = data if ended and call.buffer is None else self._gathered(call, data)
            if ended:
                if call.buffer is not None:
                    self._sender.unbuffer(call)
                call.payload = whole_message(gathered, call.head.encoding, self._queue.most_bytes[call.method])
                if call.paid:  # it leads to something
                    self._account.keep_promise(call.paid)
                    call.paid = 0
                self._queue.arrived(call)
        except BadMessage as error:
            if error.code is Code.RESOURCE_EXHAUSTED:
                self._queue.counts.oversized += 1
            self._queue.counts.refuse("message", call.peer, str(error))
            self._account.charge(REFUSAL_UNITS)
            call.fail(error.code, str(error))

    def _gathered(self, call: Http2Call, data: bytes) -> bytes | bytearray:
        """A message that comes in parts, as far as it is there. Raises BadMessage when it will not be taken."""
        most, buffer = self._queue.most_bytes[call.method], call.buffer
        if buffer is None:
            buffer = call.buffer = bytearray()
        measured = len(buffer) >= PREFIX_BYTES
        buffer += data
        has_room = self._queue.hold(len(data))
        if len(buffer) >= PREFIX_BYTES:
            length = http2.MESSAGE_PREFIX.unpack_from(buffer)[1]
            if length > most:
                raise BadMessage(Code.RESOURCE_EXHAUSTED, too_large(length, most))
            if len(buffer) > length + PREFIX_BYTES:
                raise BadMessage(Code.INTERNAL, f"message: its prefix says {length} bytes, and more were sent")
            if not measured and length + PREFIX_BYTES > STREAM_WINDOW:
                self._sender.give_window(call.stream, length + PREFIX_BYTES - STREAM_WINDOW)
        if not has_room:
            raise BadMessage(Code.UNAVAILABLE, NO_ROOM)
        return buffer


class RequestReader:
    """Takes the frames of a client, and begins calls and forwarded streams.

    Attributes:
        methods: Indexes of the methods that are delivered as calls, by path.
        on_control: Takes frames that are neither DATA nor HEADERS.
    """

    def __init__(
        self,
        queue: CallQueue,
        sender: ResponseSender,
        account: WorkAccount,
        *,
        write: Callable[[bytes], None],
        on_control: Callable[[int, int, int, bytes], None],
        bodies: RequestBodies,
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._account = account
        self._write = write
        self.on_control = on_control
        self._bodies = bodies
        self._break_stream = bodies.break_stream
        self.methods = queue.methods
        self._heads = queue.blocks.heads
        self._most_streams = queue.plan.max_concurrent_streams
        self._early: EarlyDecoder | None = EarlyDecoder()  # None once the client has taken our settings
        self._received = 0  # bytes of DATA not given back to the connection's window yet

    def on_acknowledged(self) -> None:
        """The client has taken our settings: from here on its header blocks use no table."""
        self._early = None

    # --- headers ------------------------------------------------------------------------------------------------------

    def on_headers(self, flags: int, stream: int, block: bytes) -> None:
        """A header block: of a new stream, or trailers."""
        sender = self._sender
        history = sender.history
        if stream <= history.last or not stream & 1:
            self._on_trailers(flags, stream, block)
            return
        paid = 0
        if self._early is not None:
            # In any case, because until our SETTINGS are taken it changes the table.
            self._account.promise(paid := EARLY_UNITS + len(block) // EARLY_BYTES_A_UNIT)
            head = head_of(self._early.decode(block))
        else:
            known = self._heads.get(block)
            if known is None:  # before it is read: who may not pay has us read nothing
                self._account.promise(paid := OTHER_UNITS + len(block) // HEADER_BYTES_A_UNIT)
                known = self._queue.blocks.read(block)
            head = known
        if history.takes_no_more:
            self._account.break_promise(paid)
            return
        if stream == history.last + 2:
            history.last = stream
        else:
            history.begin(stream)
        # Answered ones count until all is sent, or a client without a window could have us keep any number of them. (A
        # watch that is held up counts twice, which no client notices.)
        account, open_streams = self._account, len(sender.streams) + len(sender.flow.unsent)
        few = open_streams >= SUSPECT_STREAMS and account.may_begin_few
        if few or open_streams >= self._most_streams:
            account.break_promise(paid)
            account.charge(SUSPECT_REFUSAL_UNITS if few else REFUSAL_UNITS)
            self._queue.counts.refuse("streams", sender.peer, f"{open_streams} streams are open")
            sender.refuse_new(stream, b"", http2.REFUSED_STREAM, ended=bool(flags & http2.END_STREAM))
        else:
            self._open(stream, head, paid, ended=bool(flags & http2.END_STREAM))

    def _on_trailers(self, flags: int, stream: int, block: bytes) -> None:
        """Headers of a stream that was opened before. A request of gRPC has none: they only end it."""
        self._account.charge(OTHER_UNITS + len(block) // EARLY_BYTES_A_UNIT)
        fields = self._queue.blocks.fields(block) if self._early is None else self._early.decode(block)
        ended = bool(flags & http2.END_STREAM)
        call = self._sender.streams.get(stream)
        if call is None:
            self._sender.history.on_closed(stream, ended=ended)
        elif call.ended:
            self._break_stream(stream, "HEADERS after END_STREAM", http2.STREAM_CLOSED)
        elif not ended:
            why = "HEADERS without END_STREAM; trailers must end the stream"
            self._break_stream(stream, why, http2.PROTOCOL_ERROR)
        elif not are_trailers(fields):
            why = "trailers: pseudo-headers, upper case and HTTP/1's headers are not allowed"
            self._break_stream(stream, why, http2.PROTOCOL_ERROR)
        else:
            self._bodies.take(call, b"", ended=True)

    def _open(self, stream: int, head: Head, paid: int, *, ended: bool) -> None:
        """Begins a call or a forwarded stream, or refuses what is neither."""
        sender, most = self._sender, self._queue.plan.max_metadata_bytes
        call: Http2Call | ForwardedStream | None
        if head.size <= most and head.http_status == 200 and head.problem is None:
            method = self.methods.get(head.path)
            if method is not None:
                call = Http2Call(sender, stream, head, method, sender.flow.stream_window, paid)
            else:
                call = self._queue.backend.open(sender, stream, head, sender.flow.stream_window)
                if call is None:
                    self._account.break_promise(paid)
                    self._refuse(stream, "crowded", CROWDED, (Code.RESOURCE_EXHAUSTED, CROWDED), ended=ended)
                    return
                self._account.keep_promise(paid)
            sender.streams[stream] = call
            if ended:
                self._bodies.take(call, b"", ended=True)
            return
        self._account.break_promise(paid)
        if head.size > most:
            text = f"metadata: more than {most} bytes are not allowed"
            self._refuse(stream, "metadata", text, (Code.RESOURCE_EXHAUSTED, text), ended=ended)
        elif head.problem is not None and head.http_status == 200:
            more = ACCEPTED_ENCODINGS if head.bad_encoding else b""
            self._refuse(stream, "header", head.problem[1], head.problem, more, ended=ended)
        else:
            malformed, text = head.http_status == MALFORMED, f"HTTP status {head.http_status}"
            self._account.charge(REFUSAL_UNITS)
            self._queue.counts.refuse("malformed" if malformed else "not_grpc", sender.peer, text)
            code = http2.PROTOCOL_ERROR if malformed else http2.NO_ERROR
            sender.refuse_new(stream, http_error(stream, head.http_status), code, ended=ended)

    def _refuse(
        self, stream: int, reason: str, text: str, status: tuple[Code, str], more: bytes = b"", *, ended: bool
    ) -> None:
        """Answers a request with an error; the rest of it is not wanted."""
        self._account.charge(REFUSAL_UNITS)
        self._queue.counts.refuse(reason, self._sender.peer, text)
        frames = trailers_frame(stream, *status, more, headers_sent=False)
        self._sender.refuse_new(stream, frames, http2.NO_ERROR, ended=ended)

    def on_data(self, flags: int, stream: int, payload: bytes) -> None:
        """Bytes of a request."""
        size = len(payload)
        self._received += size
        if self._received >= CONNECTION_WINDOW // 2:
            self._write(http2.window_update(0, self._received))
            self._received = 0
        call = self._sender.streams.get(stream)
        ended = bool(flags & http2.END_STREAM)
        if not ended and size < SMALL_BYTES:
            self._account.charge(OTHER_UNITS)
        if call is None:  # answered already, or refused
            self._account.charge(OTHER_UNITS + size // 1024)
            self._sender.history.on_closed(stream, ended=ended)
            return
        if flags & http2.PADDED:
            payload = http2.unpadded(http2.DATA, flags, payload)
            self._account.charge(OTHER_UNITS)
            if not ended:
                self._write(http2.window_update(stream, size - len(payload)))
        self._bodies.take(call, payload, ended=ended)
