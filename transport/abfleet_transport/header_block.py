"""Header blocks of requests: from bytes to what a call says of itself. Knows HPACK and gRPC's headers, no connection.

Our SETTINGS give the client a header table of size 0, so once it has taken them a block means the same on every
connection and at every time: it is decoded without state, and one that was seen before is not decoded again. There is
no table to be filled or to be referred to thousands of times. Blocks that come before that are hpack's business.
"""

import base64
import binascii
from functools import lru_cache
from typing import Final, NamedTuple

import hpack
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from abfleet_transport.call import Code, Metadata
from abfleet_transport.http2 import COMPRESSION_ERROR, MAX_HEADER_BLOCK, ProtocolError

Fields = list[tuple[bytes, bytes]]

STATIC: Final = HeaderTable.STATIC_TABLE
"""RFC 7541, appendix A; entry i has index i + 1."""
ENTRY_OVERHEAD: Final = 32
"""What HTTP/2 adds to a field's bytes when it counts the size of a header list (RFC 9113, 6.5.2)."""
TIMEOUT_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
TRANSPORT_HEADERS: Final = frozenset(
    (b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"content-length")
)
"""What is the transport's own business, and no metadata."""
ENCODINGS: Final = frozenset(("identity", "gzip"))


class Head(NamedTuple):
    """What the headers of a request say."""

    path: str
    metadata: Metadata
    timeout_seconds: float | None
    encoding: str
    size: int
    """As HTTP/2 counts a header list, in bytes."""
    http_status: int
    """200, or why this is no gRPC request at all."""
    problem: tuple[Code, str] | None
    """Why the call cannot be taken, though it is one."""


def decode(block: bytes) -> Fields:
    """The fields of a block that was encoded with a table of size 0. Raises ProtocolError."""
    fields: Fields = []
    position, size = 0, len(block)
    try:
        while position < size:
            first = block[position]
            if first & 0x80:
                index, position = _integer(block, position, 0x7F)
                fields.append(_static(index))
                continue
            if first & 0xE0 == 0x20:
                table_size, position = _integer(block, position, 0x1F)
                if table_size:
                    raise ProtocolError(f"header table of {table_size} bytes; 0 is allowed")
                continue
            # A literal: to be indexed, which a table of size 0 does not do, or not.
            index, position = _integer(block, position, 0x3F if first & 0x40 else 0x0F)
            if index:
                name = _static(index)[0]
            else:
                name, position = _string(block, position)
            value, position = _string(block, position)
            fields.append((name, value))
    except IndexError:
        raise ProtocolError("header block ends within a field") from None
    return fields


def _static(index: int) -> tuple[bytes, bytes]:
    if not 1 <= index <= len(STATIC):
        raise ProtocolError(f"header field of index {index}, which is not in the static table")
    return STATIC[index - 1]


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """An integer whose prefix are the bits of the mask (RFC 7541, 5.1), and the position after it."""
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    for shift in (0, 7, 14, 21):
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ProtocolError("integer of more than 28 bits in a header block")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    huffman = block[position] & 0x80
    length, position = _integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise ProtocolError("header block ends within a string")
    raw = block[position:end]
    return (_huffman(raw) if huffman else raw), end


@lru_cache(maxsize=4096)
def _huffman(raw: bytes) -> bytes:
    try:
        return decode_huffman(raw)
    except hpack.HPACKDecodingError as error:
        raise ProtocolError(f"header block: {error}") from error


class EarlyDecoder:
    """For a connection's first blocks, which may use a table of 4,096 bytes until our SETTINGS are acknowledged."""

    def __init__(self, max_list_bytes: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=min(max_list_bytes, MAX_HEADER_BLOCK))
        self.acknowledged = False

    def over(self, block: bytes) -> bool:
        """Whether from this block on there is no table: the client has taken our SETTINGS and gives it up, or never
        put anything in. Raises ProtocolError for one that goes on with its table."""
        if not self.acknowledged:
            return False
        if self._decoder.header_table.dynamic_entries and block[:1] != b"\x20":
            raise ProtocolError("header table is used on, though its size is 0", COMPRESSION_ERROR)
        return True

    def decode(self, block: bytes) -> Fields:
        """The fields of a block. Raises ProtocolError."""
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.HPACKError as error:
            raise ProtocolError(f"header block: {error}", COMPRESSION_ERROR) from error


def head_of(fields: Fields) -> Head:
    """What the fields say. Raises ProtocolError for what HTTP/2 does not allow in a request."""
    path, method, content_type, timeout, encoding = b"", b"", b"", b"", "identity"
    metadata: list[tuple[str, str | bytes]] = []
    size = 0
    problem: tuple[Code, str] | None = None
    for name, value in fields:
        size += len(name) + len(value) + ENTRY_OVERHEAD
        if name[:1] == b":":
            if name == b":path":
                path = value
            elif name == b":method":
                method = value
        elif name not in TRANSPORT_HEADERS:
            try:
                _add_metadata(metadata, name, value)
            except ValueError as error:
                problem = (Code.INTERNAL, f"metadata: {error}")
        elif name == b"content-type":
            content_type = value
        elif name == b"grpc-timeout":
            timeout = value
        elif name == b"grpc-encoding":
            encoding = value.decode("latin-1")
    http_status = 200
    if method != b"POST":
        http_status = 405
    elif not content_type.startswith(b"application/grpc"):
        http_status = 415
    seconds = None
    if timeout:
        try:
            seconds = timeout_seconds(timeout)
        except ValueError:
            problem = (Code.INTERNAL, f"grpc-timeout: {timeout[:64]!r}; allowed are 1 to 8 digits and a unit of HMSmun")
    if not path.isascii():  # nor would grpcio behind outlive it
        problem = (Code.UNIMPLEMENTED, "path: not ASCII")
    if encoding not in ENCODINGS:
        problem = (Code.UNIMPLEMENTED, f"grpc-encoding: {encoding[:64]!r}; allowed are identity and gzip")
    return Head(path.decode("latin-1"), tuple(metadata), seconds, encoding, size, http_status, problem)


def _add_metadata(metadata: list[tuple[str, str | bytes]], name: bytes, value: bytes) -> None:
    """One header as metadata: text, or the bytes that a name in `-bin` holds, of which there may be several.

    Raises ValueError.
    """
    key = name.decode("ascii")
    if not name.endswith(b"-bin"):
        metadata.append((key, value.decode("ascii")))
        return
    for part in value.split(b","):
        part = part.strip()
        try:
            metadata.append((key, base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)))
        except binascii.Error:
            raise ValueError(f"{key[:64]!r} is no base64") from None


@lru_cache(maxsize=4096)
def timeout_seconds(value: bytes) -> float:
    """The seconds of a `grpc-timeout`. Raises ValueError."""
    digits, unit = value[:-1], value[-1:].decode("ascii")
    if not digits.isdigit() or len(digits) > 8 or unit not in TIMEOUT_UNITS:
        raise ValueError(value)
    return int(digits) * TIMEOUT_UNITS[unit]
