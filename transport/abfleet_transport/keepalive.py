"""How the kernel finds out that the machine at the other end has gone without a word."""

import socket
from collections.abc import Mapping


def keep_alive(sock: socket.socket, timing: Mapping[str, int]) -> None:
    """Lets the kernel probe an idle connection, or those that a listener will have.

    `timing`: seconds and tries, named as on Linux; what a system does not have is left out, as macOS some.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in timing.items():
        if (option := getattr(socket, name, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
