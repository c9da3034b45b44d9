"""Header blocks of requests: from bytes to what a call says of itself.

Our SETTINGS give the client a header table of size 0, so once it has taken them a block means the same on every
connection and at every time: it is decoded without state, and one that was seen before is not decoded again. There is
no table to be filled or to be referred to thousands of times. Blocks that come before that are hpack's business.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import hpack
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from abfleet_transport.call import Code, Metadata
from abfleet_transport.http2.frames import (
    COMPRESSION_ERROR,
    CONNECTION_HEADERS,
    ENHANCE_YOUR_CALM,
    MAX_HEADER_BLOCK,
    ProtocolError,
    is_field_name,
    is_forbidden,
)

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
OWN_HEADERS: Final = TRANSPORT_HEADERS | CONNECTION_HEADERS
MALFORMED: Final = 400
"""HTTP status of a request that HTTP/2 does not allow."""
PSEUDO_HEADERS: Final = frozenset((b":method", b":scheme", b":authority", b":path"))
ENCODINGS: Final = ("identity", "gzip", "deflate")
MAX_KEPT_STRING: Final = 64
"""Of those with Huffman coding: longer ones are decoded each time."""
is_name = re.compile(rb"[0-9a-z_.-]+").fullmatch
"""gRPC's names of metadata; fields of other names are passed over, where HTTP/2 allows them."""
MAX_LENGTH_DIGITS: Final = 19
"""Of a content-length; more are no number of bytes."""
KEPT_BLOCKS: Final = 4096
"""Header blocks whose meaning is kept; when there are more, all are dropped."""
MAX_KEPT_BLOCK: Final = 512
"""Longer ones are decoded each time: those of gRPC clients have some 200 bytes, and differ in few of them."""
MAX_KEPT_METADATA: Final = 16
"""Nor are those kept that have more fields: a byte of a block may become a hundred of ours."""


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
    content_length: int | None = None
    """Bytes of DATA, where the request says how many."""
    bad_encoding: bool = False
    """The problem is that its messages are packed in a way that we cannot unpack."""


def decode(block: bytes, most_fields: int) -> Fields:
    """The fields of a block that was encoded with a table of size 0. Raises ProtocolError.

    After `most_fields` of them one more is taken, by which it shows, and the rest is not read.
    """
    fields: Fields = []
    position, size = 0, len(block)
    try:
        while position < size and len(fields) <= most_fields:
            first = block[position]
            if first & 0x80:
                index, position = _integer(block, position, 0x7F)
                fields.append(_static(index))
                continue
            if first & 0xE0 == 0x20:
                if fields:
                    raise ProtocolError("header block: a table size after a field is not allowed", COMPRESSION_ERROR)
                table_size, position = _integer(block, position, 0x1F)
                if table_size:
                    raise ProtocolError(f"header table: {table_size} bytes; 0 are allowed", COMPRESSION_ERROR)
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
        raise ProtocolError("header block: it ends within a field", COMPRESSION_ERROR) from None
    return fields


def _static(index: int) -> tuple[bytes, bytes]:
    if not 1 <= index <= len(STATIC):
        raise ProtocolError(f"header field index: {index}; allowed: 1 to {len(STATIC)}", COMPRESSION_ERROR)
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
    raise ProtocolError("header block: an integer has more than 28 bits", COMPRESSION_ERROR)


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    huffman = block[position] & 0x80
    length, position = _integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise ProtocolError("header block: it ends within a string", COMPRESSION_ERROR)
    raw = block[position:end]
    if huffman:
        raw = _kept_huffman(raw) if length <= MAX_KEPT_STRING else _huffman(raw)
    return raw, end


def _huffman(raw: bytes) -> bytes:
    try:
        return decode_huffman(raw)
    except hpack.HPACKDecodingError as error:
        raise ProtocolError(f"header block: {error}", COMPRESSION_ERROR) from error


_kept_huffman = lru_cache(maxsize=4096)(_huffman)


class HeaderBlocks:
    """What header blocks without a table say, of all connections.

    Attributes:
        heads: Of those that were seen before; changed only here.
    """

    def __init__(self, most_fields: int) -> None:
        """`most_fields`: more of them are too many, and are not read."""
        self._most_fields = most_fields
        self.heads: dict[bytes, Head] = {}

    def fields(self, block: bytes) -> Fields:
        """The fields of a block; of too many no more than what shows it. Raises ProtocolError."""
        return decode(block, self._most_fields)

    def read(self, block: bytes) -> Head:
        """What a block says that was not seen before. Raises ProtocolError."""
        head = head_of(self.fields(block))
        if len(block) <= MAX_KEPT_BLOCK and len(head.metadata) <= MAX_KEPT_METADATA:
            if len(self.heads) >= KEPT_BLOCKS:
                self.heads.clear()
            self.heads[block] = head
        return head


