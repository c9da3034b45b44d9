"""Turns the targets of a version into addresses, by DNS where they are names, and follows what DNS says."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence

import structlog
from abfleet_process.lasting import start_lasting

log = structlog.get_logger("abfleet.router.pool")

RESOLVE_SECONDS = 3.0
"""Between two resolutions of names; after a failure RESOLVE_RETRY_SECONDS."""
RESOLVE_RETRY_SECONDS = 0.5


def split(target: str) -> tuple[str, str, int]:
    """(kind, host or path, port); kind is `unix`, `address` (needs no resolving) or `dns`. Load checks the syntax."""
    if target.startswith("unix:"):
        return "unix", target, 0
    host, _, port = target.removeprefix("dns:///").rpartition(":")
    bare = host.strip("[]")
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return "dns", bare, int(port)
    return "address", bare, int(port)


def address(host: str, port: int) -> str:
    """`host:port`, with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def resolve(target: str) -> list[str]:
    """The addresses of a target, sorted, each once. Raises OSError when a name does not resolve."""
    kind, host, port = split(target)
    if kind == "unix":
        return [host]
    if kind == "address":
        return [address(host, port)]
    try:
        entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long for DNS
        raise OSError(f"host: {host[:64]!r} is not a valid DNS name: {error}") from error
    return sorted({address(str(entry[4][0]), port) for entry in entries})


def needs_resolving(target: str) -> bool:
    """Whether a target is a DNS name, whose addresses can change."""
    return split(target)[0] == "dns"


def host_name(target: str) -> str:
    """The host of a target, as a certificate names it."""
    kind, host, _ = split(target)
    return "localhost" if kind == "unix" else host.rstrip(".")


class TargetWatch:
    """Says which addresses the targets of a version have, at first and whenever they are resolved again."""

    def __init__(self, version: str, on_addresses: Callable[[Sequence[str]], None]) -> None:
        """`version`: for the operational log."""
        self._version = version
        self._on_addresses = on_addresses
        self._targets: tuple[str, ...] = ()
        self._host_names: dict[str, str] = {}  # address to the name that led there
        self._task: asyncio.Task[None] | None = None

    def host_name(self, address: str) -> str:
        """What a certificate of the worker there must say: the name of its target, or its IP address."""
        return self._host_names.get(address) or host_name(address)

    def follow(self, targets: Sequence[str], *, anew: bool = False) -> None:
        """Follows these targets from now on; `anew`: says their addresses even where the targets are the same."""
        if anew or tuple(targets) != self._targets:
            self._targets = tuple(targets)
            self.stop()
            self._task = start_lasting(self._follow, f"resolve {self._version}")

    async def _follow(self) -> None:
        known: dict[str, list[str]] = {}
        while True:
            failures = 0
            for target in self._targets:
                try:
                    known[target] = await resolve(target)
                except OSError as error:  # a name may fail for a moment while its replicas change: keep what was known
                    failures += 1
                    log.debug("target does not resolve", version=self._version, target=target, error=str(error))
            self._host_names = {
                address: host_name(target) for target in reversed(self._targets) for address in known.get(target, ())
            }
            self._on_addresses([address for target in self._targets for address in known.get(target, ())])
            if not any(map(needs_resolving, self._targets)):
                return
            await asyncio.sleep(RESOLVE_SECONDS if failures == 0 else RESOLVE_RETRY_SECONDS)

    def stop(self) -> None:
        """Follows nothing any more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
