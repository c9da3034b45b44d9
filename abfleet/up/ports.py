"""Whether addresses can be listened on. Knows sockets and the flag that chose each address; starts nothing."""

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass

MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class WantedAddress:
    """An address that somebody is going to listen on."""

    address: str
    """`host:port` or `unix:path`."""
    flag: str
    """What changes it, as `--listen`."""
    purpose: str
    """`the router`, `metrics of worker-v1.2.3`."""


def problems(wanted: Iterable[WantedAddress]) -> list[str]:
    """One line for every address that is wanted twice, is taken, or is not of this machine."""
    found = []
    seen: dict[str, WantedAddress] = {}
    for one in wanted:
        if one.address.startswith("unix:") or one.address.endswith(":0"):
            continue
        if (other := seen.setdefault(one.address, one)) is not one:
            found.append(
                f"{one.address} is needed for both {other.purpose} and {one.purpose}; "
                f"change {' or '.join(dict.fromkeys((other.flag, one.flag)))}"
            )
        elif (reason := bind_problem(one.address)) is not None:
            found.append(f"{one.address} for {one.purpose} {reason}; choose another address with {one.flag}")
    return found


def bind_problem(address: str) -> str | None:
    """None if the address can be bound now, else why not. The socket is closed again at once."""
    host, _, port = address.rpartition(":")
    if int(port) > MAX_PORT:  # getaddrinfo would wrap it to another port
        return f"has a port above {MAX_PORT}"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: connections of a server that has just ended are no reason to refuse.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        return "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror or error})"
    return None
