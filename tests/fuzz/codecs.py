"""Our HTTP/2 client and our HTTP/2 server against each other without sockets: a random schedule of what both may do,
the bytes between them cut anywhere, and in most trials something wrong among these bytes.

Where nothing is wrong each call ends as its server said; where something is, both sides keep to their rules.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from abfleet_router.fleet.http2_client import DEAD_AFTER_CHECKS, ClientConnection
from abfleet_router.fleet.http2_client_stream import ClientStream, RpcFailed
from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.call import ok_trailers, trailers_frame
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.forwarding import ForwardedStream, GrpcioBackend
from abfleet_transport.http2.frames import frame
from abfleet_transport.http2.header_block import Head
from abfleet_transport.http2.sender import ResponseSender
from abfleet_transport.plan import ServerPlan
from structlog.testing import capture_logs

from tests.fuzz import frames
from tests.fuzz.mutation import mutated
from tests.fuzz.server import look_at_answers
from tests.fuzz.target import Target, Trial
from tests.support.frames import FrameReader
from tests.support.http2_wire import ServerSide

PATH = "/Recommender/Recommend"
WATCH = "/grpc.health.v1.Health/Watch"
MOST_MESSAGE_BYTES = 100_000
MOST_ROUNDS = 2_000
"""Of both ends in turn, until nothing is on its way any more: more of them is a hang."""
CHECKS = 80
"""Of liveness, after which a client has given up a server that owes it something."""
MOST_TIMES = 20
"""What a side says because of what it is told, beside calls and answers, in times of it."""
RIGHT_CODES = frozenset(
    (
        http2.PROTOCOL_ERROR,
        http2.FLOW_CONTROL_ERROR,
        http2.STREAM_CLOSED,
        http2.FRAME_SIZE_ERROR,
        http2.COMPRESSION_ERROR,
        http2.ENHANCE_YOUR_CALM,
    )
)
"""With which a connection may be ended for what its peer has said."""
IDLE: Final = 2**31 - 1
UINT32 = http2.UINT32.pack


def setting(name: int, value: int) -> bytes:
    """A frame with one setting."""
    return frame(http2.SETTINGS, 0, 0, http2.SETTING.pack(name, value))


FAULTS: tuple[tuple[bytes, int], ...] = (
    (frame(http2.DATA, 0, 0, b"x"), http2.PROTOCOL_ERROR),
    (frame(http2.DATA, 0, IDLE, b"x"), http2.PROTOCOL_ERROR),
    (frame(http2.HEADERS, http2.END_HEADERS, 0, b"\x88"), http2.PROTOCOL_ERROR),
    (frame(http2.HEADERS, http2.END_HEADERS, 2, b"\x88"), http2.PROTOCOL_ERROR),
    (frame(http2.HEADERS, 0, IDLE, b"\x88") + frame(http2.PING, 0, 0, bytes(8)), http2.PROTOCOL_ERROR),
    (frame(http2.CONTINUATION, http2.END_HEADERS, 1), http2.PROTOCOL_ERROR),
    (frame(http2.PRIORITY_FRAME, 0, 0, bytes(5)), http2.PROTOCOL_ERROR),
    (frame(http2.RST_STREAM, 0, 0, bytes(4)), http2.PROTOCOL_ERROR),
    (frame(http2.RST_STREAM, 0, IDLE, bytes(4)), http2.PROTOCOL_ERROR),
    (frame(http2.RST_STREAM, 0, 1, bytes(3)), http2.FRAME_SIZE_ERROR),
    (frame(http2.SETTINGS, 0, 1), http2.PROTOCOL_ERROR),
    (frame(http2.SETTINGS, 0, 0, bytes(5)), http2.FRAME_SIZE_ERROR),
    (frame(http2.SETTINGS, http2.ACK, 0, bytes(6)), http2.FRAME_SIZE_ERROR),
    (setting(http2.ENABLE_PUSH, 2), http2.PROTOCOL_ERROR),
    (setting(http2.INITIAL_WINDOW_SIZE, 2**31), http2.FLOW_CONTROL_ERROR),
    (setting(http2.MAX_FRAME_SIZE, 2**14 - 1), http2.PROTOCOL_ERROR),
    (setting(http2.MAX_FRAME_SIZE, 2**24), http2.PROTOCOL_ERROR),
    (frame(http2.PUSH_PROMISE, http2.END_HEADERS, 1, UINT32(2) + b"\x83"), http2.PROTOCOL_ERROR),
    (frame(http2.PING, 0, 0, bytes(7)), http2.FRAME_SIZE_ERROR),
    (frame(http2.PING, 0, 1, bytes(8)), http2.PROTOCOL_ERROR),
    (frame(http2.GOAWAY, 0, 1, bytes(8)), http2.PROTOCOL_ERROR),
    (frame(http2.GOAWAY, 0, 0, bytes(7)), http2.FRAME_SIZE_ERROR),
    (frame(http2.WINDOW_UPDATE, 0, 0, UINT32(0)), http2.PROTOCOL_ERROR),
    (frame(http2.WINDOW_UPDATE, 0, IDLE, UINT32(1)), http2.PROTOCOL_ERROR),
    (frame(http2.WINDOW_UPDATE, 0, 0, bytes(3)), http2.FRAME_SIZE_ERROR),
    (http2.window_update(0, http2.MAX_WINDOW) * 2, http2.FLOW_CONTROL_ERROR),
    (http2.frame_header(http2.DATA, 0, 1, 2**24 - 1), http2.FRAME_SIZE_ERROR),
)
"""What ends a connection wherever it stands between two frames, and with which code (RFC 9113)."""


def without_window(data: bytes) -> bytes:
    """A greeting without the WINDOW_UPDATE that follows its SETTINGS."""
    start = len(http2.PREFACE) if data.startswith(http2.PREFACE) else 0
    start += http2.FRAME_HEADER.size + int.from_bytes(data[start : start + 3], "big")
    assert data[start + 3] == http2.WINDOW_UPDATE
    return data[:start] + data[start + len(http2.window_update(0, 1)) :]


class Pipe:
    """The bytes one side has written and the other has not read; `broken` once they are not what was written."""

    def __init__(self, source: random.Random, faults: float, insert: Callable[[], bytes], *, narrow: bool) -> None:
        """`narrow`: the greeting gives the connection no more than the window that all begin with."""
        self._source = source
        self.narrow = narrow
        self._faults = faults
        self._insert = insert
        self.begun = False
        self.waiting = bytearray()
        self.taken = 0
        self.written = bytearray()
        self.broken = False

    def put(self, data: bytes) -> None:
        """Whole frames, as a side writes them."""
        source = self._source
        if self.narrow and not self.begun:
            data = without_window(data)
        self.written += data
        if self.begun and source.random() < self._faults:  # never the greeting: all that follows would be lost
            self.broken = True
            data = self._insert() + data if source.random() < 0.5 else mutated(data, source)
        self.begun = True
        self.waiting += data

    def take(self, most: int) -> bytes:
        """The next of them."""
        part = bytes(self.waiting[:most])
        del self.waiting[:most]
        self.taken += len(part)
        return part


class ClientWire:
    """The transport that the client has."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self.closing = False

    def write(self, data: bytes) -> None:
        if not self.closing:
            self._pipe.put(data)

    def get_write_buffer_size(self) -> int:
        """All is taken at once."""
        return 0

    def close(self) -> None:
        self.closing = True

    abort = close


