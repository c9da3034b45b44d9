"""What connections of our own HTTP/2 server share: limits, header blocks seen, calls that arrived. Knows no frame."""

import asyncio
import time
from typing import TYPE_CHECKING, Final

from abfleet_transport.call import Call, Cancelled, Deliver
from abfleet_transport.header_block import Head, decode, head_of
from abfleet_transport.http2_call import Http2Call
from abfleet_transport.plan import FAILED_DELIVERY, ServerPlan, log_failed_delivery

if TYPE_CHECKING:
    from abfleet_transport.behind import Behind
    from abfleet_transport.http2_connection import ServerConnection

KEPT_BLOCKS: Final = 4096
MAX_KEPT_BLOCK: Final = 512
"""Longer ones are decoded each time: those of gRPC clients have some 200 bytes, and differ in few of them."""
MAX_UNFINISHED_BYTES: Final = 64 * 1024 * 1024
"""Of messages that are not whole yet, on all connections together: what may wait in lanes, too."""


class Intake:
    """Changed only on the event loop."""

    def __init__(self, plan: ServerPlan, deliver: Deliver, cancelled: Cancelled, behind: "Behind") -> None:
        self.plan = plan
        self.behind = behind
        """Who serves what is not delivered as calls."""
        self.loop = asyncio.get_running_loop()
        self.methods = {path: index for index, path in enumerate(plan.methods)}
        self.connections: set[ServerConnection] = set()
        self.emptied = asyncio.Event()
        """Set when the last connection has gone; cleared by who waits for it."""
        self.oversized = 0
        self.unfinished_bytes = 0
        """Of messages that are not whole yet."""
        self._deliver = deliver
        self._cancelled = cancelled
        self._heads: dict[bytes, Head] = {}
        self._arrived: list[Http2Call] = []

    @property
    def in_progress(self) -> int:
        """Calls that have been delivered and not answered."""
        return sum(connection.in_progress for connection in self.connections)

    def head(self, block: bytes) -> Head:
        """What a block without a table says. Raises ProtocolError."""
        found = self._heads.get(block)
        if found is None:
            found = head_of(decode(block))
            if len(block) <= MAX_KEPT_BLOCK:
                if len(self._heads) >= KEPT_BLOCKS:
                    self._heads.clear()
                self._heads[block] = found
        return found

    def arrived(self, call: Http2Call) -> None:
        """A call is whole; all that come in one turn of the loop are delivered together."""
        if not self._arrived:
            self.loop.call_soon(self._hand_over)
        self._arrived.append(call)

    def _hand_over(self) -> None:
        arrived, self._arrived = self._arrived, []
        now = time.monotonic()
        calls: list[Call] = []
        for call in arrived:
            if call.waits:  # else its caller has gone in the same turn
                call.delivered = True
                call.arrived = now
                timeout = call.head.timeout_seconds
                if timeout is not None:
                    call.deadline = now + timeout
                calls.append(call)
        try:
            self._deliver(calls)
        except Exception:  # noqa: BLE001 - its calls would wait for ever
            log_failed_delivery(len(calls))
            for failed in calls:
                failed.fail(*FAILED_DELIVERY)

    def gone(self, call: Http2Call) -> None:
        """The caller of a call has gone."""
        if call.delivered:
            self._cancelled(call)
