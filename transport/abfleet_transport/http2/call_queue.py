"""What connections of our own HTTP/2 server share: limits, header blocks seen, calls that arrived.

A turn of the loop has room for so much and no more, because answers of workers come in the same turns as calls: where
more calls come than can be handled, those that are in must still be answered in time. So calls that have been read wait
here for a turn that has room, and while many of them wait, and the oldest for too long, those that come are refused at
once.
"""

import asyncio
import resource
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from abfleet_transport.call import Call, Cancelled, Code, Deliver
from abfleet_transport.http2.allowance import ClientAddress
from abfleet_transport.http2.call import Http2Call
from abfleet_transport.http2.header_block import ENTRY_OVERHEAD, Fields, Head, decode, head_of
from abfleet_transport.plan import ServerPlan, hand_over, log_failed_delivery

if TYPE_CHECKING:
    from abfleet_transport.http2.forwarding import GrpcioBackend

TURN_CALLS: Final = 64
"""Delivered in one turn: some three milliseconds of work. A batch's way to a worker and back takes two turns, so long
ones would bound the batches a second, and with them the calls that are answered."""
READ_BYTES: Final = 16 * 1024
"""Of one connection in one turn: some 80 calls."""
CALL_UNITS: Final = 8
"""What a call that is read counts, in units of about 2 µs."""
READ_UNITS: Final = 1024
"""Of work in one turn, before connections have to wait for the next one: 128 calls, or so many frames without one."""
SUSPECTS: Final = 16
"""Connections of floods that are read from, FULL_TURN_BYTES each, in each SUSPECT_SECONDS: none may keep the loop."""
SUSPECT_SECONDS: Final = 0.01
NEWCOMERS: Final = 8
"""Connections from the address of a flood that are read from in one turn, as long as they have had hardly more done
than a greeting."""
MAX_ADDRESSES: Final = 10_000
"""Of clients; past that those that have gone are forgotten."""
FULL_TURN_BYTES: Final = 512
"""Read of each of the others that are ready in the same turn; nothing at all cannot be asked for."""
LONGEST_WAIT_SECONDS: Final = 0.15
"""For a turn, where many wait. A process that is held up for the 100 ms of a container's CPU quota refuses nobody."""
MANY_CALLS: Final = 16 * TURN_CALLS
"""What fewer wait for is no queue but a pause of the process, and over in a few turns."""
MAX_CALLS: Final = 8192
"""Read and not delivered."""
PUSHBACK_MS: Final = 200
"""When a refused caller may come again."""
REFUSAL: Final = "overloaded: too many calls wait to be read; try again later"
KEPT_BLOCKS: Final = 4096
"""Header blocks whose meaning is kept; when there are more, all are dropped."""
MAX_KEPT_BLOCK: Final = 512
"""Longer ones are decoded each time: those of gRPC clients have some 200 bytes, and differ in few of them."""
MAX_KEPT_METADATA: Final = 16
"""Nor are those kept that have more fields: a byte of a block may become a hundred of ours."""
MAX_UNFINISHED_BYTES: Final = 64 * 1024 * 1024
"""Of messages that are not whole yet, on all connections: as much as may wait in batch queues, too. More where
single messages are that large."""
SPARE_DESCRIPTORS: Final = 128
"""Of the process, that connections must leave to files and to workers."""

CUTS: Final = ("flood", "protocol", "slow", "crowded")
REFUSALS: Final = ("malformed", "not_grpc", "metadata", "header", "message", "streams", "crowded", "slow")

log = structlog.get_logger("abfleet.transport")


class PausedConnection(Protocol):
    """A connection that is not read from until the next turn."""

    suspect: bool
    """Whether it, or its address, has sent a flood."""

    @property
    def is_paced(self) -> bool:
        """Whether it has more done than its calls are worth, so that it is read from last."""

    def read_on(self) -> None:
        """Reads from it again, unless its client does not read."""


