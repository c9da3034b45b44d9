"""Turns a target of the configuration into addresses, by DNS where it is a name."""

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
