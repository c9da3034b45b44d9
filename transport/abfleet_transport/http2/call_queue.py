"""What connections of our own HTTP/2 server share: limits, header blocks seen, calls that arrived.

A turn of the loop has room for so much and no more, because answers of workers come in the same turns as calls: where
more calls come than can be handled, those that are in must still be answered in time. So calls that have been read wait
here for a turn that has room, and while many of them wait, and the oldest for too long, those that come are refused at
once.
"""

import asyncio
import resource
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from abfleet_transport.call import Call, Cancelled, Code, Deliver
from abfleet_transport.end_of_turn import end_of_turn
from abfleet_transport.http2.allowance import ClientAddresses
from abfleet_transport.http2.call import Http2Call
from abfleet_transport.http2.header_block import ENTRY_OVERHEAD, HeaderBlocks
from abfleet_transport.http2.turns import ReadingTurns
from abfleet_transport.plan import ServerPlan, hand_over, log_failed_delivery

if TYPE_CHECKING:
    from abfleet_transport.http2.forwarding import GrpcioBackend

TURN_CALLS: Final = 64
"""Delivered in one turn: some three milliseconds of work. A batch's way to a worker and back takes two turns, so long
ones would bound the batches a second, and with them the calls that are answered."""
CALL_UNITS: Final = 8
"""What a call that is read counts, in units of about 2 µs."""
LONGEST_WAIT_SECONDS: Final = 0.15
"""For a turn, where many wait. A process that is held up for the 100 ms of a container's CPU quota refuses nobody."""
MANY_CALLS: Final = 16 * TURN_CALLS
"""What fewer wait for is no queue but a pause of the process, and over in a few turns."""
MAX_CALLS: Final = 8192
"""Read and not delivered."""
PUSHBACK_MS: Final = 200
"""When a refused caller may come again."""
REFUSAL: Final = "overloaded: too many calls wait to be read; try again later"
MAX_UNFINISHED_BYTES: Final = 64 * 1024 * 1024
"""Of messages that are not whole yet, on all connections: as much as may wait in batch queues, too. More where
single messages are that large."""
SPARE_DESCRIPTORS: Final = 128
"""Of the process, that connections must leave to files and to workers."""

CUTS: Final = ("flood", "protocol", "slow", "crowded")
REFUSALS: Final = ("malformed", "not_grpc", "metadata", "header", "message", "streams", "crowded", "slow")

log = structlog.get_logger("abfleet.transport")


class OpenConnection(Protocol):
    """A connection that is open, as the queue counts it and the server ends it."""

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""

    def cut_slow_streams(self, now: float) -> None:
        """Cuts streams whose client takes too long; `now` in seconds of a monotonic clock."""

    @property
    def drain(self) -> Callable[[], None]:
        """Takes no more calls, answers those that were sent, then closes."""

    @property
    def abort(self) -> Callable[[], None]:
        """Cuts it at once; calls that are open on it are given up."""


class RefusalCounts:
    """What was refused before it was delivered, and whom we have cut off; changed by whoever refuses.

    Attributes:
        refused: Calls refused because too many waited for a turn.
        oversized: Calls refused because their message was too large.
        cuts: Connections that we have ended, by reason.
        refusals: Requests that were refused, by reason.
    """

    def __init__(self) -> None:
        self.refused = 0
        self.oversized = 0
        self.cuts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()

    def cut(self, reason: str, peer: str, why: str = "") -> None:
        """Counts and logs a connection that is ended because of what its client does."""
        self.cuts[reason] += 1
        say = log.warning if reason == "flood" else log.info
        say(f"a client was cut off ({reason})", peer=peer, why=why)

    def refuse(self, reason: str, peer: str, why: str) -> None:
        """Counts and logs a request that is refused before it is delivered."""
        self.refusals[reason] += 1
        log.info(f"a request was refused ({reason})", peer=peer, why=why)

    def families(self) -> Iterable[Metric]:
        """All but what is too large, as metrics."""
        yield CounterMetricFamily(
            "abfleet_refused_unread",
            "Calls refused before they were read; they are not assigned, and not in the decision log.",
            value=self.refused,
        )
        refusals = CounterMetricFamily(
            "abfleet_requests_refused",
            "Requests refused by the transport; they are not assigned, and not in the decision log.",
            labels=["reason"],
        )
        for reason in REFUSALS:
            refusals.add_metric([reason], self.refusals[reason])
        yield refusals
        cuts = CounterMetricFamily(
            "abfleet_connections_cut", "Connections closed because of what their client did.", labels=["reason"]
        )
        for reason in CUTS:
            cuts.add_metric([reason], self.cuts[reason])
        yield cuts


