"""One HTTP/2 connection to a worker: gRPC calls out, messages back.

grpc.aio costs 110 to 125 µs of CPU a call, most of it in its own machinery; the router makes one such call a batch and
needs none of the machinery. This does what that call needs and nothing else, for about a quarter (docs/performance.md).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import Frame, ProtocolError

from abfleet_router.fleet.http2_client_stream import ClientStream, RpcFailed

PING_AFTER_CHECKS = 12
"""Of 20 ms: a worker that has said nothing for a quarter of a second after a call is asked whether it lives."""
DEAD_AFTER_CHECKS = 37
"""And is given half a second for that: its HTTP/2 stack answers, not its model, so even a busy one is there."""
DEAD_ALONE_AFTER_CHECKS = 75
"""Where calls have nowhere else to go, a machine that is short of CPU is no reason to fail them all."""
MAX_UNREAD_REPLIES = 10_000
"""To PING and SETTINGS, which a worker may ask for without end and not read: about 170 KB."""
WINDOW_RENEWED_BYTES = 2**30
"""The connection's window is given back when half of it is used."""


class ClientConnection(asyncio.Protocol):
    """Runs on the event loop. `usable`: calls can be made; false until it is connected, and for ever once it ends."""

    def __init__(
        self, authority: str, on_closed: Callable[["ClientConnection"], None], *, secure: bool = False
    ) -> None:
        """`authority`: what calls carry as `:authority`; `secure`: the connection uses TLS.

        `on_closed` is called at most once, when the worker or the network ends the connection.
        """
        self.usable = False
        self._secure = secure
        self._authority = authority
        self._on_closed = on_closed
        self._transport: asyncio.Transport | None = None
        self._reader = http2.FrameReader()
        self._heads: dict[str, bytes] = {}  # header block of each path, without the timeout
        self._streams: dict[int, ClientStream] = {}
        self._next_stream = 1
        self._continued: ClientStream | None = None
        self._continued_flags = 0
        self._received = 0  # bytes of DATA not given back to the connection's window yet
        self._window = http2.DEFAULT_WINDOW  # of the connection, for what we send
        self._stream_window = http2.DEFAULT_WINDOW
        self._max_frame = http2.DEFAULT_MAX_FRAME
        self._unsent: deque[tuple[ClientStream, memoryview]] = deque()
        self._owed = False  # a call was made, and nothing has come since
        self._silent_checks = 0  # since then
        self._pinged = False  # since the last HEADERS or DATA: servers hang up on clients that only ping
        self._awaits_pong = False
        self._unread_replies = 0  # to PING and SETTINGS, since the worker had last read all that was written

    # --- out ----------------------------------------------------------------------------------------------------------

    def call(
        self,
        path: str,
        message: bytes,
        timeout_seconds: float | None,
        on_message: Callable[[bytes], None] | None = None,
    ) -> ClientStream:
        """Starts a call; wait for its `done`. Raises RpcFailed when the connection takes no more calls."""
        if not self.usable or self._transport is None:
            raise RpcFailed(Code.UNAVAILABLE, "the worker is not connected", connection_broke=True)
        stream_id = self._next_stream
        self._next_stream += 2
        stream = ClientStream(stream_id, asyncio.get_running_loop().create_future(), on_message)
        stream.window = self._stream_window
        self._streams[stream_id] = stream
        self._owed = True
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = http2.request_headers(path, self._authority, secure=self._secure)
        if timeout_seconds is not None:
            head += http2.timeout_header(timeout_seconds)
        headers = http2.frame_header(http2.HEADERS, http2.END_HEADERS, stream_id, len(head)) + head
        body = http2.MESSAGE_PREFIX.pack(0, len(message)) + message
        size = len(body)
        if not self._unsent and size <= self._max_frame and size <= self._window and size <= stream.window:
            self._window -= size
            data = http2.frame_header(http2.DATA, http2.END_STREAM, stream_id, size)
            self._transport.write(b"".join((headers, data, body)))
        else:
            self._transport.write(headers)
            self._unsent.append((stream, memoryview(body)))
            self._send_more()
        if self._next_stream > http2.MAX_WINDOW:
            self.usable = False  # the numbers of streams are used up: the next call needs a new connection
        return stream

    def cancel(self, stream: ClientStream) -> None:
        """Gives a call up: resets its stream, and cancels `done`. The connection stays."""
        if self._streams.pop(stream.stream_id, None) is not None and self._transport is not None:
            self._unsent = deque(entry for entry in self._unsent if entry[0] is not stream)
            self._transport.write(http2.frame(http2.RST_STREAM, 0, stream.stream_id, http2.UINT32.pack(http2.CANCEL)))
        stream.done.cancel()
        self._close_if_finished()

    def check_liveness(self, *, alone: bool = False) -> None:
        """Called every 20 ms: breaks the connection when the worker owes an answer and does not even answer a PING.

        `alone`: there is no other worker for the calls.

        A process that is stopped or cut off says nothing and closes nothing. Checks are counted instead of time, so
        that a pause of this process is not held against the worker: what came meanwhile is read between two checks.
        """
        waits = self._owed or any(stream.is_unary for stream in self._streams.values())
        if not waits or not self.usable or self._transport is None:
            return
        self._silent_checks += 1
        if self._silent_checks >= PING_AFTER_CHECKS and not self._pinged:
            self._pinged = self._awaits_pong = True
            self._transport.write(http2.frame(http2.PING, 0, 0, bytes(8)))
        elif self._awaits_pong and self._silent_checks >= (DEAD_ALONE_AFTER_CHECKS if alone else DEAD_AFTER_CHECKS):
            self._break(Code.UNAVAILABLE, "the worker did not answer a PING")

    def _send_more(self) -> None:
        """Sends what the windows allow; a message that its own window holds up lets the others pass."""
        assert self._transport is not None
        kept: deque[tuple[ClientStream, memoryview]] = deque()
        while self._unsent:
            stream, rest = self._unsent.popleft()
            while rest and (room := min(self._window, stream.window, self._max_frame)) > 0:
                part, rest = rest[:room], rest[room:]
                self._window -= len(part)
                stream.window -= len(part)
                flags = 0 if rest else http2.END_STREAM
                self._transport.write(http2.frame(http2.DATA, flags, stream.stream_id, bytes(part)))
            if rest:
                kept.append((stream, rest))
        self._unsent = kept

    # --- in -----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self._transport.write(http2.client_preface())
        self.usable = True

    def data_received(self, data: bytes) -> None:
        self._owed = self._awaits_pong = False
        self._silent_checks = 0
        try:
            for got in self._reader.feed(data):
                self._on_frame(got)
        except ProtocolError as error:
            self._break(Code.INTERNAL, f"the worker violated HTTP/2: {error}")

    def _on_frame(self, got: Frame) -> None:
        kind = got.kind
        if self._continued is not None and kind != http2.CONTINUATION:
            raise ProtocolError(f"frame of type {kind} inside a header block; only CONTINUATION is allowed")
        if kind == http2.DATA:
            self._on_data(got)
        elif kind == http2.HEADERS:
            stream = self._streams.get(got.stream) or ClientStream(got.stream, asyncio.Future(), None)
            stream.block = b""
            self._on_block(stream, http2.unpadded(got), got.flags)
        elif kind == http2.CONTINUATION:
            if self._continued is None or self._continued.stream_id != got.stream:
                raise ProtocolError(f"CONTINUATION on stream {got.stream} has no HEADERS before it")
            flags = self._continued_flags & http2.END_STREAM | got.flags & http2.END_HEADERS
            self._on_block(self._continued, got.payload, flags)
        elif kind == http2.RST_STREAM:
            self._on_reset(got)
        elif kind == http2.SETTINGS:
            self._on_settings(got)
        elif kind == http2.PING:
            if len(got.payload) != http2.PING_BYTES:
                raise ProtocolError(f"PING: {len(got.payload)} bytes; exactly {http2.PING_BYTES} are required")
            if not got.flags & http2.ACK:
                self._reply(http2.frame(http2.PING, http2.ACK, 0, got.payload))
        elif kind == http2.GOAWAY:
            self._on_goaway(got)
        elif kind == http2.WINDOW_UPDATE:
            self._on_window(got)

    def _on_data(self, got: Frame) -> None:
        self._pinged = False
        self._received += len(got.payload)
        if self._received >= WINDOW_RENEWED_BYTES and self._transport is not None:
            self._transport.write(http2.window_update(0, self._received))
            self._received = 0
        stream = self._streams.get(got.stream)
        if stream is None:
            return  # cancelled by us: what was on its way is dropped
        stream.receive(http2.unpadded(got) if got.flags & http2.PADDED else got.payload)
        if got.flags & http2.END_STREAM:
            self._finish(stream, {})

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
        if flags & http2.END_STREAM:
            self._finish(stream, fields)
        elif not stream.answered:
            stream.answered = True
            if fields.get(":status") != "200":
                self._finish(stream, fields)

    def _finish(self, stream: ClientStream, trailers: dict[str, str]) -> None:
        stream.end(trailers)  # first: if it raises, the stream is failed with the others
        self._streams.pop(stream.stream_id, None)
        self._close_if_finished()

    def _on_reset(self, got: Frame) -> None:
        code = http2.uint31(got.payload)
        stream = self._streams.pop(got.stream, None)
        if stream is not None:
            text = f"the worker reset the stream with error code {code}"
            stream.fail(RpcFailed(Code.UNAVAILABLE, text, connection_broke=True))
        self._close_if_finished()

    def _on_settings(self, got: Frame) -> None:
        if got.flags & http2.ACK:
            return
        changed = http2.settings(got.payload)
        self._max_frame = changed.get(http2.MAX_FRAME_SIZE, self._max_frame)
        if (window := changed.get(http2.INITIAL_WINDOW_SIZE)) is not None:
            for stream in self._streams.values():
                stream.window += window - self._stream_window
            self._stream_window = window
        self._reply(http2.frame(http2.SETTINGS, http2.ACK, 0))
        self._send_more()

    def _reply(self, data: bytes) -> None:
        """Writes a reply to PING or SETTINGS. Raises ProtocolError where too many replies have not been read."""
        assert self._transport is not None
        if not self._transport.get_write_buffer_size():
            self._unread_replies = 0
        self._unread_replies += 1
        if self._unread_replies > MAX_UNREAD_REPLIES:
            raise ProtocolError(f"more than {MAX_UNREAD_REPLIES} replies to PING and SETTINGS were not read")
        self._transport.write(data)

    def _on_window(self, got: Frame) -> None:
        increment = http2.uint31(got.payload)
        if got.stream == 0:
            self._window += increment
        elif (stream := self._streams.get(got.stream)) is not None:
            stream.window += increment
        self._send_more()

    def _on_goaway(self, got: Frame) -> None:
        last = http2.uint31(got.payload)
        was_usable, self.usable = self.usable, False
        for stream_id in [stream_id for stream_id in self._streams if stream_id > last]:
            error = RpcFailed(Code.UNAVAILABLE, "the worker accepts no more calls (GOAWAY)", connection_broke=True)
            self._streams.pop(stream_id).fail(error)
        if was_usable:
            self._on_closed(self)
        self._close_if_finished()

    def _close_if_finished(self) -> None:
        if not self.usable and not self._streams and self._transport is not None:
            self._transport.close()

    # --- end ----------------------------------------------------------------------------------------------------------

    def _break(self, code: Code, text: str) -> None:
        was_usable, self.usable = self.usable, False
        streams, self._streams = list(self._streams.values()), {}
        self._unsent.clear()
        if self._transport is not None:
            self._transport.abort()
        if was_usable:
            self._on_closed(self)
        for stream in streams:
            stream.fail(RpcFailed(code, text, connection_broke=True))

    def connection_lost(self, error: Exception | None) -> None:
        self._break(Code.UNAVAILABLE, f"the connection was lost{f': {error}' if error else ''}")

    def close(self) -> None:
        """Closes at once; calls under way fail."""
        self._break(Code.UNAVAILABLE, "the connection was closed")
