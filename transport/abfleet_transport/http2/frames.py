"""HTTP/2 as far as gRPC needs it: frames, header blocks, flow control windows. Pure functions of bytes.

RFC 9113 (HTTP/2) and RFC 7541 (HPACK). Both sides are kept free of HPACK state: our encoder uses no dynamic table, and
our SETTINGS give the peer's a size of 0 before its first header block. So equal bytes mean equal headers, and a block
that was seen before is not decoded again.
"""

import re
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import hpack
from abfleet_process.base128 import varint

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
PRIORITY_FRAME = 2
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED = 0, 1, 2, 3, 5
FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 6, 7, 8, 9, 11
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 2, 3, 4, 5
MAX_HEADER_LIST_SIZE = 6
LENGTHS: Final = {RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4, PRIORITY_FRAME: 5}
"""Bytes of the payload, by type, of frames whose length is fixed."""
OF_CONNECTION: Final = frozenset((SETTINGS, PING, GOAWAY))
"""Types that are allowed on stream 0 only."""
OF_STREAM: Final = frozenset((DATA, HEADERS, RST_STREAM, PRIORITY_FRAME, PUSH_PROMISE, CONTINUATION))
"""Types that are not allowed on stream 0."""
PRIORITY_BYTES: Final = 5
"""Of HEADERS that have one."""
GOAWAY_BYTES: Final = 8
"""Or more."""

DEFAULT_TABLE: Final = 4096
DEFAULT_WINDOW: Final = 65_535
DEFAULT_MAX_FRAME: Final = 16_384
OUR_MAX_FRAME: Final = 2**20
"""What we take: an answer to a full batch in one frame."""
MAX_WINDOW: Final = 2**31 - 1
MAX_HEADER_BLOCK: Final = 64 * 1024
MAX_KEPT_BLOCK: Final = 1024
"""Longer header blocks are decoded each time: those of answers and trailers have some 50 bytes."""
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first (RFC 9113, 3.4)."""
FRAME_HEADER = struct.Struct(">HBBBL")
"""Length in 16 + 8 bits, type, flags, stream."""
SETTING = struct.Struct(">HL")
"""Identifier and value."""
UINT32 = struct.Struct(">L")
MESSAGE_PREFIX = struct.Struct(">BL")
"""gRPC: compressed flag and length of the message."""
NO_TABLE: Final = b"\x20"
"""In a header block: the table has a size of 0 from here on."""


class ProtocolError(Exception):
    """The peer broke the protocol; the connection cannot go on."""

    def __init__(self, text: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


class StreamError(Exception):
    """The peer broke the protocol on one stream; the connection goes on."""

    def __init__(self, text: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(text)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """The bytes of a frame: its header and its payload."""
    return frame_header(kind, flags, stream, len(payload)) + payload


def frame_header(kind: int, flags: int, stream: int, length: int) -> bytes:
    """The nine bytes before a payload of `length` bytes."""
    return FRAME_HEADER.pack(length >> 8, length & 0xFF, kind, flags, stream)


def client_preface(*, window: int = MAX_WINDOW) -> bytes:
    """What a client sends first: the preface, its settings, and a connection window of `window` bytes."""
    ours = {HEADER_TABLE_SIZE: 0, ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: window, MAX_FRAME_SIZE: OUR_MAX_FRAME}
    return PREFACE + settings_frame(ours) + window_update(0, window - DEFAULT_WINDOW)


def settings_frame(ours: Mapping[int, int]) -> bytes:
    """A SETTINGS frame of these values by identifier."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*setting) for setting in ours.items()))


def header_frames(stream: int, block: bytes, *, end_stream: bool) -> bytes:
    """A header block, in more than one frame where it is longer than any peer has to take."""
    room = DEFAULT_MAX_FRAME - len(NO_TABLE)  # for `without_table`
    first, rest = block[:room], block[room:]
    flags = END_STREAM if end_stream else 0
    frames = [frame(HEADERS, flags if rest else flags | END_HEADERS, stream, first)]
    while rest:
        part, rest = rest[:DEFAULT_MAX_FRAME], rest[DEFAULT_MAX_FRAME:]
        frames.append(frame(CONTINUATION, 0 if rest else END_HEADERS, stream, part))
    return b"".join(frames)


