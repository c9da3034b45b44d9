"""A network of hosts that a process is alone on: TCP connections that keep order and nothing else, and a DNS.

Bytes arrive late, cut anywhere; a path may be slow or cut; a process that is killed closes its connections, one that is
stopped closes nothing.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from tests.simulation.connections import Path, Pipe, Transport
from tests.simulation.world import Process, World

KEEPALIVE_SECONDS = 8.0
"""When the kernel gives up a connection that has keepalive and whose path is cut."""


class Network:
    """Hosts are names such as `10.0.0.1`; each belongs to the process that listens there, or calls from there."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names: dict[str, list[str]] = {}
        """What DNS says."""
        self.dns_fails = 0
        self.hosts: dict[Process, str] = {}
        self._random = world.random("network")
        self._paths: dict[tuple[str, str], Path] = {}
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._connections = 0
        self._ends: list[Transport] = []

    def attach(self, process: Process, host: str) -> None:
        """Gives a process its host."""
        self.hosts[process] = host
        process.loop.network = self
        process.on_death.append(lambda: self._die(process))

    def path(self, one: str, other: str) -> Path:
        """The path between two hosts."""
        key = (one, other) if one < other else (other, one)
        path = self._paths.get(key)
        if path is None:
            latency = self.world.random(f"path {key}").choice((0.00005, 0.0002, 0.001, 0.003))
            path = self._paths[key] = Path(latency)
        return path

    def ends(self, process: Process) -> "list[Transport]":
        """The open ends of connections that a process holds."""
        self._ends = [end for end in self._ends if not end.gone]
        return [end for end in self._ends if end.process is process]

    # --- faults -------------------------------------------------------------------------------------------------------

    def cut(self, one: str, other: str) -> None:
        """Nothing gets through until `heal`."""
        path = self.path(one, other)
        path.cuts += 1
        path.epoch += 1
        self.world.at(self.world.now + KEEPALIVE_SECONDS, self._give_up, path, path.epoch)

    def _give_up(self, path: Path, epoch: int) -> None:
        if path.cut and path.epoch == epoch:
            for pipe in list(path.pipes):
                if pipe.source.sock.keepalive_seconds <= KEEPALIVE_SECONDS and not pipe.source.gone:
                    pipe.source.lose(TimeoutError("keepalive"))

    def heal(self, one: str, other: str) -> None:
        """What was held up is sent again."""
        path = self.path(one, other)
        path.cuts -= 1
        if not path.cut:
            for pipe in list(path.pipes):
                pipe.send_again()

    def reset(self, process: Process, which: int) -> bool:
        """Both sides of one of its connections are told that it is over; False if it has none."""
        ends = self.ends(process)
        if not ends:
            return False
        end = ends[which % len(ends)]
        peer = end.peer
        end.lose(ConnectionResetError(104, "Connection reset by peer"))
        if peer is not None:
            peer.lose(ConnectionResetError(104, "Connection reset by peer"))
        return True

    # --- for loops ----------------------------------------------------------------------------------------------------

    async def resolve(self, process: Process, name: str, port: int) -> list[Any]:
        """As getaddrinfo."""
        await asyncio.sleep(self._random.uniform(0.001, 0.01))
        if self.dns_fails or not self.names.get(name):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (host, port)) for host in self.names[name]]

    def listen(self, process: Process, factory: Callable[[], Any], sock: "ListeningSocket") -> "Listener":
        """As create_server."""
        listener = Listener(self, process, factory, sock.address)
        self._listeners[sock.address] = listener
        return listener

    def unlisten(self, listener: "Listener") -> None:
        """Later connections are refused."""
        if self._listeners.get(listener.address) is listener:
            del self._listeners[listener.address]

    def is_taken(self, address: tuple[str, int]) -> bool:
        """Whether somebody listens there."""
        return address in self._listeners

    async def connect(self, process: Process, factory: Callable[[], Any], host: str, port: int) -> Any:
        """As create_connection."""
        answered: asyncio.Future[Transport] = process.loop.create_future()
        path = self.path(self.hosts[process], host)
        self._connections += 1
        number = self._connections
        self._knock(process, (host, port), path, answered, 1.0, number)
        end = await answered
        protocol = factory()
        end.begin(protocol)
        return end, protocol

    def _knock(
        self,
        process: Process,
        address: tuple[str, int],
        path: Path,
        answered: "asyncio.Future[Transport]",
        patience: float,
        number: int,
    ) -> None:
        if answered.done() or not process.alive:
            return
        world = self.world
        if path.cut:
            world.at(world.now + patience, self._knock, process, address, path, answered, 2 * patience, number)
            return
        way = path.latency + path.extra

        def arrive() -> None:
            if path.cut:
                world.at(world.now + patience, self._knock, process, address, path, answered, 2 * patience, number)
                return
            listener = self._listeners.get(address)
            if listener is None:
                world.at(world.now + way, tell, None)
                return
            source = world.random(f"connection {number}")
            ours = Transport(world, process, address, number)
            theirs = Transport(world, listener.process, (self.hosts[process], 40000 + number), -number)
            ours.peer, theirs.peer = theirs, ours
            ours.out, theirs.out = Pipe(world, ours, theirs, path, source), Pipe(world, theirs, ours, path, source)
            path.pipes += (ours.out, theirs.out)
            self._ends += (ours, theirs)
            listener.process.loop.call_soon(listener.accept, theirs)
            world.at(world.now + way, tell, ours)

        def tell(end: Transport | None) -> None:
            if not process.alive:
                return
            process.loop.call_soon(told, end)

        def told(end: Transport | None) -> None:
            if answered.done():
                if end is not None:
                    end.abort()
            elif end is None:
                answered.set_exception(ConnectionRefusedError(111, "Connection refused"))
            else:
                answered.set_result(end)

        world.at(world.now + way, arrive)

    def _die(self, process: Process) -> None:
        for listener in list(self._listeners.values()):
            if listener.process is process:
                self.unlisten(listener)
        for end in self.ends(process):
            end.die()


class ListeningSocket:
    """What a server binds, as far as it is asked."""

    family = socket.AF_INET

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address

    def getsockname(self) -> tuple[str, int]:
        return self.address

    def close(self) -> None: ...


class Listener:
    """What create_server returns."""

    def __init__(
        self, network: Network, process: Process, factory: Callable[[], Any], address: tuple[str, int]
    ) -> None:
        self.address = address
        self.process = process
        self._network = network
        self._factory = factory
        self._closed = False

    def accept(self, end: "Transport") -> None:
        """In a turn of the server's loop."""
        if self._closed:
            end.abort()
        elif not end.gone:
            end.begin(self._factory())

    def close(self) -> None:
        self._closed = True
        self._network.unlisten(self)
