"""TCP connections: two ends, a pipe each way, and the path that both take. They keep order and promise nothing else."""

import asyncio
import socket
from collections import deque
from typing import Any, cast

from tests.simulation.world import Process, World

KERNEL_BYTES = 128 * 1024
"""Sent and not read yet, on one connection, before a writer has to wait."""


class Path:
    """Between two hosts, both ways."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.extra = 0.0
        self.cuts = 0
        self.epoch = 0
        self.pipes: list[Pipe] = []

    @property
    def cut(self) -> bool:
        return self.cuts > 0


class Socket:
    """What is asked of a connection's socket."""

    def __init__(self) -> None:
        self.keepalive_seconds = float("inf")

    def setsockopt(self, level: int, option: int, value: int) -> None:
        if (level, option) == (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE):
            self.keepalive_seconds = value


class Pipe:
    """One direction of a connection."""

    def __init__(self, world: World, source: "Transport", target: "Transport", path: Path, chance: Any) -> None:
        self.source = source
        self._world = world
        self._target = target
        self._path = path
        self._chance = chance
        self._last = 0.0
        self._held: list[tuple[str, bytes]] = []

    def send(self, kind: str, data: bytes = b"") -> None:
        """In order, after a while, in pieces."""
        chance = self._chance
        if len(data) > 1 and chance.random() < 0.1:
            place = chance.randrange(1, len(data))
            self._send(kind, data[:place])
            data = data[place:]
        self._send(kind, data)

    def _send(self, kind: str, data: bytes) -> None:
        path, world = self._path, self._world
        if path.cut or self._held:
            self._hold(kind, data)
            return
        delay = (path.latency + path.extra) * (1 + 0.5 * self._chance.random())
        self._last = max(self._last, world.now + delay)
        world.at(self._last, self._arrive, kind, data)

    def _arrive(self, kind: str, data: bytes) -> None:
        if self._path.cut or self._held:
            self._hold(kind, data)
        else:
            self._target.take(kind, data)

    def _hold(self, kind: str, data: bytes) -> None:
        if kind != "reset":  # which nobody sends twice
            self._held.append((kind, data))

    def send_again(self) -> None:
        """The path is whole again; TCP tries at some time."""
        if self._held:
            world = self._world
            world.at(world.now + self._chance.uniform(0.01, 0.8), self._flush)

    def _flush(self) -> None:
        if not self._path.cut:
            held, self._held = self._held, []
            for kind, data in held:
                self._target.take(kind, data)

    def close(self) -> None:
        """Forgets its path."""
        if self in self._path.pipes:
            self._path.pipes.remove(self)