class EarlyDecoder:
    """For a connection's first blocks, which may use a table of 4,096 bytes until our SETTINGS are acknowledged.

    From then on there is none. A client should say so in its next block; some, as nginx, do not, but never refer to
    their table either. Who does refers to nothing, which `decode` finds.
    """

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MAX_HEADER_BLOCK)

    def decode(self, block: bytes) -> Fields:
        """The fields of a block. Raises ProtocolError."""
        try:
            return [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as error:
            raise ProtocolError(f"header block: {error}", ENHANCE_YOUR_CALM) from error
        except hpack.HPACKError as error:
            raise ProtocolError(f"header block: {error}", COMPRESSION_ERROR) from error


def head_of(fields: Fields) -> Head:
    """What the fields say of the call. A request that cannot be served is no exception: `Head` says why."""
    pseudo: dict[bytes, bytes] = {}
    own: dict[bytes, bytes] = {}
    metadata: list[tuple[str, str | bytes]] = []
    size = 0
    malformed = others = False
    problem: tuple[Code, str] | None = None
    for name, value in fields:
        size += len(name) + len(value) + ENTRY_OVERHEAD
        if name in OWN_HEADERS:
            malformed |= name == b"content-length" and name in own
            own[name] = value
        elif name[:1] == b":":
            malformed |= name in pseudo or bool(own or others)
            pseudo[name] = value
        else:
            others = True
            if is_name(name):
                _add_metadata(metadata, name.decode("ascii"), value)
            else:
                malformed |= not is_field_name(name)
        malformed |= is_forbidden(value) is not None
    length = own.get(b"content-length")
    malformed |= length is not None and not (length.isdigit() and len(length) <= MAX_LENGTH_DIGITS)
    path = pseudo.get(b":path", b"").decode("latin-1")
    if malformed or not is_request(pseudo, own):
        return Head(path, (), None, "", size, MALFORMED, None)
    seconds, encoding, bad_encoding = None, "identity", False
    if b"grpc-timeout" in own:
        try:
            seconds = timeout_seconds(own[b"grpc-timeout"])
        except ValueError:
            shown = own[b"grpc-timeout"][:64]
            problem = (Code.INTERNAL, f"grpc-timeout: {shown!r}; allowed: 1 to 8 digits and a unit of HMSmun")
    if path[:1] != "/" or not path.isascii() or not path.isprintable():  # some of them would end grpcio, too
        problem = (Code.UNIMPLEMENTED, f"path: {path[:64]!a} is not /service/method")
    if b"grpc-encoding" in own:
        encoding = own[b"grpc-encoding"].decode("latin-1")
        if encoding not in ENCODINGS:
            bad_encoding = True
            problem = (Code.UNIMPLEMENTED, f"grpc-encoding: {encoding[:64]!r}; allowed: {', '.join(ENCODINGS)}")
    return Head(
        path,
        tuple(metadata),
        seconds,
        encoding,
        size,
        http_status(pseudo, own),
        problem,
        None if length is None else int(length),
        bad_encoding,
    )


def are_trailers(fields: Fields) -> bool:
    """Whether HTTP/2 allows these fields at the end of a request (RFC 9113, 8.1 and 8.2)."""
    return all(
        name[:1] != b":" and is_field_name(name) and name not in CONNECTION_HEADERS and not is_forbidden(value)
        for name, value in fields
    )


def is_request(pseudo: Mapping[bytes, bytes], own: Mapping[bytes, bytes]) -> bool:
    """Whether HTTP/2 allows such a request (RFC 9113, 8.2 and 8.3)."""
    return (
        bool(pseudo.get(b":method") and pseudo.get(b":scheme") and pseudo.get(b":path"))
        and pseudo.keys() <= PSEUDO_HEADERS
        and own.keys().isdisjoint(CONNECTION_HEADERS)
        and own.get(b"te", b"trailers") == b"trailers"
    )


def http_status(pseudo: Mapping[bytes, bytes], own: Mapping[bytes, bytes]) -> int:
    """200 for a request of gRPC, else why it is none."""
    if pseudo[b":method"] != b"POST":
        return 405
    kind = own.get(b"content-type", b"")
    # Followed by the encoding of messages, such as +proto, or by parameters. gRPC-Web is not gRPC.
    return 200 if kind[:16] == b"application/grpc" and kind[16:17] in (b"", b"+", b";") else 415


def _add_metadata(metadata: list[tuple[str, str | bytes]], key: str, value: bytes) -> None:
    """One header as metadata: text, or the bytes that a name in `-bin` holds, of which there may be several.

    What others on the way put there is no reason to fail a call: text that is not ASCII is read as UTF-8 or else as
    Latin-1, as grpcio does, and what is no base64 stays text. Who reads such a key checks it.
    """
    if not key.endswith("-bin"):
        metadata.append((key, text_of(value)))
        return
    for part in value.split(b","):
        part = part.strip()
        try:
            metadata.append((key, base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)))
        except binascii.Error:
            metadata.append((key, text_of(part)))


def text_of(value: bytes) -> str:
    """The value of a header as text, whatever its bytes are."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


@lru_cache(maxsize=4096)
def timeout_seconds(value: bytes) -> float:
    """The seconds of a `grpc-timeout`. Raises ValueError."""
    digits, unit = value[:-1], value[-1:].decode("latin-1")
    if not digits.isdigit() or len(digits) > 8 or unit not in TIMEOUT_UNITS:
        raise ValueError(value)
    return int(digits) * TIMEOUT_UNITS[unit]