def without_table(frames: bytes) -> bytes:
    """A HEADERS frame and what follows it, that begins by saying that the encoder's table has a size of 0 now.

    Who makes it smaller than it was at first has to say so (RFC 7541, 4.2), though our encoder uses none.
    """
    high, low, kind, flags, stream = FRAME_HEADER.unpack_from(frames)
    first = frame_header(kind, flags, stream, (high << 8 | low) + len(NO_TABLE))
    return first + NO_TABLE + frames[FRAME_HEADER.size :]


def window_update(stream: int, increment: int) -> bytes:
    """Gives the peer more window, 1 to 2^31 - 1 bytes."""
    return frame(WINDOW_UPDATE, 0, stream, UINT32.pack(increment))


def goaway(last_stream: int, code: int, text: bytes = b"") -> bytes:
    """A GOAWAY frame: streams after the last one were not read; `code`: an HTTP/2 error code."""
    return frame(GOAWAY, 0, 0, UINT32.pack(last_stream) + UINT32.pack(code) + text)


def reset(stream: int, code: int) -> bytes:
    """A RST_STREAM frame; `code`: an HTTP/2 error code."""
    return frame(RST_STREAM, 0, stream, UINT32.pack(code))


def request_headers(path: str, authority: str, *more: tuple[str, str], secure: bool = False) -> bytes:
    """The header block of a gRPC request: indexed names of the static table, literal values that are never indexed."""
    return b"".join(
        (
            b"\x83\x87" if secure else b"\x83\x86",  # :method: POST, :scheme: https or http
            b"\x04" + literal(path),
            b"\x01" + literal(authority),
            b"\x0f\x10" + literal("application/grpc"),  # content-type
            b"\x00" + literal("te") + literal("trailers"),
            *(b"\x00" + literal(name) + literal(value) for name, value in more),
        )
    )


def literal(text: str) -> bytes:
    """A string without Huffman coding (RFC 7541, 5.2)."""
    raw = text.encode("ascii")
    return integer(len(raw), 7) + raw


def integer(value: int, prefix_bits: int) -> bytes:
    """An integer with an N-bit prefix whose other bits are 0 (RFC 7541, 5.1)."""
    full = (1 << prefix_bits) - 1
    if value < full:
        return bytes((value,))
    return bytes((full,)) + varint(value - full)


def timeout_header(seconds: float) -> bytes:
    """The `grpc-timeout` field, in whole milliseconds, at least 1."""
    return _timeout_header(max(1, min(99_999_999, int(seconds * 1000))))


@lru_cache(maxsize=4096)
def _timeout_header(milliseconds: int) -> bytes:
    return b"\x00" + literal("grpc-timeout") + literal(f"{milliseconds}m")


def check_frame(kind: int, flags: int, stream: int, length: int) -> None:
    """Checks what every frame but DATA and HEADERS must be: its length and whose it is. Raises ProtocolError."""
    wanted = LENGTHS.get(kind)
    if wanted is not None and length != wanted:
        raise ProtocolError(f"frame of type {kind}: {length} bytes; exactly {wanted} are required", FRAME_SIZE_ERROR)
    if (kind in OF_CONNECTION and stream) or (kind in OF_STREAM and not stream):
        raise ProtocolError(f"frame of type {kind} is not allowed on stream {stream}")
    if kind == SETTINGS and flags & ACK and length:
        raise ProtocolError(f"SETTINGS with ACK: {length} bytes; 0 are allowed", FRAME_SIZE_ERROR)
    if kind == GOAWAY and length < GOAWAY_BYTES:
        raise ProtocolError(f"GOAWAY: {length} bytes; at least {GOAWAY_BYTES} are required", FRAME_SIZE_ERROR)


def is_field_name(name: bytes) -> bool:
    """Whether HTTP/2 allows a field of that name (RFC 9113, 8.2.1); `:` begins a pseudo-header."""
    return _has_field_name(name) is not None


