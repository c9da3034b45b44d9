"""What comes in on a connection to a worker: answers, and what the worker says of the connection.

What a client must check of its server (RFC 9113) is checked here; what breaks one stream ends that stream alone.
"""

from collections.abc import Callable
from typing import Final

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.control_frames import ControlFrames
from abfleet_transport.http2.frames import ProtocolError, StreamError

from abfleet_router.fleet.http2_client_sender import WATCHING, CallSender, WorkerSocket
from abfleet_router.fleet.http2_client_stream import ClientStream, RpcFailed

MAX_UNREAD_REPLIES: Final = 10_000
"""To PING and SETTINGS, which a worker may ask for without end and not read: about 170 KB."""
WINDOW_RENEWED_BYTES: Final = 2**30
"""The connection's window is given back when half of it is used."""


class WorkerSide:
    """What control frames of a worker do to our connection."""

    def __init__(
        self,
        calls: CallSender,
        socket: WorkerSocket,
        on_stream_ended: Callable[[], None],
        on_goaway: Callable[[int], None],
    ) -> None:
        self._calls = calls
        self._socket = socket
        self._on_stream_ended = on_stream_ended
        self.on_goaway = on_goaway
        self.open_streams = calls.open
        self._unread_replies = 0  # to PING and SETTINGS, since the worker had last read all that was written

    def check_begun(self, stream: int) -> None:
        """Raises ProtocolError for a stream that we have not opened."""
        if not stream & 1 or stream >= self._calls.next_stream:
            raise ProtocolError(f"frame on stream {stream}, which is not open")

    def break_stream(self, stream: int, why: str, code: int) -> None:
        """The answer to one call cannot be used; the others can."""
        call = self._calls.open.get(stream)
        if call is not None:
            self._calls.reset(call, code)
            call.end(RpcFailed(Code.INTERNAL, f"the worker violated HTTP/2: {why}"))
            self._on_stream_ended()

    def charge(self, units: int) -> None:
        """A worker is ours: what it has us do is bounded by what it does not read, see `reply`."""

    def reply(self, data: bytes) -> None:
        """Writes an acknowledgement. Raises ProtocolError where too many were not read."""
        if not self._socket.unread_bytes:
            self._unread_replies = 0
        self._unread_replies += 1
        if self._unread_replies > MAX_UNREAD_REPLIES:
            text = f"more than {MAX_UNREAD_REPLIES} replies to PING and SETTINGS were not read"
            raise ProtocolError(text, http2.ENHANCE_YOUR_CALM)
        self._socket.write(data)

    def on_reset(self, stream: int, code: int) -> None:
        """The worker ends a stream without an answer."""
        self._calls.ended.discard(stream)
        call = self._calls.open.pop(stream, None)
        if call is not None:
            self._calls.flow.drop(stream)
            text = f"the worker reset the stream with error code {code}"
            call.end(RpcFailed(Code.UNAVAILABLE, text, unsent=code == http2.REFUSED_STREAM))
        self._on_stream_ended()

    def on_setting(self, name: int, value: int) -> None:
        """One of the worker's settings. Raises ProtocolError."""
        if name == http2.MAX_CONCURRENT_STREAMS:
            self._calls.most_streams = value
        elif name == http2.HEADER_TABLE_SIZE and value < http2.DEFAULT_TABLE:
            self._calls.owes_table_size = True
        elif name == http2.ENABLE_PUSH and value:
            raise ProtocolError("SETTINGS_ENABLE_PUSH: 1; a server may not set it")

    def on_settings(self) -> None:
        """The worker may allow more streams now, or too few for a watch, which would never give way to a call."""
        if self._calls.most_streams < WATCHING:
            watches = [stream for stream in self._calls.open.values() if not stream.is_unary]
            for stream in watches:
                self._calls.reset(stream, http2.CANCEL)
            for stream in watches:
                text = "the worker allows too few streams for a watch"
                stream.end(RpcFailed(Code.RESOURCE_EXHAUSTED, text, unsent=True))
        self._on_stream_ended()

    def on_acknowledged(self) -> None:
        """We have nothing to do then."""

    def on_pong(self, payload: bytes) -> None:
        """That something came is all we asked for."""


class AnswerReader:
    """Takes the frames of a worker, and ends calls.

    Attributes:
        served: Whether a call has been answered.
        pinged: Whether a PING of ours went out since the last HEADERS or DATA: servers hang up on clients that only
            ping. Changed by the connection, too.
        on_control: Takes frames that are neither DATA nor HEADERS.
    """

    def __init__(
        self,
        calls: CallSender,
        write: Callable[[bytes], None],
        on_stream_ended: Callable[[], None],
        side: WorkerSide,
    ) -> None:
        """`on_stream_ended` hears when one has: another may begin, or the connection is done."""
        self._calls = calls
        self._write = write
        self._on_stream_ended = on_stream_ended
        self._side = side
        self.on_control = ControlFrames(side, calls.flow).take
        self._received = 0  # bytes of DATA not given back to the connection's window yet
        self.pinged = False
        self.served = False

    def on_data(self, flags: int, stream: int, payload: bytes) -> None:
        """Bytes of an answer."""
        self.pinged = False
        self._received += len(payload)
        if self._received >= WINDOW_RENEWED_BYTES:
            self._write(http2.window_update(0, self._received))
            self._received = 0
        if flags & http2.PADDED:
            payload = http2.unpadded(http2.DATA, flags, payload)
        call = self._calls.open.get(stream)
        if call is None:
            self._check_closed(http2.DATA, stream)
            return
        try:
            call.receive(payload)
            if flags & http2.END_STREAM:
                self._finish(call, {})
        except StreamError as error:
            self._side.break_stream(stream, str(error), error.code)

    def on_headers(self, flags: int, stream: int, block: bytes) -> None:
        """Headers or trailers of an answer."""
        call = self._calls.open.get(stream)
        if call is None:
            self._check_closed(http2.HEADERS, stream)
        self.pinged = False
        try:
            fields = http2.decode_headers(block)
            if call is None:  # its block is read all the same
                return
            if flags & http2.END_STREAM:
                self._finish(call, fields)
            elif not call.begin(fields):
                outcome = call.outcome(fields)
                self._calls.reset(call, http2.CANCEL)  # the rest of what is no answer is not wanted
                call.end(outcome)
                self._on_stream_ended()
        except StreamError as error:
            self._side.break_stream(stream, str(error), error.code)

    def _finish(self, call: ClientStream, trailers: dict[str, str]) -> None:
        outcome = call.outcome(trailers)  # first: if it raises, the stream is reset
        self._calls.answered(call)
        if call.is_unary:
            self.served = True
        call.end(outcome)
        self._on_stream_ended()

    def _check_closed(self, kind: int, stream: int) -> None:
        """Raises ProtocolError for a stream that has ended otherwise than by our reset: what comes after that may have
        been on its way."""
        self._side.check_begun(stream)
        if stream not in self._calls.ended:
            text = f"frame of type {kind} on stream {stream}, which the worker has ended"
            raise ProtocolError(text, http2.STREAM_CLOSED)
