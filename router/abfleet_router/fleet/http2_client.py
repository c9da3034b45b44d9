"""One HTTP/2 connection to a worker: gRPC calls out, messages back.

grpc.aio costs 110 to 125 µs of CPU a call, most of it in its own machinery; the router makes one such call a batch and
needs none of the machinery. This does what that call needs and nothing else, for about a quarter (docs/performance.md).
What a client must check of its server (RFC 9113) is checked here; what breaks one stream ends that stream alone.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import Frame, ProtocolError, StreamError

from abfleet_router.fleet.http2_client_sender import GOODBYE, RequestSender
from abfleet_router.fleet.http2_client_stream import ClientStream, RpcFailed

MAX_UNREAD_REPLIES = 10_000
"""To PING and SETTINGS, which a worker may ask for without end and not read: about 170 KB."""
WINDOW_RENEWED_BYTES = 2**30
"""The connection's window is given back when half of it is used."""


class ClientConnection(RequestSender):
    """Reads what a worker sends, on the event loop."""

    def __init__(
        self,
        authority: str,
        on_closed: Callable[[Any], None],
        *,
        secure: bool = False,
        on_leaving: Callable[[Any], None] = lambda connection: None,
    ) -> None:
        """As of RequestSender."""
        super().__init__(authority, on_closed, secure=secure, on_leaving=on_leaving)
        self._reader = http2.FrameReader()
        self._greeted = False  # the worker's SETTINGS have come
        self._continued: ClientStream | None = None
        self._continued_flags = 0
        self._received = 0  # bytes of DATA not given back to the connection's window yet
        self._unread_replies = 0  # to PING and SETTINGS, since the worker had last read all that was written

    def data_received(self, data: bytes) -> None:
        self._owed = self._awaits_pong = False
        self._silent_checks = 0
        try:
            for got in self._reader.feed(data):
                self._on_frame(got)
        except ProtocolError as error:
            self._say_why(error)
            self._break(Code.INTERNAL, f"the worker violated HTTP/2: {error}")

    def _say_why(self, error: ProtocolError) -> None:
        if self._transport is not None and not self._transport.get_write_buffer_size():  # else it does not read
            self._transport.write(http2.goaway(0, error.code, str(error).encode()[:200]))

    def _on_frame(self, got: Frame) -> None:
        kind = got.kind
        if self._continued is not None and kind != http2.CONTINUATION:
            raise ProtocolError(f"frame of type {kind} inside a header block; only CONTINUATION is allowed")
        if not self._greeted:
            if kind != http2.SETTINGS or got.flags & http2.ACK:
                raise ProtocolError(f"the first frame is of type {kind}; it must be SETTINGS without ACK")
            self._greeted = True
        if kind == http2.DATA or kind == http2.HEADERS:
            stream = self._streams.get(got.stream)
            if stream is None:
                self._check_closed(got)
            try:
                if kind == http2.DATA:
                    self._on_data(stream, got)
                else:
                    self._on_headers(stream, got)
            except StreamError as error:
                self._on_stream_error(stream, error)
            return
        http2.check_frame(kind, got.flags, got.stream, len(got.payload))
        if kind == http2.CONTINUATION:
            if self._continued is None or self._continued.stream_id != got.stream:
                raise ProtocolError(f"CONTINUATION on stream {got.stream} has no HEADERS before it")
            flags = self._continued_flags & http2.END_STREAM | got.flags & http2.END_HEADERS
            stream = self._continued
            try:
                self._on_block(stream, got.payload, flags)
            except StreamError as error:
                self._on_stream_error(stream, error)
        elif kind == http2.RST_STREAM:
            self._on_reset(got)
        elif kind == http2.SETTINGS:
            self._on_settings(got)
        elif kind == http2.PING:
            if not got.flags & http2.ACK:
                self._reply(http2.frame(http2.PING, http2.ACK, 0, got.payload))
        elif kind == http2.GOAWAY:
            self._on_goaway(got)
        elif kind == http2.WINDOW_UPDATE:
            self._on_window(got)
        elif kind == http2.PUSH_PROMISE:
            raise ProtocolError("PUSH_PROMISE is not allowed: our settings have disabled it")

    def _check_begun(self, got: Frame) -> None:
        """Raises ProtocolError for a stream that we have not opened."""
        if not got.stream & 1 or got.stream >= self._next_stream:
            raise ProtocolError(f"frame of type {got.kind} on stream {got.stream}, which is not open")

    def _check_closed(self, got: Frame) -> None:
        """Raises ProtocolError for a stream that has ended otherwise than by our reset: what comes after that may have
        been on its way."""
        self._check_begun(got)
        if got.stream > self._forgotten_reset and got.stream not in self._resets:
            text = f"frame of type {got.kind} on stream {got.stream}, which the worker has ended"
            raise ProtocolError(text, http2.STREAM_CLOSED)

    def _on_data(self, stream: ClientStream | None, got: Frame) -> None:
        self._pinged = False
        self._received += len(got.payload)
        if self._received >= WINDOW_RENEWED_BYTES and self._transport is not None:
            self._transport.write(http2.window_update(0, self._received))
            self._received = 0
        data = http2.unpadded(got) if got.flags & http2.PADDED else got.payload
        if stream is not None:
            stream.receive(data)
            if got.flags & http2.END_STREAM:
                self._finish(stream, {})

    def _on_headers(self, stream: ClientStream | None, got: Frame) -> None:
        if stream is None:  # its block is read all the same, to its end
            stream = ClientStream(got.stream, lambda outcome: None, None)
        stream.block = b""
        self._on_block(stream, http2.unpadded(got), got.flags)

    def _on_block(self, stream: ClientStream, part: bytes, flags: int) -> None:
        stream.block += part
        if len(stream.block) > http2.MAX_HEADER_BLOCK:
            raise ProtocolError(f"header block: more than {http2.MAX_HEADER_BLOCK} bytes are not allowed")
        if not flags & http2.END_HEADERS:
            self._continued, self._continued_flags = stream, flags
            return
        self._continued = None
        self._pinged = False
        fields = http2.decode_headers(stream.block)
        if stream.stream_id not in self._streams:
            return
        if flags & http2.END_STREAM:
            self._finish(stream, fields)
        elif not stream.begin(fields):
            outcome = stream.outcome(fields)
            self._reset(stream, http2.CANCEL)  # the rest of what is no answer is not wanted
            stream.end(outcome)
            self._stream_ended()

    def _finish(self, stream: ClientStream, trailers: dict[str, str]) -> None:
        outcome = stream.outcome(trailers)  # first: if it raises, the stream is reset
        del self._streams[stream.stream_id]
        if stream.is_unary:
            self.served = True
        if self._unsent:  # answered before it was sent
            self._drop_unsent(stream)
        stream.end(outcome)
        self._stream_ended()

    def _drop_unsent(self, stream: ClientStream) -> None:
        """The worker wants no more of it."""
        kept = deque(entry for entry in self._unsent if entry[0] is not stream)
        if len(kept) < len(self._unsent) and self._transport is not None:
            self._transport.write(http2.reset(stream.stream_id, http2.NO_ERROR))
        self._unsent = kept

    def _on_stream_error(self, stream: ClientStream | None, error: StreamError) -> None:
        """The answer to one call cannot be used; the others can."""
        if stream is not None and stream.stream_id in self._streams:
            self._reset(stream, error.code)
            stream.end(RpcFailed(Code.INTERNAL, f"the worker violated HTTP/2: {error}"))
            self._stream_ended()

    def _on_reset(self, got: Frame) -> None:
        self._check_begun(got)
        self._resets.pop(got.stream, None)
        stream = self._streams.pop(got.stream, None)
        if stream is not None:
            code = http2.UINT32.unpack(got.payload)[0]
            self._unsent = deque(entry for entry in self._unsent if entry[0] is not stream)
            text = f"the worker reset the stream with error code {code}"
            stream.end(RpcFailed(Code.UNAVAILABLE, text, unsent=code == http2.REFUSED_STREAM))
        self._stream_ended()

    def _on_settings(self, got: Frame) -> None:
        if got.flags & http2.ACK:
            return
        for name, value in http2.settings_in_order(got.payload):
            if name == http2.MAX_FRAME_SIZE:
                self._max_frame = value
            elif name == http2.INITIAL_WINDOW_SIZE:
                self._change_stream_windows(value)
            elif name == http2.MAX_CONCURRENT_STREAMS:
                self._most_streams = value
            elif name == http2.ENABLE_PUSH and value:
                raise ProtocolError("SETTINGS_ENABLE_PUSH: 1; a server may not set it")
        self._reply(http2.frame(http2.SETTINGS, http2.ACK, 0))
        if not self.may_watch:
            self._end_watches()
        self._send_more()
        self._stream_ended()

    def _change_stream_windows(self, window: int) -> None:
        for stream in self._streams.values():
            stream.window += window - self._stream_window
            if stream.window > http2.MAX_WINDOW:
                raise ProtocolError("the window of a stream is more than 2^31 - 1 bytes", http2.FLOW_CONTROL_ERROR)
        self._stream_window = window

    def _end_watches(self) -> None:
        """Gives up the streams that would never leave their place to a call."""
        watches = [stream for stream in self._streams.values() if not stream.is_unary]
        for stream in watches:
            self._reset(stream, http2.CANCEL)
        for stream in watches:
            text = "the worker allows too few streams for a watch"
            stream.end(RpcFailed(Code.RESOURCE_EXHAUSTED, text, unsent=True))

    def _reply(self, data: bytes) -> None:
        """Writes a reply to PING or SETTINGS. Raises ProtocolError where too many replies have not been read."""
        assert self._transport is not None
        if not self._transport.get_write_buffer_size():
            self._unread_replies = 0
        self._unread_replies += 1
        if self._unread_replies > MAX_UNREAD_REPLIES:
            text = f"more than {MAX_UNREAD_REPLIES} replies to PING and SETTINGS were not read"
            raise ProtocolError(text, http2.ENHANCE_YOUR_CALM)
        self._transport.write(data)

    def _on_window(self, got: Frame) -> None:
        increment = http2.uint31(got.payload)
        if got.stream == 0:
            if not increment:
                raise ProtocolError("WINDOW_UPDATE: 0 bytes; allowed are 1 to 2^31 - 1")
            self._window += increment
            if self._window > http2.MAX_WINDOW:
                text = "the window of the connection is more than 2^31 - 1 bytes"
                raise ProtocolError(text, http2.FLOW_CONTROL_ERROR)
        else:
            self._check_begun(got)
            stream = self._streams.get(got.stream)
            if stream is None:
                return
            stream.window += increment
            if not increment:
                self._on_stream_error(stream, StreamError("WINDOW_UPDATE: 0 bytes; allowed are 1 to 2^31 - 1"))
            elif stream.window > http2.MAX_WINDOW:
                text = "the window of the stream is more than 2^31 - 1 bytes"
                self._on_stream_error(stream, StreamError(text, http2.FLOW_CONTROL_ERROR))
        self._send_more()

    def _on_goaway(self, got: Frame) -> None:
        last = http2.uint31(got.payload)
        not_begun = [self._streams.pop(stream_id) for stream_id in list(self._streams) if stream_id > last]
        for stream in not_begun:
            self._keep_reset(stream.stream_id)
        self._unsent = deque(entry for entry in self._unsent if entry[0].stream_id <= last)
        self._leave()
        for stream in not_begun:
            stream.end(RpcFailed(Code.UNAVAILABLE, GOODBYE, unsent=True))
        self._stream_ended()