class Transport(asyncio.Transport):
    """One end of a connection, as asyncio shows it to a protocol."""

    def __init__(self, world: World, process: Process, remote: tuple[str, int], number: int) -> None:
        super().__init__()
        self.process = process
        self.sock = Socket()
        self.peer: Transport | None = None
        self.out: Pipe | None = None
        self.gone = False  # nothing comes or goes any more
        self.protocol: Any = None
        self._world = world
        self._remote = remote
        self._number = number
        self._inbox: deque[tuple[str, bytes]] = deque()
        self._unread = 0  # bytes of ours that the other end has not read
        self._buffer: deque[bytes] = deque()
        self._buffered = 0
        self._high, self._low = 64 * 1024, 16 * 1024
        self._write_paused = False
        self._paused = False
        self._closing = False
        self._said_end = False
        self._reads = False  # a turn is asked for

    # --- in a turn of the process -------------------------------------------------------------------------------------

    def begin(self, protocol: Any) -> None:
        """The protocol hears of the connection."""
        self.protocol = protocol
        protocol.connection_made(self)
        self._ask()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"socket": self.sock, "peername": self._remote}.get(name, default)

    def is_closing(self) -> bool:
        return self._closing or self.gone

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 64 * 1024 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return self._buffered

    def write(self, data: Any) -> None:
        if self.gone or self._closing or self._said_end or not data:
            return
        data = bytes(data)
        if self._buffer or self._unread + len(data) > KERNEL_BYTES:
            self._buffer.append(data)
            self._buffered += len(data)
            self._push()
            if self._buffered > self._high and not self._write_paused:
                self._write_paused = True
                self.protocol.pause_writing()
        else:
            self._send(data)

    def writelines(self, parts: Any) -> None:
        self.write(b"".join(parts))

    def _send(self, data: bytes) -> None:
        self._unread += len(data)
        cast(Pipe, self.out).send("data", data)

    def _push(self) -> None:
        """Sends what there is room for now."""
        while self._buffer and self._unread < KERNEL_BYTES:
            data, room = self._buffer.popleft(), KERNEL_BYTES - self._unread
            if len(data) > room:
                self._buffer.appendleft(data[room:])
                data = data[:room]
            self._buffered -= len(data)
            self._send(data)

    def _writable(self) -> None:
        if self.gone:
            return
        self._push()
        if self._write_paused and self._buffered <= self._low:
            self._write_paused = False
            self.protocol.resume_writing()
        if not self._buffer and (self._said_end or self._closing):
            self._finish()

    def write_eof(self) -> None:
        self._said_end = True
        if not self._buffer and not self.gone:
            self._finish()

    def can_write_eof(self) -> bool:
        return True

    def _finish(self) -> None:
        cast(Pipe, self.out).send("end")
        if self._closing:
            self._end(None)

    def close(self) -> None:
        if not self._closing and not self.gone:
            self._closing = True
            if not self._buffer:
                if not self._said_end:
                    cast(Pipe, self.out).send("end")
                self._end(None)

    def abort(self) -> None:
        if not self.gone:
            self._closing = True
            cast(Pipe, self.out).send("reset")
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        self.gone = True
        self._buffer.clear()
        self._buffered = 0
        cast(Pipe, self.out).close()
        if self.protocol is not None:
            self.process.loop.call_soon(self.protocol.connection_lost, error)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._ask()

    def _ask(self) -> None:
        if self._inbox and not self._reads and not self._paused and not self.gone and self.protocol is not None:
            self._reads = True
            self.process.loop.call_soon(self._read)

    def _read(self) -> None:
        self._reads = False
        if self._paused or self.gone or self._closing or not self._inbox:
            return
        kind, data = self._inbox.popleft()
        if kind == "data":
            protocol = self.protocol
            if isinstance(protocol, asyncio.BufferedProtocol):
                buffer = protocol.get_buffer(-1)
                size = min(len(buffer), len(data))
                buffer[:size] = data[:size]
                if size < len(data):
                    self._inbox.appendleft((kind, data[size:]))
                self._have_read(size)
                protocol.buffer_updated(size)
            else:
                self._have_read(len(data))
                protocol.data_received(data)
        elif kind == "end":
            if not self.protocol.eof_received():
                self.close()
        else:
            self.lose(ConnectionResetError(104, "Connection reset by peer"))
        self._ask()

    def _have_read(self, size: int) -> None:
        peer = self.peer
        if peer is not None:
            peer._unread -= size
            if peer._buffer and peer.process.alive and not peer.gone:
                peer.process.loop.call_soon(peer._writable)

    # --- in no process ------------------------------------------------------------------------------------------------

    def take(self, kind: str, data: bytes) -> None:
        """Something has arrived."""
        world = self._world
        if self.gone:
            if kind == "data" and self.peer is not None and not self.peer.gone:
                cast(Pipe, self.out).send("reset")  # nobody is there any more
            return
        world.say(f"{self.process.name} {self._number} {kind} {len(data)}")
        self._inbox.append((kind, data))
        self._ask()

    def lose(self, error: Exception) -> None:
        """The kernel says that it is over."""
        if not self.gone:
            self._end(error)

    def die(self) -> None:
        """Its process is gone, and the kernel closes."""
        if not self.gone:
            self.gone = True
            cast(Pipe, self.out).send("reset" if self._inbox else "end")
            cast(Pipe, self.out).close()
