"""What a server process takes from the machine that it runs on: time, chance, threads, files, sockets, grpcio.

All of it in one value, given to the place where a process is put together, so that a whole router or worker can run on
another machine than this one: on one that is simulated, where a seed decides what happens (tests/simulation). Whoever
needs some of it gets that alone, as an argument.
"""

import contextlib
import gc
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol

import grpc
from abfleet_process.background import BackgroundThread, MakeBackground
from abfleet_process.errors import AddressError
from abfleet_process.system_files import SystemFiles

from abfleet_transport.keepalive import keep_alive

MAX_PORT: Final = 65535
BACKLOG: Final = 1024
"""Connections that the kernel keeps until they are accepted."""
KEEPALIVE: Final = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6}
"""Seconds, and tries: a client's machine that has gone silent would else keep its connection for ever."""


class Grpcio(Protocol):
    """What is used of the module `grpc.aio`."""

    def server(self, *, interceptors: Any = ..., options: Any = ...) -> grpc.aio.Server: ...

    def insecure_channel(self, target: str, options: Any = ...) -> grpc.aio.Channel: ...


def bound(address: str) -> socket.socket:
    """A socket that listens on `host:port` or `unix:path`, not blocking. Raises AddressError."""
    if address.startswith("unix:"):
        return _bound_unix(address, address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or int(port) > MAX_PORT:
        raise AddressError(address, f"port: {port[:64]!r}; allowed: 0 to {MAX_PORT}")
    try:
        name = host.strip("[]") or None
        family, kind, protocol, _, where = socket.getaddrinfo(
            name, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError as error:
        raise AddressError(address, error.strerror or str(error)) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of connections that ended; not of a listener
        keep_alive(sock, KEEPALIVE)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(where)
        sock.listen(BACKLOG)  # a taken port may show only now
    except OSError as error:
        sock.close()
        raise AddressError(address, error.strerror or str(error)) from error
    sock.setblocking(False)
    return sock


def _bound_unix(address: str, path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)  # of a process that was killed
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise AddressError(address, error.strerror or str(error)) from error
    sock.setblocking(False)
    return sock


def freeze_memory() -> None:
    """What is loaded by now lives as long as the process: the collector need not visit it again."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The real one, unless told otherwise."""

    clock: Callable[[], float] = time.monotonic
    """Seconds since some start; never set back."""
    wall: Callable[[], float] = time.time
    """Seconds since the epoch, which may be set."""
    work_clock: Callable[[], float] = time.perf_counter
    """Seconds, for what this process did itself."""
    random: Random = field(default_factory=Random)
    """For draws that balance load, spread attempts and name spans: nothing secret hangs on them."""
    entropy: Callable[[int], bytes] = os.urandom
    """So many bytes that nobody can guess."""
    background: MakeBackground = BackgroundThread
    thread_id: Callable[[], int] = threading.get_ident
    """Of the thread that asks."""
    files: SystemFiles = os
    bind: Callable[[str], socket.socket] = bound
    grpcio: Grpcio = grpc.aio
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)
    """Its id on this host."""
    freeze_memory: Callable[[], None] = freeze_memory


THIS_MACHINE: Final = Machine()
