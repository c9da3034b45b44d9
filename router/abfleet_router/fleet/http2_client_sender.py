"""What goes out on a connection to a worker: calls, as its limits allow, and how the connection ends.

What comes in is the business of http2_client.py.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, cast

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2

from abfleet_router.fleet.http2_client_stream import ClientStream, OnEnd, RpcFailed

PING_AFTER_CHECKS = 12
"""Of 20 ms: a worker that has said nothing for a quarter of a second after a call is asked whether it lives."""
DEAD_AFTER_CHECKS = 37
"""And is given half a second for that: its HTTP/2 stack answers, not its model, so even a busy one is there."""
DEAD_ALONE_AFTER_CHECKS = 75
"""Where calls have nowhere else to go, a machine that is short of CPU is no reason to fail them all."""
KEPT_RESETS = 1000
"""Streams that we have reset, and whose last frames may be on their way."""
WATCHING = 2
"""Streams that a worker must allow so that one can be a health watch, which never ends."""
GOODBYE = "the worker accepts no more calls (GOAWAY)"


class RequestSender(asyncio.Protocol):
    """Runs on the event loop. `usable`: calls can be made; false until it is connected, and for ever once it ends."""

    def __init__(
        self,
        authority: str,
        on_closed: Callable[[Any], None],
        *,
        secure: bool = False,
        on_leaving: Callable[[Any], None] = lambda connection: None,
    ) -> None:
        """`authority`: what calls carry as `:authority`; `secure`: the connection uses TLS.

        Both callbacks are given the connection. `on_closed` is called once, when it has ended; `on_leaving` at most
        once and before that, when the worker takes no more calls on it, but may answer those that are under way.
        """
        self.usable = False
        self.served = False
        """Whether a call has been answered on it."""
        self._secure = secure
        self._authority = authority
        self._on_closed = on_closed
        self._on_leaving = on_leaving
        self._transport: asyncio.Transport | None = None
        self._heads: dict[str, bytes] = {}  # header block of each path, without the timeout
        self._streams: dict[int, ClientStream] = {}
        self._pending: deque[tuple[ClientStream, bytes, bytes]] = deque()  # headers and body; for want of a stream
        self._most_streams = http2.MAX_WINDOW
        self._next_stream = 1
        self._resets: OrderedDict[int, None] = OrderedDict()  # streams that we have reset, oldest first
        self._forgotten_reset = 0  # the last of those that are not kept
        self._left = False  # the worker takes no more calls
        self._ended = False
        self._window = http2.DEFAULT_WINDOW  # of the connection, for what we send
        self._stream_window = http2.DEFAULT_WINDOW
        self._max_frame = http2.DEFAULT_MAX_FRAME
        self._unsent: deque[tuple[ClientStream, memoryview]] = deque()
        self._owed = False  # a call was made, and nothing has come since
        self._silent_checks = 0  # since then
        self._pinged = False  # since the last HEADERS or DATA: servers hang up on clients that only ping
        self._awaits_pong = False

    @property
    def may_watch(self) -> bool:
        """Whether a stream that never ends leaves room for calls."""
        return self._most_streams >= WATCHING

    # --- out ----------------------------------------------------------------------------------------------------------

    def call(
        self,
        path: str,
        message: bytes,
        timeout_seconds: float | None,
        on_end: OnEnd,
        on_message: Callable[[bytes], None] | None = None,
    ) -> ClientStream:
        """Starts a call. Raises RpcFailed when the connection takes no more calls.

        `on_end` is called later, once, on the loop. The call waits here while the worker allows no further stream.
        """
        if not self.usable or self._transport is None:
            raise RpcFailed(Code.UNAVAILABLE, "the worker is not connected", unsent=True)
        stream = ClientStream(0, on_end, on_message)
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = http2.request_headers(path, self._authority, secure=self._secure)
        if timeout_seconds is not None:
            head += http2.timeout_header(timeout_seconds)
        body = http2.MESSAGE_PREFIX.pack(0, len(message)) + message
        if len(self._streams) < self._most_streams and not self._pending:
            self._open(stream, head, body)
        else:
            self._pending.append((stream, head, body))
        return stream

    def _open(self, stream: ClientStream, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        stream_id = stream.stream_id = self._next_stream
        self._next_stream += 2
        stream.window = self._stream_window
        self._streams[stream_id] = stream
        self._owed = True
        headers = http2.frame_header(http2.HEADERS, http2.END_HEADERS, stream_id, len(head)) + head
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
            self._leave()  # the numbers of streams are used up: the next call needs a new connection

    def _open_pending(self) -> None:
        while self._pending and self.usable and len(self._streams) < self._most_streams:
            self._open(*self._pending.popleft())

    def cancel(self, stream: ClientStream) -> None:
        """Gives a call up: resets its stream, and says nothing of its end. The connection stays."""
        if not stream.stream_id:
            self._pending = deque(entry for entry in self._pending if entry[0] is not stream)
        elif stream.stream_id in self._streams:
            self._reset(stream, http2.CANCEL)
        stream.ended = True
        self._stream_ended()

    def _reset(self, stream: ClientStream, code: int) -> None:
        """Ends an open stream from our side; what was on its way is dropped."""
        stream_id = stream.stream_id
        del self._streams[stream_id]
        self._unsent = deque(entry for entry in self._unsent if entry[0] is not stream)
        self._keep_reset(stream_id)
        if self._transport is not None:
            self._transport.write(http2.reset(stream_id, code))

    def _keep_reset(self, stream_id: int) -> None:
        self._resets[stream_id] = None
        if len(self._resets) > KEPT_RESETS:
            self._forgotten_reset = max(self._forgotten_reset, self._resets.popitem(last=False)[0])

    def _stream_ended(self) -> None:
        """One of them has: another may begin, or the connection is done."""
        if self._pending:
            self._open_pending()
        if not self.usable and not self._streams and self._transport is not None:
            self._transport.close()

    def check_liveness(self, *, alone: bool = False) -> None:
        """Called every 20 ms: breaks the connection when the worker owes an answer and does not even answer a PING.

        `alone`: there is no other worker for the calls.

        A process that is stopped or cut off says nothing and closes nothing. Checks are counted instead of time, so
        that a pause of this process is not held against the worker: what came meanwhile is read between two checks.
        """
        waits = self._owed or any(stream.is_unary for stream in self._streams.values())
        if not waits or self._ended or self._transport is None:
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so
        self._transport.write(http2.client_preface())
        self.usable = True

    # --- end ----------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """No more calls from here on; those that wait for a stream have not been sent."""
        if self._left:
            return
        self._left, self.usable = True, False
        pending, self._pending = self._pending, deque()
        self._on_leaving(self)
        for stream, _, _ in pending:
            stream.end(RpcFailed(Code.UNAVAILABLE, GOODBYE, unsent=True))

    def _break(self, code: Code, text: str) -> None:
        if self._ended:
            return
        self._ended, self.usable = True, False
        streams, self._streams = list(self._streams.values()), {}
        pending, self._pending = self._pending, deque()
        self._unsent.clear()
        if self._transport is not None:
            self._transport.abort()
            self._on_closed(self)
        # Of a worker that has said goodbye the end of the connection says no more than that.
        for stream in streams:
            stream.end(RpcFailed(code, text, connection_broke=not self._left))
        for stream, _, _ in pending:
            stream.end(RpcFailed(Code.UNAVAILABLE, text, unsent=True))

    def connection_lost(self, error: Exception | None) -> None:
        self._break(Code.UNAVAILABLE, f"the connection was lost{f': {error}' if error else ''}")

    def close(self) -> None:
        """Closes at once; calls under way fail."""
        self._break(Code.UNAVAILABLE, "the connection was closed")
