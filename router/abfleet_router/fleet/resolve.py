"""Turns a target into addresses. Knows DNS and target syntax, nothing of replicas."""

import asyncio
import ipaddress
import socket


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
    """`host:port` as gRPC reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def resolve(target: str) -> list[str]:
    """The addresses of a target, sorted, each once. Raises OSError when a name does not resolve."""
    kind, host, port = split(target)
    if kind == "unix":
        return [host]
    if kind == "address":
        return [address(host, port)]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label that is empty or too long for DNS
        raise OSError(f"{host[:64]!r} is no host name: {error}") from error
    return sorted({address(str(entry[4][0]), port) for entry in found})


def needs_resolving(target: str) -> bool:
    """Whether the answer can change."""
    return split(target)[0] == "dns"


def host_name(target: str) -> str:
    """The host of a target, as a certificate names it."""
    kind, host, _ = split(target)
    return "localhost" if kind == "unix" else host.rstrip(".")
