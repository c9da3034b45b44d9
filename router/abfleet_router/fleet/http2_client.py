"""One HTTP/2 connection to a worker: gRPC calls out, messages back.

grpc.aio costs 110 to 125 µs of CPU a call, most of it in its own machinery; the router makes one such call a batch and
needs none of the machinery. This does what that call needs and nothing else, for about a quarter (docs/performance.md).
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from abfleet_transport.call import Code
from abfleet_transport.end_of_turn import EndOfTurn, end_of_turn
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frame_reader import FrameReader
from abfleet_transport.http2.frames import ProtocolError

from abfleet_router.fleet.http2_client_reader import AnswerReader, WorkerSide
from abfleet_router.fleet.http2_client_sender import WATCHING, CallSender, WorkerSocket
from abfleet_router.fleet.http2_client_stream import ClientStream, OnEnd, RpcFailed

PING_AFTER_CHECKS: Final = 3
"""Of 100 ms: a worker that has said nothing for a quarter of a second after a call is asked whether it lives."""
DEAD_AFTER_CHECKS: Final = 8
"""And is given half a second for that: its HTTP/2 stack answers, not its model, so even a busy one is there."""
DEAD_ALONE_AFTER_CHECKS: Final = 15
"""Where calls have nowhere else to go, a machine that is short of CPU is no reason to fail them all."""
GOODBYE: Final = "the worker accepts no more calls (GOAWAY)"


class ClientConnection(asyncio.Protocol):
    """Runs on the event loop."""

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
        self._secure = secure
        self._authority = authority
        self._on_closed = on_closed
        self._on_leaving = on_leaving
        self._socket = socket = WorkerSocket()
        self._turn: EndOfTurn  # once it is connected
        self._calls = calls = CallSender(socket.write, self._leave)
        side = WorkerSide(calls, socket, self._on_stream_ended, self._on_goaway)
        self._reader = AnswerReader(calls, socket.write, self._on_stream_ended, side)
        self._frames = FrameReader(self._reader, max_frame=http2.OUR_MAX_FRAME)
        self._heads: dict[str, bytes] = {}  # header block of each path, without the timeout
        self._left = False  # the worker takes no more calls
        self._ended = False
        self._silent_checks = 0  # since a call was made or something came
        self._awaits_pong = False

    @property
    def usable(self) -> bool:
        """Whether calls can be made; false until it is connected, and for ever once it ends."""
        return self._calls.takes_calls

    @property
    def served(self) -> bool:
        """Whether a call has been answered on it."""
        return self._reader.served

    @property
    def may_watch(self) -> bool:
        """Whether a stream that never ends leaves room for calls."""
        return self._calls.most_streams >= WATCHING

    # --- calls --------------------------------------------------------------------------------------------------------

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
        calls = self._calls
        if not calls.takes_calls:
            raise RpcFailed(Code.UNAVAILABLE, "the worker is not connected", unsent=True)
        stream = ClientStream(on_end, on_message)
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = http2.request_headers(path, self._authority, secure=self._secure)
        if timeout_seconds is not None:
            head += http2.timeout_header(timeout_seconds)
        calls.call(stream, head, message)
        return stream

    def cancel(self, stream: ClientStream) -> None:
        """Gives a call up: resets its stream, and says nothing of its end. The connection stays."""
        self._calls.give_up(stream)
        stream.give_up()
        self._on_stream_ended()

    def _on_stream_ended(self) -> None:
        """One of them has: another may begin, or the connection is done."""
        calls = self._calls
        calls.open_pending()
        if not calls.takes_calls and not calls.open:
            self._socket.close()

    def check_liveness(self, *, alone: bool = False) -> None:
        """Called every 100 ms: breaks the connection when the worker owes an answer and does not even answer a PING.

        `alone`: there is no other worker for the calls.

        A process that is stopped or cut off says nothing and closes nothing. Checks are counted instead of time, so
        that a pause of this process is not held against the worker: what came meanwhile is read between two checks.
        """
        if not self._socket.is_open or not self._calls.awaits_answer:
            return
        self._silent_checks += 1
        if self._silent_checks >= PING_AFTER_CHECKS and not self._reader.pinged:
            self._reader.pinged = self._awaits_pong = True
            self._socket.write(http2.frame(http2.PING, 0, 0, bytes(8)))
        elif self._awaits_pong and self._silent_checks >= (DEAD_ALONE_AFTER_CHECKS if alone else DEAD_AFTER_CHECKS):
            self._break(Code.UNAVAILABLE, "the worker did not answer a PING")

    # --- for the event loop -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket.open(cast(asyncio.Transport, transport))  # uvloop's is one without saying so
        self._turn = end_of_turn(asyncio.get_running_loop())
        self._socket.write(http2.client_preface())
        self._calls.takes_calls = True

    def data_received(self, data: bytes) -> None:
        """Reads bytes that the worker has sent, cut anywhere. What callers and workers get because of
        them goes out."""
        self._calls.owed = self._awaits_pong = False
        self._silent_checks = 0
        self._turn.begin()
        try:
            self._frames.feed(data)
        except ProtocolError as error:
            if not self._socket.unread_bytes:  # else it does not read
                self._socket.write(http2.goaway(0, error.code, str(error).encode()[:200]))
            self._break(Code.INTERNAL, f"the worker violated HTTP/2: {error}")
        finally:
            self._turn.end()

    def connection_lost(self, error: Exception | None) -> None:
        self._break(Code.UNAVAILABLE, f"the connection was lost{f': {error}' if error else ''}")

    # --- endings ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Closes at once; calls under way fail."""
        self._break(Code.UNAVAILABLE, "the connection was closed")

    def _on_goaway(self, last_stream: int) -> None:
        not_begun = self._calls.take_open(after=last_stream)
        for stream in not_begun:
            self._calls.ended.add(stream.stream)
        self._leave()
        for stream in not_begun:
            stream.end(RpcFailed(Code.UNAVAILABLE, GOODBYE, unsent=True))
        self._on_stream_ended()

    def _leave(self) -> None:
        """No more calls from here on; those that wait for a stream have not been sent."""
        if self._left:
            return
        self._left, self._calls.takes_calls = True, False
        pending = self._calls.take_pending()
        self._on_leaving(self)
        for stream in pending:
            stream.end(RpcFailed(Code.UNAVAILABLE, GOODBYE, unsent=True))

    def _break(self, code: Code, text: str) -> None:
        if self._ended:
            return
        self._ended, self._calls.takes_calls = True, False
        streams, pending = self._calls.take_open(), self._calls.take_pending()
        if self._socket.is_open:
            self._socket.abort()
            self._on_closed(self)
        # Of a worker that has said goodbye the end of the connection says no more than that.
        for stream in streams:
            stream.end(RpcFailed(code, text, connection_broke=not self._left))
        for stream in pending:
            stream.end(RpcFailed(Code.UNAVAILABLE, text, unsent=True))
