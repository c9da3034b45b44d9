"""A network for the workers of a fleet, which can be cut, and names for them, which can go. Only root can make one.

The workers are in a network namespace, each with an address; the router and its callers outside. Packets that are cut
are dropped without a word, both ways, as by a switch that died. Names are told by a small DNS server that the router's
processes alone are sent to, by a resolv.conf that only they see.
"""

import itertools
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

PORT = 50061
"""Of every worker: a name leads to addresses, not to ports."""
_numbers = itertools.count(os.getpid())
NAME_ERROR, A_RECORD, IN_CLASS = 3, 1, 1


def cannot_make() -> str | None:
    """Why a network cannot be made here, or None."""
    if os.geteuid() != 0:
        return "making a network needs root"
    try:
        with Network(hosts=1) as network, network.cut(network.hosts[0]):
            pass
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network can be made here: {getattr(error, 'stderr', '') or error}"
    return None


class Network:
    """A namespace, a cable to it, and a DNS server; a context manager."""

    def __init__(self, hosts: int) -> None:
        number = next(_numbers)
        self.name = f"abfleet-{number}"
        self._cable = f"abf{number}"
        subnet = f"198.18.{number % 256}"  # RFC 2544: for tests of networks, and in use nowhere else
        self._here = f"{subnet}.1"
        self.hosts = [f"{subnet}.{2 + host}" for host in range(hosts)]
        self.names = Names(self._here)

    def __enter__(self) -> Self:
        _run("ip", "netns", "add", self.name)
        try:
            _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            _run("ip", "address", "add", f"{self._here}/24", "dev", self._cable)
            _run("ip", "link", "set", self._cable, "up")
            for host in self.hosts:
                _run("ip", "-n", self.name, "address", "add", f"{host}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _run("ip", "-n", self.name, "link", "set", device, "up")
            self.names.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.names.stop()
        _run("ip", "netns", "delete", self.name)  # the cable goes with the namespace

    @property
    def inside(self) -> Sequence[str]:
        """What to put before a command that is to run in the namespace."""
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def with_names(self, folder: Path) -> Sequence[str]:
        """What to put before a command that is to ask the DNS server for names."""
        path = folder / "resolv.conf"
        path.write_text(f"nameserver {self._here}\n")
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ("unshare", "--mount", "sh", "-c", script, str(path))

    @contextmanager
    def cut(self, host: str) -> Iterator[None]:
        """Nothing gets to a host and nothing from it, as long as this lasts."""
        self.part(host)
        try:
            yield
        finally:
            self.join(host)

    def part(self, host: str) -> None:
        """Cuts it off."""
        self._rules("--append", host)

    def join(self, host: str) -> None:
        """Ends that."""
        self._rules("--delete", host)

    def _rules(self, what: str, host: str) -> None:
        for chain, side in (("INPUT", "--destination"), ("OUTPUT", "--source")):
            _run(*self.inside, "iptables", "--wait", what, chain, side, host, "--jump", "DROP")


class Names:
    """A DNS server that knows addresses of names; changed by tests, read by its thread."""

    def __init__(self, address: str) -> None:
        self.known: dict[str, Sequence[str]] = {}
        """Name to addresses; of a name that is not here it says that there is none."""
        self.silent = False
        """It answers nothing."""
        self.asked = 0
        """Questions that came."""
        self._address = address
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def start(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((self._address, 53))
        self._thread.start()

    def stop(self) -> None:
        if self._socket is not None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
                waker.sendto(b"", (self._address, 53))  # an empty question ends the thread
            self._thread.join()
            self._socket.close()

    def _serve(self) -> None:
        assert self._socket is not None
        while True:
            question, client = self._socket.recvfrom(4096)
            if not question:
                return
            self.asked += 1
            if not self.silent:
                self._socket.sendto(answer(question, self.known), client)


def answer(question: bytes, known: dict[str, Sequence[str]]) -> bytes:
    """The answer to one question (RFC 1035): the addresses, none, or that there is no such name."""
    labels, place = [], 12
    while length := question[place]:
        labels.append(question[place + 1 : place + 1 + length].decode().lower())
        place += 1 + length
    asked = question[12 : place + 5]
    (kind,) = struct.unpack_from("!H", question, place + 1)
    addresses = known.get(".".join(labels))
    found = addresses if addresses and kind == A_RECORD else ()
    flags = 0x8180 | (NAME_ERROR if addresses is None else 0)
    head = question[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0)
    records = b"".join(
        struct.pack("!HHHIH", 0xC00C, A_RECORD, IN_CLASS, 0, 4) + socket.inet_aton(address) for address in found
    )
    return head + asked + records


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)
