"""One client's HTTP/2 connection to our own server, put together from its parts.

What a client can make us keep is bounded, and so is for how long: header blocks, messages that are not whole, answers
that it does not read, and frames that are all control and no call.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

import structlog

from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.allowance import WorkAccount
from abfleet_transport.http2.call import Http2Call
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.control_frames import ControlFrames
from abfleet_transport.http2.forwarding import ForwardedStream
from abfleet_transport.http2.frame_reader import FrameReader
from abfleet_transport.http2.frames import ProtocolError
from abfleet_transport.http2.requests import (
    CONNECTION_WINDOW,
    REFUSAL_UNITS,
    STREAM_WINDOW,
    RequestBodies,
    RequestReader,
)
from abfleet_transport.http2.sender import ResponseSender
from abfleet_transport.http2.socket import ConnectionSocket, host_of
from abfleet_transport.http2.turns import READ_UNITS

GREETING_SECONDS: Final = 20.0
"""For the preface and for taking our settings; who does not is no client."""
STREAM_SECONDS: Final = 60.0
"""For a request to end, and for its answer to be read."""
TOO_SLOW: Final = f"message: it did not end within {STREAM_SECONDS:g} s"
BYTES_A_UNIT: Final = 128
"""Read from a client; what is in them costs more."""
SUSPECT_BYTES_A_UNIT: Final = 32
"""Of one that is suspect, whose small parts cost most by being read."""
RESET_UNITS: Final = 4
"""Of a call that its caller has given up: all callers of an overloaded server do."""
RAPID_UNITS: Final = 24
"""Of one that was given up before it was whole, or before anybody could have answered (CVE-2023-44487)."""
RAPID_SECONDS: Final = 0.02

log = structlog.get_logger("abfleet.transport")


def nothing_more() -> None:
    """In the place of a method of a connection that has gone: with it the connection would wait for the collector."""


class ServerSide:
    """What control frames of a client do to its connection: calls that it gives up, and streams that are cut."""

    def __init__(
        self,
        queue: CallQueue,
        sender: ResponseSender,
        account: WorkAccount,
        socket: ConnectionSocket,
        on_acknowledged: Callable[[], None],
    ) -> None:
        self._queue = queue
        self._sender = sender
        self.charge = account.charge
        self.reply = socket.write
        self.check_begun = sender.history.check_begun
        self.open_streams = sender.streams
        self.on_acknowledged = on_acknowledged
        self.on_pong = sender.drain.on_pong
        self.on_setting = sender.on_setting

    def on_settings(self) -> None:
        """Nothing is left to do."""

    def on_goaway(self, last_stream: int) -> None:
        """We open no streams, so there is nothing to give up."""

    def on_reset(self, stream: int, code: int) -> None:
        """The client ends a stream: it gives a call up."""
        sender = self._sender
        sender.history.ended.discard(stream)
        sender.flow.drop(stream)
        call = sender.streams.pop(stream, None)
        rapid = type(call) is Http2Call and (not call.ended or self._queue.clock() - call.arrived < RAPID_SECONDS)
        if call is not None:
            self.forget(call)
        self.charge(RAPID_UNITS if rapid else RESET_UNITS)
        if sender.drain.begun:
            sender.drain.leave_if_done()

    def break_stream(self, stream: int, why: str, code: int) -> None:
        """A request breaks a rule of HTTP/2, which ends it and no other."""
        self.charge(REFUSAL_UNITS)
        self._queue.counts.refuse("malformed", self._sender.peer, why)
        self.cut(stream, code)

    def cut(self, stream: int, code: int) -> None:
        """Ends a stream, for what its client does or does not do."""
        sender = self._sender
        sender.flow.drop(stream)
        call = sender.streams.pop(stream, None)
        if call is not None:
            self.forget(call)
            if not call.ended:
                sender.history.ended.add(stream)
        self.reply(http2.reset(stream, code))
        if sender.drain.begun:
            sender.drain.leave_if_done()

    def forget(self, call: Http2Call | ForwardedStream) -> None:
        """The client does not want this call any more."""
        if type(call) is Http2Call:
            self._sender.let_go(call)
            self._queue.caller_gone(call)
        else:
            call.gone()  # type: ignore[union-attr]


class ServerConnection(asyncio.BufferedProtocol):
    """What the event loop, the server and the queue of calls see of a connection; all of it runs on the event loop.

    Attributes:
        account: What the client has us do that serves no call.
        streams: By number, every call that is not answered.
        drain: Takes no more calls, answers those that were sent, then closes.
        abort: Cuts it at once; calls that are open on it are given up.
    """

    def __init__(self, queue: CallQueue) -> None:
        self._queue = queue
        self._turns = queue.turns
        self._socket = socket = ConnectionSocket(queue.loop, queue.counts.cut)
        self.account = account = WorkAccount(queue.clock, queue.turns)
        self._sender = sender = ResponseSender(queue, socket, account)
        self._side = side = ServerSide(queue, sender, account, socket, self._on_greeted)
        control = ControlFrames(side, sender.flow)
        self._requests = RequestReader(
            queue,
            sender,
            account,
            write=socket.write,
            on_control=control.take,
            bodies=RequestBodies(queue, sender, account, side.break_stream),
        )
        self._frames = FrameReader(self._requests, max_frame=http2.DEFAULT_MAX_FRAME, preface=http2.PREFACE)
        self.streams = sender.streams
        self.drain = sender.drain.begin
        self.abort = socket.abort
        self._greeting: asyncio.TimerHandle | None = None
        self._kept = b""  # what came when the turn was full
        self._slow: dict[int, float] = {}  # streams that wait for their client, and since when we have known

    # --- for the event loop -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        queue, socket = self._queue, self._socket
        socket.open(cast(asyncio.Transport, transport))
        self.account.open(queue.addresses.come(host_of(socket.peer)))
        if self.account.suspect:
            socket.pause_reading()
            queue.turns.wait(self)
        if len(queue.connections) >= queue.most_connections:
            queue.counts.cut("crowded", socket.peer, f"{len(queue.connections)} connections are open")
            socket.abort()
            return
        queue.connections[self] = None
        self._greeting = queue.loop.call_later(GREETING_SECONDS, socket.run_out)
        ours = {
            http2.HEADER_TABLE_SIZE: 0,
            http2.MAX_CONCURRENT_STREAMS: queue.plan.max_concurrent_streams,
            http2.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            http2.MAX_HEADER_LIST_SIZE: queue.plan.max_metadata_bytes,
        }
        socket.write(http2.settings_frame(ours) + http2.window_update(0, CONNECTION_WINDOW - http2.DEFAULT_WINDOW))
        if queue.draining:  # it was accepted at the last moment
            self.drain()

    def connection_lost(self, error: Exception | None) -> None:
        self._socket.lost()
        self.account.close()
        self._stop_greeting()
        sender = self._sender
        sender.flow.close()
        self._side.on_acknowledged = nothing_more
        calls = list(self.streams.values())
        self.streams.clear()
        for call in calls:
            self._side.forget(call)
        self._queue.connection_ended(self)

    def pause_writing(self) -> None:
        self._socket.pause_writing()

    def resume_writing(self) -> None:
        self._socket.resume_writing()
        if self._kept:  # which comes before what is read next
            self._socket.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        turns, account = self._turns, self.account
        if not account.suspect:
            return turns.buffer
        return turns.small_buffer if account.is_paced else turns.fresh_buffer

    def buffer_updated(self, nbytes: int) -> None:
        turns, account = self._turns, self.account
        data = bytes(turns.whole_buffer[:nbytes])
        # Who has just come owes nothing, and who has had more done than calls have paid for owes something. Each of
        # them says little in a full turn, but a thousand of them would hold the others up for a tenth of a second.
        if turns.read_units >= READ_UNITS and account.due >= 0 and self._socket.pause_reading():
            self._kept = data
            turns.keep(self)
            return
        turns.read_units += nbytes // BYTES_A_UNIT
        if account.suspect:
            account.due += nbytes // SUSPECT_BYTES_A_UNIT
        self.data_received(data)
        if (account.suspect or turns.read_units >= READ_UNITS) and self._socket.pause_reading():
            turns.hold_up(self)

    def read_on(self) -> None:
        """Takes what was kept, and reads from it again, unless its client does not read."""
        turns, kept = self._turns, self._kept
        if kept:
            self._kept = b""
            turns.whole_buffer[: len(kept)] = kept
            self.buffer_updated(len(kept))
            if self.account.suspect or turns.read_units >= READ_UNITS:
                return  # it waits again
        self._socket.read_on()

    def data_received(self, data: bytes) -> None:
        """Reads bytes that the client has sent, cut anywhere."""
        socket = self._socket
        if socket.closed:
            return
        try:
            self._frames.feed(data)
        except ProtocolError as error:
            socket.fail(self._sender.history.last, error)
        except Exception:
            log.exception("a connection failed", peer=socket.peer)
            socket.fail(self._sender.history.last, ProtocolError("internal error", http2.INTERNAL_ERROR))

    def _on_greeted(self) -> None:
        self._requests.on_acknowledged()
        self._stop_greeting()

    def _stop_greeting(self) -> None:
        if self._greeting is not None:
            self._greeting.cancel()
            self._greeting = None

    # --- for the queue of calls and the server ------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether what comes is not read any more."""
        return self._socket.closed

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""
        return sum(type(call) is Http2Call and call.delivered for call in self.streams.values())

    def cut_slow_streams(self, now: float) -> None:
        """Cuts streams whose client takes too long. To be called from time to time, with seconds of a clock."""
        unsent = self._sender.flow.unsent
        slow = {stream for stream, call in self.streams.items() if call.unfinished} | unsent.keys()
        self._slow = {stream: self._slow.get(stream, now) for stream in slow}
        for stream, since in self._slow.items():
            if now - since > STREAM_SECONDS:
                call = self.streams.get(stream)
                self._queue.counts.refuse("slow", self._socket.peer, TOO_SLOW)
                if call is not None and stream not in unsent:
                    call.fail(Code.DEADLINE_EXCEEDED, TOO_SLOW)
                else:
                    self._side.cut(stream, http2.CANCEL)
