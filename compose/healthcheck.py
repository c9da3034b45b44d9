"""Asks the server in this container for its health: exit code 0 if it serves. Knows the bytes of one call, no library.

It runs every few seconds in every container, and importing grpc takes a third of a second of CPU: so this is
grpc.health.v1.Health/Check written out as HTTP/2 frames (RFC 9113, with header fields as literals of RFC 7541). The
address is ABFLEET_LISTEN, with the loopback in the place of 0.0.0.0.
"""

import os
import socket
import sys
from collections.abc import Iterator

TIMEOUT_SECONDS = 3.0
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
STREAM = 1
HEADER_BYTES = 9
FIELDS = (
    b"\x83\x86"  # :method POST, :scheme http, both from the static table
    b"\x04\x1c/grpc.health.v1.Health/Check"  # :path
    b"\x01\x09localhost"  # :authority
    b"\x0f\x10\x10application/grpc"  # content-type
    b"\x00\x02te\x08trailers"
)
EMPTY_REQUEST = b"\x00\x00\x00\x00\x00"
"""Not compressed, no bytes: no service named, so the answer is the whole server's."""
SERVING = b"\x00\x00\x00\x00\x02\x08\x01"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def connect(address: str) -> socket.socket:
    """A connection to `HOST:PORT` or `unix:PATH`."""
    if address.startswith("unix:"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIMEOUT_SECONDS)
        connection.connect(address.removeprefix("unix:"))
        return connection
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.replace("0.0.0.0", "127.0.0.1"), int(port)), TIMEOUT_SECONDS)  # noqa: S104


def frames(connection: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    """(kind, flags, stream, payload) as they come, until the other side closes."""
    with connection.makefile("rb") as stream:
        while len(header := stream.read(HEADER_BYTES)) == HEADER_BYTES:
            payload = stream.read(int.from_bytes(header[:3], "big"))
            yield header[3], header[4], int.from_bytes(header[5:], "big"), payload


def answer(address: str) -> bytes:
    """The message of the answer with its prefix of five bytes; empty if the call failed. Raises OSError."""
    with connect(address) as connection:
        connection.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, b"")
            + frame(HEADERS, END_HEADERS, STREAM, FIELDS)
            + frame(DATA, END_STREAM, STREAM, EMPTY_REQUEST)
        )
        message = b""
        for kind, flags, stream, payload in frames(connection):
            if stream != STREAM:
                continue
            if kind == DATA:
                message += payload
            if kind not in (DATA, HEADERS) or flags & END_STREAM:  # the end, or a reset
                break
        return message


def main() -> int:
    """1 if it does not serve, or does not answer."""
    try:
        return 0 if answer(os.environ["ABFLEET_LISTEN"]) == SERVING else 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