class OpenConnection(Protocol):
    """A connection that is open, as the queue counts it and the server ends it."""

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""

    def cut_slow_streams(self, now: float) -> None:
        """Cuts streams whose client takes too long; `now` in seconds of a monotonic clock."""

    def drain(self) -> None:
        """Takes no more calls, answers those that were sent, then closes."""

    def abort(self) -> None:
        """Cuts it at once; calls that are open on it are given up."""


class CallQueue:
    """Changed only on the event loop."""

    def __init__(self, plan: ServerPlan, deliver: Deliver, cancelled: Cancelled, backend: "GrpcioBackend") -> None:
        self.plan = plan
        self.backend = backend
        """Who serves what is not delivered as calls."""
        self.loop = asyncio.get_running_loop()
        self.clock = plan.machine.clock
        self.thread_id = plan.machine.thread_id
        self.methods = {path: index for index, path in enumerate(plan.methods)}
        self.connections: dict[OpenConnection, None] = {}  # oldest first
        self.emptied = asyncio.Event()
        """Set when the last connection has gone; cleared by who waits for it."""
        self.most_connections = plan.max_connections or most_connections()
        self.draining = False
        """Whether connections that come now are drained at once; changed only by the server."""
        self.oversized = 0
        """Calls refused because their message was too large."""
        self.unfinished_bytes = 0
        """Of messages that are not whole yet."""
        self.most_unfinished_bytes = max(MAX_UNFINISHED_BYTES, 4 * plan.max_message_bytes)
        self._most_fields = plan.max_metadata_bytes // ENTRY_OVERHEAD
        self._deliver = deliver
        self._cancelled = cancelled
        self.heads: dict[bytes, Head] = {}
        """What header blocks without a table say that were seen before; changed only here."""
        self._arrived: deque[Http2Call] = deque()  # oldest first
        self.read_units = 0
        """Of work that was read in this turn; changed only by connections."""
        self._held_up: list[PausedConnection] = []  # not read from until the next turn
        self._turn_is_due = False
        self.whole_buffer = memoryview(bytearray(READ_BYTES))
        """What `buffer` is a part of."""
        self.small_buffer = self.whole_buffer[:FULL_TURN_BYTES]
        """For what is read next of a connection that is suspect."""
        self._suspects: deque[PausedConnection] = deque()  # not read from until it is their turn
        self._suspects_are_due = False
        self._newcomers: deque[PausedConnection] = deque()  # suspects of whom nothing is known yet
        self._addresses: dict[str, ClientAddress] = {}
        self.cuts: Counter[str] = Counter()
        """Connections that we have ended, by reason."""
        self.refusals: Counter[str] = Counter()
        """Requests that were refused before they were delivered, by reason."""
        self.refused = 0
        """Calls refused because too many waited for a turn."""

    @property
    def buffer(self) -> memoryview:
        """For what is read next; of one connection until it has taken it."""
        return self.whole_buffer if self.read_units < READ_UNITS else self.small_buffer

    @property
    def waiting_calls(self) -> int:
        """Calls that have been read and not delivered."""
        return len(self._arrived)

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""
        return sum(connection.in_progress for connection in self.connections)

    def fields(self, block: bytes) -> Fields:
        """The fields of a block without a table; of too many no more than what shows it. Raises ProtocolError."""
        return decode(block, self._most_fields)

    def head(self, block: bytes) -> Head:
        """What a block without a table says. Raises ProtocolError."""
        head = head_of(self.fields(block))
        if len(block) <= MAX_KEPT_BLOCK and len(head.metadata) <= MAX_KEPT_METADATA:
            if len(self.heads) >= KEPT_BLOCKS:
                self.heads.clear()
            self.heads[block] = head
        return head

    # --- clients ------------------------------------------------------------------------------------------------------

    def address(self, host: str) -> ClientAddress:
        """What the connections from there share; one more has come."""
        address = self._addresses.get(host)
        if address is None:
            if len(self._addresses) >= MAX_ADDRESSES:
                self._forget_addresses()
            address = self._addresses[host] = ClientAddress(self.clock())
        address.connections += 1
        return address

    def _forget_addresses(self) -> None:
        """Those without a connection: what they owe they owe for two seconds at most."""
        for host in [host for host, address in self._addresses.items() if not address.connections]:
            del self._addresses[host]

    def cut(self, reason: str, peer: str, why: str = "") -> None:
        """Counts and logs a connection that is ended because of what its client does."""
        self.cuts[reason] += 1
        say = log.warning if reason == "flood" else log.info
        say(f"a client was cut off ({reason})", peer=peer, why=why)

    def refuse(self, reason: str, peer: str, why: str) -> None:
        """Counts and logs a request that is refused before it is delivered."""
        self.refusals[reason] += 1
        log.info(f"a request was refused ({reason})", peer=peer, why=why)

    def arrived(self, call: Http2Call) -> None:
        """A call is whole: it is delivered with those that come in the same turn, or refused."""
        arrived, now = self._arrived, self.clock()
        call.arrived = now
        self.read_units += CALL_UNITS
        if len(arrived) >= MANY_CALLS and (
            now - arrived[0].arrived > LONGEST_WAIT_SECONDS or len(arrived) >= MAX_CALLS
        ):
            self.refused += 1
            call.fail(Code.RESOURCE_EXHAUSTED, REFUSAL, pushback_ms=PUSHBACK_MS)
            return
        arrived.append(call)
        if not self._turn_is_due:
            self._turn_soon()

    def holds_up(self, connection: PausedConnection) -> bool:
        """Whether this connection should not be read from until `read_on`, because the turn has read enough."""
        if connection.is_paced:
            self._suspects.append(connection)
            if not self._suspects_are_due:
                self._suspects_are_due = True
                self.loop.call_later(SUSPECT_SECONDS, self._read_suspects)
            return True
        if connection.suspect:
            self.wait(connection)
            return True
        if self.read_units < READ_UNITS:
            return False
        self._held_up.append(connection)
        self._turn_soon()
        return True

    def wait(self, newcomer: PausedConnection) -> None:
        """It is read from, by `read_on`, in one of the next turns."""
        self._newcomers.append(newcomer)
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self.loop.call_soon(self._turn)

    def _read_suspects(self) -> None:
        for _ in range(min(SUSPECTS, len(self._suspects))):
            self._suspects.popleft().read_on()
        self._suspects_are_due = bool(self._suspects)
        if self._suspects_are_due:
            self.loop.call_later(SUSPECT_SECONDS, self._read_suspects)

    def _turn(self) -> None:
        self._turn_is_due = False
        self.read_units = 0
        held_up, self._held_up = self._held_up, []
        for connection in held_up:
            connection.read_on()
        for _ in range(min(NEWCOMERS, len(self._newcomers))):
            self._newcomers.popleft().read_on()
        if self._newcomers:
            self._turn_soon()
        arrived, calls = self._arrived, list[Call]()
        while arrived and len(calls) < TURN_CALLS:
            call = arrived.popleft()
            if call.waits:  # else its caller has gone meanwhile
                call.delivered = True
                timeout = call.head.timeout_seconds
                if timeout is not None:
                    call.deadline = call.arrived + timeout
                calls.append(call)
        if arrived:
            self._turn_soon()
        if calls:
            hand_over(self._deliver, calls)

    def families(self) -> Iterable[Metric]:
        """What waits, and what was refused before it was read."""
        yield GaugeMetricFamily(
            "abfleet_unread_calls", "Calls received that wait for a turn of the event loop.", value=self.waiting_calls
        )
        yield CounterMetricFamily(
            "abfleet_refused_unread",
            "Calls refused before they were read: not assigned, and not in the decision log.",
            value=self.refused,
        )
        refusals = CounterMetricFamily(
            "abfleet_requests_refused",
            "Requests refused by the transport: not assigned, and not in the decision log.",
            labels=["reason"],
        )
        for reason in REFUSALS:
            refusals.add_metric([reason], self.refusals[reason])
        yield refusals
        cuts = CounterMetricFamily(
            "abfleet_connections_cut", "Connections ended because of what their client did.", labels=["reason"]
        )
        for reason in CUTS:
            cuts.add_metric([reason], self.cuts[reason])
        yield cuts

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