_has_field_name = re.compile(rb":?[!-9;-@\[-~]+").fullmatch
is_forbidden = re.compile(rb"[\0\r\n]").search
"""In a field's value (RFC 9113, 8.2.1)."""
CONNECTION_HEADERS: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
"""HTTP/1's; in HTTP/2 a message with one of them is malformed (RFC 9113, 8.2.2)."""


def decode_headers(block: bytes) -> dict[str, str]:
    """The fields of a response's header block; of a repeated field the last.

    Raises ProtocolError, and StreamError for fields that HTTP/2 does not allow (RFC 9113, 8.2 and 8.3).
    """
    return _decode_kept(block) if len(block) <= MAX_KEPT_BLOCK else _decode(block)


@lru_cache(maxsize=256)
def _decode_kept(block: bytes) -> dict[str, str]:
    return _decode(block)


def _decode(block: bytes) -> dict[str, str]:
    decoder = hpack.Decoder(MAX_HEADER_BLOCK)
    decoder.header_table_size = 0
    decoder.max_allowed_table_size = 0
    try:
        raw = decoder.decode(block, raw=True)
    except hpack.HPACKError as error:
        raise ProtocolError(f"header block: {error}", COMPRESSION_ERROR) from error
    fields: dict[str, str] = {}
    pseudo_allowed = True
    for name, value in raw:
        key = name.decode("latin-1")
        if name[:1] == b":":
            if not pseudo_allowed or name != b":status" or key in fields:
                raise StreamError(f"pseudo-header {key[:64]!r} is not allowed there")
        else:
            pseudo_allowed = False
            if not is_field_name(name) or name in CONNECTION_HEADERS or (name == b"te" and value != b"trailers"):
                raise StreamError(f"header {key[:64]!r} is not allowed")
        if is_forbidden(value):
            raise StreamError(f"header {key[:64]!r}: NUL, CR and LF are not allowed in a value")
        fields[key] = value.decode("latin-1")
    return fields


def unpadded(kind: int, flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without padding and priority. Raises ProtocolError."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise ProtocolError("padding: the frame does not say its length")
        start, end = 1, end - payload[0]
    if kind == HEADERS and flags & PRIORITY:
        start += PRIORITY_BYTES
        if start > len(payload):
            raise ProtocolError(f"HEADERS: {len(payload)} bytes have no room for its priority", FRAME_SIZE_ERROR)
    if start > end:
        raise ProtocolError("padding: it is longer than the frame")
    return payload[start:end]


def settings(payload: bytes) -> list[tuple[int, int]]:
    """Identifier and value of each setting of a frame, in the order in which they take effect (RFC 9113, 6.5.3).

    Raises ProtocolError.
    """
    if len(payload) % SETTING.size:
        raise ProtocolError(
            f"SETTINGS: {len(payload)} bytes; a multiple of {SETTING.size} is required", FRAME_SIZE_ERROR
        )
    values: list[tuple[int, int]] = list(SETTING.iter_unpack(payload))
    for name, value in values:
        if name == MAX_FRAME_SIZE and not DEFAULT_MAX_FRAME <= value < 2**24:
            raise ProtocolError(f"SETTINGS_MAX_FRAME_SIZE: {value}; allowed: 2^14 to 2^24 - 1")
        if name == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            text = f"SETTINGS_INITIAL_WINDOW_SIZE: {value}; at most 2^31 - 1 is allowed"
            raise ProtocolError(text, FLOW_CONTROL_ERROR)
        if name == ENABLE_PUSH and value > 1:
            raise ProtocolError(f"SETTINGS_ENABLE_PUSH: {value}; allowed: 0 and 1")
    return values


def uint31(payload: bytes) -> int:
    """The number that a WINDOW_UPDATE or a GOAWAY begins with. Raises ProtocolError."""
    if len(payload) < 4:
        raise ProtocolError(f"frame: {len(payload)} bytes; at least 4 are required", FRAME_SIZE_ERROR)
    return int(UINT32.unpack_from(payload)[0]) & MAX_WINDOW
