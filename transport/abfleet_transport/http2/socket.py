"""The socket under one client's connection: one write a turn, how long we wait for whom, endings."""

import asyncio
import ipaddress
from typing import Final, cast

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.allowance import BURST_UNITS, FRESH_UNITS, Allowance, ClientAddress, spent
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.frames import ProtocolError

UNREAD_BYTES: Final = 256 * 1024
"""Of answers, beside what the kernel takes: a client that lets more wait is not read from until it has read."""
UNREAD_SECONDS: Final = 30.0
"""And for no longer than this."""
CLOSE_SECONDS: Final = 2.0
"""For a client to take what was said last and to close, before it is cut."""

DUE_UNITS: Final = 64
"""Of work that serves no call, before it is asked whether that was too much."""
BYTES_A_UNIT: Final = 128
"""Read from a client; what is in them costs more."""

SUSPECT_BYTES_A_UNIT: Final = 32
"""Of one that is suspect, whose small parts cost most by being read."""


class ConnectionSocket(asyncio.BufferedProtocol):
    """Everything here runs on the event loop, and is changed only by this class and those built on it."""

    __slots__ = (
        "_address",
        "_due",
        "_out",
        "_own",
        "_patience",
        "_plan",
        "_queue",
        "_transport",
        "_unread",
        "_writer",
        "closed",
        "loop",
        "peer",
        "suspect",
        "thread",
        "thread_id",
    )

    def __init__(self, queue: CallQueue) -> None:
        self.loop = queue.loop
        self.thread_id = queue.thread_id
        self.thread = queue.thread_id()
        self.peer = ""
        self.closed = False  # what comes is not read any more
        self._queue = queue
        self._plan = queue.plan
        self._transport: asyncio.Transport | None = None
        self._writer: asyncio.Transport | None = None  # None once nothing more is to be said
        self._out: list[bytes] = []  # written at the end of the turn
        self._patience: asyncio.TimerHandle | None = None
        self._unread = False  # the client does not read what is written
        self._address: ClientAddress | None = None
        self._own = Allowance(queue.clock())
        self._due = 0  # units of work since both were last asked
        self.suspect = False
        """Whether it is read from last; changed only here."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._writer = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=UNREAD_BYTES)
        self.peer = peer_name(transport)
        address = self._address = self._queue.address(host_of(self.peer))
        if address.is_suspect(self._queue.clock()):
            self.suspect = True
            self._transport.pause_reading()
            self._queue.wait(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._writer = None
        self._out.clear()
        self._stop_waiting()
        if self._address is not None:
            spent(self._own, self._address, self._due, self._queue.clock())
            self._address.connections -= 1
            self._address = None

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._unread = True
        self._transport.pause_reading()
        if not self.closed:
            self._wait(UNREAD_SECONDS)

    def resume_writing(self) -> None:
        assert self._transport is not None
        self._unread = False
        if not self.closed:
            self._stop_waiting()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._queue.small_buffer if self.suspect else self._queue.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._queue.whole_buffer[:nbytes])
        self._queue.read_units += nbytes // BYTES_A_UNIT
        if self.suspect:
            self._due += nbytes // SUSPECT_BYTES_A_UNIT
        self.data_received(data)
        transport = self._transport
        if transport is not None and not transport.is_closing() and self._queue.holds_up(self):
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Reads bytes that the client has sent, cut anywhere."""
        raise NotImplementedError

    def read_on(self) -> None:
        """Reads again, because the next turn has begun."""
        if not self._unread and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- what the client has us do -----------------------------------------------------------------------------------

    @property
    def is_paced(self) -> bool:
        """Whether it is not read from but at its turn among all suspects: not before it has had something done."""
        return self.suspect and self._own.units - self._due < BURST_UNITS - FRESH_UNITS

    def _charge(self, units: int) -> None:
        """The client has us do so much that serves no call. Raises ProtocolError where that is a flood."""
        self._queue.read_units += units
        self._due += units
        if self._due > DUE_UNITS:
            self._settle()

    def _credit(self, units: int) -> None:
        """A call has been answered, which is worth so much."""
        if self._due > -BURST_UNITS:
            self._due -= units
        self.suspect = False

    def _settle(self) -> None:
        due, self._due = self._due, 0
        if self._address is None:
            return
        now = self._queue.clock()
        flood, greedy = spent(self._own, self._address, due, now)
        self.suspect |= greedy
        if flood:
            self._address.flooded_at = now
            raise ProtocolError("too many frames and requests that serve no call", http2.ENHANCE_YOUR_CALM)

    # --- one write a turn ---------------------------------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        """Cuts the connection after so long."""
        self._stop_waiting()
        self._patience = self.loop.call_later(seconds, self._run_out)

    def _run_out(self) -> None:
        """The client has had its time."""
        if not self.closed:
            self._queue.cut("slow", self.peer)
        self.abort()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _write(self, data: bytes) -> None:
        out = self._out
        if not out:
            self.loop.call_soon(self._flush)
        out.append(data)

    def _flush(self) -> None:
        out, self._out = self._out, []
        writer = self._writer
        if out and writer is not None and not writer.is_closing():
            writer.write(out[0] if len(out) == 1 else b"".join(out))

    # --- endings ------------------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Cuts the connection; what is open on it is gone."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def _leave(self) -> None:
        """Everything is answered: says no more, and waits for the client to close.

        To close at once could cost the client the last answers, because whatever it has sent meanwhile and nobody reads
        makes the kernel reset the connection.
        """
        self._flush()
        self.closed = True
        writer, self._writer = self._writer, None
        if writer is not None and not writer.is_closing():
            try:
                writer.write_eof()
            except OSError:  # it has gone, which nobody has heard of yet
                self.abort()
            else:
                self._wait(CLOSE_SECONDS)

    def _fail(self, last_stream: int, error: ProtocolError) -> None:
        """The client has broken the protocol: says so, and closes."""
        self._queue.cut("flood" if error.code == http2.ENHANCE_YOUR_CALM else "protocol", self.peer, str(error))
        self._write(http2.goaway(last_stream, error.code, str(error).encode()[:200]))
        self._flush()
        self.closed = True
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            self._wait(CLOSE_SECONDS)


def peer_name(transport: asyncio.BaseTransport) -> str:
    """Who is at the other end, as gRPC writes it."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple):
        return "unix:"
    host, port = name[:2]
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


def host_of(peer: str) -> str:
    """The address of a client without its port; of IPv6 the network of 64 bits, which one customer has all of."""
    host = peer.partition(":")[2].rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host  # of a unix socket
    if isinstance(address, ipaddress.IPv4Address) or address.ipv4_mapped is not None:
        return host
    return str(ipaddress.IPv6Network((int(address), 64), strict=False))
