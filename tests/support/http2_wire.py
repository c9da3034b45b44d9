"""A client's connection to our own HTTP/2 server without a socket: what is fed is read, what is written is kept."""

import asyncio
from typing import Any, cast

from abfleet_transport.call import Call
from abfleet_transport.http2.call_queue import CallQueue
from abfleet_transport.http2.connection import ServerConnection
from abfleet_transport.http2.forwarding import ForwardedStream, GrpcioBackend
from abfleet_transport.http2.header_block import Head
from abfleet_transport.plan import ServerPlan

from tests.support.frames import Frame, FrameReader


class NothingBehind:
    """Takes streams that are no calls, and never answers them."""

    def open(self, connection: ServerConnection, stream: int, head: Head, window: int) -> ForwardedStream:
        """A stream that nobody carries."""
        return ForwardedStream(connection, stream, head, window)


class Wire:
    """The transport that the connection has."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.closing = False
        self.ended = False
        """No more is written, though it is read on."""
        self.reads = True

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def write_eof(self) -> None:
        self.ended = True

    def set_write_buffer_limits(self, high: int) -> None: ...

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def frames(self) -> list[Frame]:
        """What was written since the last look."""
        data, self.written = bytes(self.written), bytearray()
        return list(FrameReader(2**24).feed(data))

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None


class ServerSide:
    """What connections share; what they deliver is in `calls`, and what was given up in `gone`."""

    def __init__(self, methods: tuple[str, ...] = ("/Recommender/Recommend",), **limits: int) -> None:
        self.calls: list[Call] = []
        self.gone: list[Call] = []
        plan = ServerPlan(address="", methods=methods, add_services=lambda server: None, **limits)  # type: ignore[arg-type]
        self.queue = CallQueue(plan, self.calls.extend, self.gone.append, cast(GrpcioBackend, NothingBehind()))

    def connect(self) -> tuple[ServerConnection, Wire]:
        """A new connection."""
        connection, wire = ServerConnection(self.queue), Wire()
        connection.connection_made(cast(asyncio.Transport, wire))
        return connection, wire