class Streams:
    """Takes streams that are no calls, for the schedule to answer; in the place of the back end."""

    def __init__(self) -> None:
        self.open_ones: list[tuple[ResponseSender, ForwardedStream]] = []

    def open(self, sender: ResponseSender, stream: int, head: Head, window: int) -> ForwardedStream:
        """One more."""
        found = ForwardedStream(cast(Any, sender), stream, head, window)
        self.open_ones.append((sender, found))
        return found


class Asked:
    """A call of the client, and all that either side knows of it."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.stream: ClientStream | None = None
        self.cancelled = False
        self.delivered = 0
        self.ends: list[bytes | RpcFailed] = []
        self.answer: bytes | tuple[Code, str] | None = None
        """What its server has said."""

    def check_end(self, *, drained: bool, allowed: int) -> None:
        """Where no byte was changed it has ended as its server said, or was never sent."""
        if self.cancelled:
            assert not self.ends
            return
        (end,) = self.ends
        if isinstance(end, bytes):
            assert end == self.answer, (end[:50], self.answer)
        elif end.unsent:
            assert not self.delivered
            assert end.code is Code.UNAVAILABLE
            assert drained or allowed < 100, end
        elif len(self.payload) > MOST_MESSAGE_BYTES:
            assert end.code is Code.RESOURCE_EXHAUSTED
        else:
            assert isinstance(self.answer, tuple), (end, self.answer)
            assert (end.code, str(end)) == (self.answer[0], f"{self.answer[0].name}: {self.answer[1]}")


class Conversation:
    """One client, one server, and what is said between them."""

    def __init__(self, source: random.Random) -> None:
        self.source = source
        self.kind = source.choice(("right", "fault", "wrong", "wrong"))
        rates = {"client": 0.0, "server": 0.0}
        if self.kind == "wrong":
            for side in source.choice((("client",), ("server",), ("client", "server"))):
                rates[side] = source.choice((0.02, 0.1, 0.5))
        narrow = source.random() < 0.5
        self.to_server = Pipe(source, rates["client"], self._from_a_client, narrow=narrow)
        self.to_client = Pipe(source, rates["server"], self._from_a_server, narrow=narrow)
        self.allowed = source.choice((1, 2, 8, 100, 100))
        self.side = ServerSide((PATH,))
        self.streams = Streams()
        plan = ServerPlan(
            address="",
            methods=(PATH,),
            add_services=lambda server: None,
            max_message_bytes=MOST_MESSAGE_BYTES,
            max_concurrent_streams=self.allowed,
        )
        self.side.queue = CallQueue(
            plan, self.side.calls.extend, self.side.gone.append, cast(GrpcioBackend, self.streams)
        )
        self.server, self.server_wire = self.side.connect()
        self.closed = 0
        self.client = ClientConnection("worker:1", self._on_closed)
        self.client_wire = ClientWire(self.to_server)
        self.client.connection_made(cast(asyncio.Transport, self.client_wire))
        self.asked: list[Asked] = []
        self.heard: list[bytes] = []
        self.told: list[bytes] = []
        self.watch_ends: list[bytes | RpcFailed] = []
        self.replied = 0
        self.looks = 0  # since the client read something
        self.drained = self.client_lost = self.server_lost = False

    def _on_closed(self, connection: object) -> None:
        self.closed += 1

    def _from_a_client(self) -> bytes:
        stream = 2 * self.source.randrange(12) + 1
        return frames.client_frame(self.source, stream, [one.payload for one in self.asked[-3:]] or [b"x"])

    def _from_a_server(self) -> bytes:
        return frames.server_frame(self.source, range(1, 24, 2), (b"x" * 9, b"\x08\x01", b""))

    # --- what both sides do -------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One of the things that may happen next."""
        steps = (self._call, self._call, self._call, self._answer, self._answer, self._cancel, self._look, self._say)
        self.source.choice((*steps, self._watch, self._tell, self._turn_over))()

    def _call(self) -> None:
        size = self.source.choice((0, 5, 5, 300, 300, 17_000, 70_000, 150_000 if len(self.asked) < 5 else 9))
        one = Asked(UINT32(len(self.asked)) + b"q" * size)
        if self.client.usable:
            one.stream = self.client.call(PATH, one.payload, self.source.choice((None, 0.5, 60.0)), one.ends.append)
            self.asked.append(one)

    def _cancel(self) -> None:
        waiting = [one for one in self.asked if not one.ends and not one.cancelled]
        if waiting and self.source.random() < 0.3:
            one = self.source.choice(waiting)
            one.cancelled = True
            assert one.stream is not None
            self.client.cancel(one.stream)

    def _answer(self, share: float = 0.7) -> None:
        calls, self.side.calls[:] = list(self.side.calls), []
        for call in calls:
            if self.source.random() >= share:
                self.side.calls.append(call)
                continue
            number = http2.UINT32.unpack_from(call.payload)[0] if len(call.payload) >= 4 else -1
            one = self.asked[number] if 0 <= number < len(self.asked) else None
            if one is not None and one.payload == call.payload:
                one.delivered += 1
            else:
                assert self.to_server.broken, "a call that nobody has made"
                one = None
            said: bytes | tuple[Code, str]
            if self.source.random() < 0.8:
                said = call.payload[:4] + b"a" * self.source.choice((0, 5, 300, 20_000, 70_000))
                call.reply(said)
                self.replied += len(said)
            else:
                said = (self.source.choice((Code.UNAVAILABLE, Code.INTERNAL, Code.NOT_FOUND)), "no % \r\n ж")
                call.fail(*said, pushback_ms=self.source.choice((None, 200)))
            if one is not None and one.answer is None:
                one.answer = said

    def _look(self) -> None:
        alone = self.source.random() < 0.5
        self.looks += 1
        if self.kind == "wrong" or self.looks < DEAD_AFTER_CHECKS:  # a client that hears nothing gives up, rightly
            self.client.check_liveness(alone=alone)

    def _watch(self) -> None:
        if self.client.usable and self.client.may_watch and not self.told and not self.watch_ends:
            self.client.call(WATCH, b"w", None, self.watch_ends.append, self.heard.append)
            self.told.append(b"")  # one a conversation

    def _tell(self) -> None:
        for sender, stream in self.streams.open_ones[:1]:
            if sender.streams.get(stream.stream) is stream:
                if len(self.told) == 1:
                    sender.begin(stream)
                self.told.append(b"h" * self.source.choice((1, 30, 20_000)))
                sender.send(stream, self.told[-1])

    def _say(self) -> None:
        """A frame that either side may send at any time after its greeting, though ours never do."""
        if not self.to_client.begun:
            return
        windows = (0, 10, 65_535, 100_000)
        both = (frame(http2.PING, 0, 0, b"anything"), frame(0x20, 7, 3, b"unknown"))
        if self.source.random() < 0.5:
            wide = setting(http2.MAX_FRAME_SIZE, self.source.choice((16_384, 2**20)))
            narrow = setting(http2.INITIAL_WINDOW_SIZE, self.source.choice(windows))
            table = setting(http2.HEADER_TABLE_SIZE, self.source.choice((0, 4096)))
            more = (http2.window_update(0, self.source.choice((1, 9000))),) if self.to_server.narrow else ()
            self.to_server.put(self.source.choice((*both, *more, wide, narrow, table)))
        else:
            narrow = setting(http2.INITIAL_WINDOW_SIZE, self.source.choice(windows))
            self.to_client.put(self.source.choice((*both, narrow, http2.window_update(0, 1000))))

    def _turn_over(self) -> None:
        if self.kind == "right" and self.source.random() < 0.1:
            self.drained = True
            self.server.drain()

    # --- what is on its way -------------------------------------------------------------------------------------------

    async def carry(self, most: int) -> bool:
        """Up to so many bytes each way; whether there were any."""
        went = False
        if part := self.to_server.take(most):
            went = True
            if not self.server_lost:
                self.to_server.waiting[:0] = self._feed_server(part)
                self.side.queue.turns._read_suspects()  # in the place of its timer
        elif self.client_wire.closing and not self.server_lost:
            self.server_lost = went = True
            self.server.connection_lost(None)
        for _ in range(2):
            await asyncio.sleep(0)
        wire = self.server_wire
        if wire.written:
            said, wire.written = bytes(wire.written), bytearray()
            self.to_client.put(said)
        if part := self.to_client.take(most):
            went = True
            self.looks = 0
            if not self.client_wire.closing:
                self.client.data_received(part)
        elif (wire.closing or wire.ended or self.server_lost) and not self.client_lost and not self.to_client.waiting:
            self.client_lost = went = True
            self.client.connection_lost(None)
            self.client_wire.closing = True
        return went

    def _feed_server(self, data: bytes) -> bytes:
        """As the event loop does; gives what is left, because the server reads no more for the moment."""
        while data and self.server_wire.reads and not self.server_wire.closing:
            room = self.server.get_buffer(-1)
            part, data = data[: len(room)], data[len(room) :]
            room[: len(part)] = part
            self.server.buffer_updated(len(part))
        return b"" if self.server_wire.closing else data

    async def quiet(self) -> None:
        """Until nothing is on its way. Raises AssertionError where that never is."""
        for _ in range(MOST_ROUNDS):
            if not await self.carry(2**20) and not self.server_wire.written:
                return
        raise AssertionError("both sides go on and on")

    # --- the end ------------------------------------------------------------------------------------------------------

    async def end(self) -> int:
        """Gives everything the time that it needs, then ends both; gives how many calls were answered."""
        self.to_server.put(setting(http2.INITIAL_WINDOW_SIZE, 2**20))
        if self.to_server.narrow:
            self.to_server.put(http2.window_update(0, 2**22))
        self.to_client.put(setting(http2.INITIAL_WINDOW_SIZE, 2**20) + http2.window_update(0, 2**22))
        for _ in range(20):
            await self.quiet()
            self._answer(1.0)
        for sender, stream in self.streams.open_ones:
            if sender.streams.get(stream.stream) is stream:
                stream.gone()  # of what was sent nobody takes more
                sender.end(stream, self._end_of_watch(stream.stream), whole=stream.ended)
        await self.quiet()
        if self.kind == "right":
            self._look_at_right_ends()
        for _ in range(CHECKS):
            self.client.check_liveness()
            await self.quiet()
        for now in (0.0, 1000.0):
            self.server.cut_slow_streams(now)
            await self.quiet()
        self.client.close()
        await self.quiet()
        if not self.server_lost:
            self.server.connection_lost(None)
        self._look_at_what_is_left()
        return sum(isinstance(end, bytes) for one in self.asked for end in one.ends)

    def _end_of_watch(self, stream: int) -> bytes:
        if len(self.told) > 1:
            return ok_trailers(stream)
        return trailers_frame(stream, Code.NOT_FOUND, "no such service", headers_sent=False)

    def _look_at_right_ends(self) -> None:
        """Nothing was changed on the way."""
        for one in self.asked:
            one.check_end(drained=self.drained, allowed=self.allowed)
            assert one.delivered <= 1
        assert not self.side.queue.counts.cuts, self.side.queue.counts.cuts
        whole = self.told[1 : len(self.heard) + 1]
        assert self.heard == whole
        if self.told and self.watch_ends and isinstance(self.watch_ends[0], bytes):
            assert len(self.heard) == len(self.told) - 1
        if not self.drained:
            assert self.client.usable

    def _look_at_what_is_left(self) -> None:
        """Of either side, whatever was said."""
        queue = self.side.queue
        for one in self.asked:
            assert len(one.ends) == (0 if one.cancelled else 1), (one.ends, one.cancelled)
            assert one.delivered <= 1 or self.to_server.broken
            if not (self.to_server.broken or self.to_client.broken or one.cancelled):
                assert not isinstance(one.ends[0], bytes) or one.ends[0] == one.answer
        told, asked = self.replied + sum(map(len, self.told)), sum(len(one.payload) for one in self.asked)
        assert len(self.to_client.written) <= 10_000 + 2 * told + MOST_TIMES * self.to_server.taken
        assert len(self.to_server.written) <= 10_000 + 2 * asked + MOST_TIMES * (asked + self.to_client.taken)
        assert len(self.watch_ends) <= 1
        assert self.closed == 1
        assert not queue.connections
        assert not self.server.streams
        assert queue.unfinished_bytes == 0
        assert queue.in_progress == 0
        ended = self._endings()
        assert ended <= RIGHT_CODES, ended
        flood, wrong = http2.ENHANCE_YOUR_CALM in self._goodbyes(self.to_client), queue.counts.cuts["protocol"]
        assert flood == bool(queue.counts.cuts["flood"])
        if wrong:
            assert self._goodbyes(self.to_client) & RIGHT_CODES
        look_at_answers(list(FrameReader(2**24).feed(bytes(self.to_client.written))))

    def _goodbyes(self, pipe: Pipe) -> set[int]:
        """Codes of the GOAWAY that a side has written, without those that blame nobody."""
        found = FrameReader(2**24).feed(bytes(pipe.written).removeprefix(http2.PREFACE))
        codes = {http2.UINT32.unpack_from(got.payload, 4)[0] for got in found if got.kind == http2.GOAWAY}
        return codes - {http2.NO_ERROR}

    def _endings(self) -> set[int]:
        return self._goodbyes(self.to_server) | self._goodbyes(self.to_client)

    async def fault(self) -> None:
        """One that is known, to one of the sides: its connection ends there and then, with the right code."""
        await self.quiet()
        data, code = self.source.choice(FAULTS)
        towards, back = self.source.choice(((self.to_server, self.to_client), (self.to_client, self.to_server)))
        assert not self._endings()
        towards.waiting += data
        await self.quiet()
        assert self._goodbyes(back) == {code}, (data[:20].hex(), code, self._goodbyes(back))
        assert self.client_wire.closing
        assert self.server_lost


@asynccontextmanager
async def both_codecs() -> AsyncIterator[Trial]:
    """Our client's connection to our server's: see this module."""
    with capture_logs() as said:

        async def trial(source: random.Random) -> int:
            talk = Conversation(source)
            for _ in range(source.choice((2, 10, 40))):
                talk.step()
                if source.random() < 0.7:
                    await talk.carry(source.choice((1, 9, 100, 5000, 2**20)))
            if talk.kind == "fault":
                await talk.fault()
            answered = await talk.end()
            assert not [entry for entry in said if entry["log_level"] == "error"], said
            said.clear()
            return answered

        yield trial


TARGETS = (Target(name="both codecs", inputs=20_000, open=both_codecs),)
