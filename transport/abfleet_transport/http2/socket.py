"""The socket under one client's connection: one write a turn, how long we wait for whom, endings."""

import asyncio
import ipaddress
from collections.abc import Callable
from typing import Final

from abfleet_transport.end_of_turn import end_of_turn
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import ProtocolError

UNREAD_BYTES: Final = 256 * 1024
"""Of answers, beside what the kernel takes: a client that lets more wait is not read from until it has read."""
UNREAD_SECONDS: Final = 30.0
"""And for no longer than this."""
CLOSE_SECONDS: Final = 2.0
"""For a client to take what was said last and to close, before it is cut."""


class ConnectionSocket:
    """Everything here runs on the event loop.

    Attributes:
        closed: What comes is not read any more.
        peer: Who is at the other end, as gRPC writes it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, cut: Callable[[str, str, str], None]) -> None:
        """`cut` hears of a connection that is ended for what its client does: reason, peer, and why."""
        self.loop = loop
        self._cut = cut
        self._turn = end_of_turn(loop)
        self._transport: asyncio.Transport | None = None
        self._writer: asyncio.Transport | None = None  # None, too, once nothing more is to be said
        self._out: list[bytes] = []  # written at the end of the turn
        self._patience: asyncio.TimerHandle | None = None
        self._unread = False  # the client does not read what is written
        self.closed = False
        self.peer = ""

    def open(self, transport: asyncio.Transport) -> None:
        """It is there."""
        self._transport = self._writer = transport
        self.peer = peer_name(transport)
        transport.set_write_buffer_limits(high=UNREAD_BYTES)

    # --- reading ------------------------------------------------------------------------------------------------------

    def pause_reading(self) -> bool:
        """Reads no more until `read_on`; False where it will not read in any case."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.pause_reading()
        return True

    def read_on(self) -> None:
        """Reads again, unless the client does not read."""
        if not self._unread and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The client does not read, so it is not read from."""
        self._unread = True
        self.pause_reading()
        if not self.closed:
            self.wait(UNREAD_SECONDS)

    def resume_writing(self) -> None:
        """The client has read."""
        self._unread = False
        if not self.closed:
            self._stop_waiting()
        self.read_on()

    # --- one write a turn ---------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Writes at the end of the turn."""
        out = self._out
        if not out:
            self._turn.add(self.flush)
        out.append(data)

    def flush(self) -> None:
        """Writes now what waits."""
        out, self._out = self._out, []
        writer = self._writer
        if out and writer is not None and not writer.is_closing():
            writer.write(out[0] if len(out) == 1 else b"".join(out))

    # --- endings ------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        """Cuts the connection after so long."""
        self._stop_waiting()
        self._patience = self.loop.call_later(seconds, self.run_out)

    def run_out(self) -> None:
        """The client has had its time."""
        if not self.closed:
            self._cut("slow", self.peer, "")
        self.abort()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def abort(self) -> None:
        """Cuts the connection; what is open on it is gone."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def lost(self) -> None:
        """It has ended."""
        self.closed = True
        self._writer = None
        self._out.clear()
        self._stop_waiting()

    def leave(self) -> None:
        """Everything is answered: says no more, and waits for the client to close.

        To close at once could cost the client the last answers, because whatever it has sent meanwhile and nobody reads
        makes the kernel reset the connection.
        """
        self.flush()
        self.closed = True
        writer, self._writer = self._writer, None
        if writer is not None and not writer.is_closing():
            try:
                writer.write_eof()
            except OSError:  # it has gone, which nobody has heard of yet
                self.abort()
            else:
                self.wait(CLOSE_SECONDS)

    def fail(self, last_stream: int, error: ProtocolError) -> None:
        """The client has broken the protocol: says so, and closes."""
        self._cut("flood" if error.code == http2.ENHANCE_YOUR_CALM else "protocol", self.peer, str(error))
        self.write(http2.goaway(last_stream, error.code, str(error).encode()[:200]))
        self.flush()
        self.closed = True
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            self.wait(CLOSE_SECONDS)


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