class CallQueue:
    """What connections share, and the calls that they have read. Changed only on the event loop.

    Attributes:
        backend: Who serves what is not delivered as calls.
        methods: Indexes of the methods that are delivered as calls, by path.
        most_bytes: Of a message, by the index of its method.
        connections: Those that are open, oldest first.
        emptied: Set when the last connection has gone; cleared by who waits for it.
        draining: Whether connections that come now are drained at once; changed only by the server.
        unfinished_bytes: Of messages that are not whole yet; changed by `hold`.
    """

    def __init__(self, plan: ServerPlan, deliver: Deliver, cancelled: Cancelled, backend: "GrpcioBackend") -> None:
        self.plan = plan
        self.backend = backend
        self.loop = asyncio.get_running_loop()
        self.clock = plan.machine.clock
        self.thread_id = plan.machine.thread_id
        self.methods = {path: index for index, path in enumerate(plan.methods)}
        self.blocks = HeaderBlocks(plan.max_metadata_bytes // ENTRY_OVERHEAD)
        self.addresses = ClientAddresses(self.clock)
        self.counts = RefusalCounts()
        self.turns = ReadingTurns(self.loop, self._hand_over)
        self.connections: dict[OpenConnection, None] = {}
        self.emptied = asyncio.Event()
        self.most_connections = plan.max_connections or most_connections()
        self.draining = False
        self.unfinished_bytes = 0
        self.most_bytes = plan.most_bytes
        self._most_unfinished_bytes = max(MAX_UNFINISHED_BYTES, 4 * max(self.most_bytes, default=0))
        self._deliver = deliver
        self._cancelled = cancelled
        self._turn = end_of_turn(self.loop)
        self._arrived: deque[Http2Call] = deque()  # oldest first

    @property
    def waiting_calls(self) -> int:
        """Calls that have been read and not delivered."""
        return len(self._arrived)

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""
        return sum(connection.in_progress for connection in self.connections)

    def hold(self, count: int) -> bool:
        """So many more bytes (or fewer) of messages that wait here; False when that is too much."""
        self.unfinished_bytes += count
        return self.unfinished_bytes <= self._most_unfinished_bytes

    def arrived(self, call: Http2Call) -> None:
        """A call is whole: it is delivered with those that come in the same turn, or refused."""
        arrived, now = self._arrived, self.clock()
        call.arrived = now
        self.turns.read_units += CALL_UNITS
        if len(arrived) >= MANY_CALLS and (
            now - arrived[0].arrived > LONGEST_WAIT_SECONDS or len(arrived) >= MAX_CALLS
        ):
            self.counts.refused += 1
            call.fail(Code.RESOURCE_EXHAUSTED, REFUSAL, pushback_ms=PUSHBACK_MS)
            return
        arrived.append(call)
        self.turns.soon()

    def _hand_over(self) -> None:
        """Delivers what a turn has room for. What becomes of it at once, answers and batches, goes out at once."""
        arrived = self._arrived
        calls: list[Call] = []
        while arrived and len(calls) < TURN_CALLS:
            call = arrived.popleft()
            if call.waits:  # else its caller has gone meanwhile
                call.delivered = True
                timeout = call.head.timeout_seconds
                if timeout is not None:
                    call.deadline = call.arrived + timeout
                calls.append(call)
        if arrived:
            self.turns.soon()
        if calls:
            self._turn.begin()
            try:
                hand_over(self._deliver, calls)
            finally:
                if arrived:  # batches of this turn and the next one go out together, fuller
                    self._turn.put_off()
                else:
                    self._turn.end()

    def families(self) -> Iterable[Metric]:
        """What waits, and what was refused before it was read."""
        yield GaugeMetricFamily(
            "abfleet_unread_calls", "Received calls that wait for a turn of the event loop.", value=self.waiting_calls
        )
        yield from self.counts.families()

    def caller_gone(self, call: Http2Call) -> None:
        """Tells whoever took delivery of a call that its caller has gone; of a call not delivered it tells nobody."""
        if call.delivered:
            try:
                self._cancelled(call)
            except Exception:  # noqa: BLE001 - callers of the connection's other calls have gone, too
                log_failed_delivery(1)

    def connection_ended(self, connection: OpenConnection) -> None:
        """Forgets a connection; with the last one `emptied` is set."""
        self.connections.pop(connection, None)
        if not self.connections:
            self.emptied.set()


def most_connections() -> int:
    """The process' limit of descriptors without SPARE_DESCRIPTORS, and at least half of it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**31 if soft == resource.RLIM_INFINITY else max(soft // 2, soft - SPARE_DESCRIPTORS)
