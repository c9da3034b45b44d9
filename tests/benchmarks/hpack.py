"""Knows just enough HPACK (RFC 7541) to send one fixed header block and to find grpc-status in an answer.

Sends literals without indexing and without Huffman coding. Reads any block of a peer that was told to keep no dynamic
table (SETTINGS_HEADER_TABLE_SIZE 0), so that every block stands alone and equal blocks mean the same.
"""

from collections.abc import Iterator

_INDEXED_METHOD_POST = b"\x83"
_INDEXED_SCHEME_HTTP = b"\x86"
_STATIC_STATUS = {8: "200", 9: "204", 10: "206", 11: "304", 12: "400", 13: "404", 14: "500"}
_STATIC_ENTRIES = 61

# RFC 7541, appendix B, for the characters of header names and of numbers: enough for `grpc-status` and its values.
_HUFFMAN: dict[str, tuple[int, int]] = {
    **{character: (5, code) for code, character in enumerate("012aceiost")},
    **{character: (6, 0x14 + code) for code, character in enumerate(" %-./3456789=A_bdfghlmnpru")},
    **{character: (7, 0x74 + code) for code, character in enumerate("jkqvwxyz")},
}
_HUFFMAN_DECODE = {(bits, code): character for character, (bits, code) in _HUFFMAN.items()}


def request_block(path: str, authority: str, headers: dict[str, str]) -> bytes:
    """Returns the header block of a gRPC request; names in `headers` are lower case."""
    block = bytearray(_INDEXED_METHOD_POST + _INDEXED_SCHEME_HTTP)
    block += b"\x04" + _literal(path)  # :path is entry 4 of the static table
    block += b"\x01" + _literal(authority)  # :authority is entry 1
    for name, value in headers.items():
        block += b"\x00" + _literal(name) + _literal(value)
    return bytes(block)


def statuses(block: bytes) -> tuple[str | None, int | None]:
    """Returns (HTTP status, gRPC status) as far as the block has them.

    Raises ValueError for a block that refers to a dynamic table.
    """
    http = grpc = None
    for name, value in _fields(block):
        if name == ":status":
            http = value
        elif name == "grpc-status":
            grpc = int(value)
    return http, grpc


def _literal(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    # The length's own continuation bytes (RFC 7541, 5.1).
    rest, out = len(raw) - 127, bytearray(b"\x7f")
    while rest >= 128:
        out.append(rest % 128 + 128)
        rest //= 128
    out.append(rest)
    return bytes(out) + raw


def _fields(block: bytes) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(block):
        first = block[at]
        if first & 0x80:
            index, at = _integer(block, at, 7)
            _refuse_dynamic(index)
            if index in _STATIC_STATUS:
                yield ":status", _STATIC_STATUS[index]
            continue
        if first & 0xE0 == 0x20:  # a table size update carries no field
            _, at = _integer(block, at, 5)
            continue
        index, at = _integer(block, at, 6 if first & 0x40 else 4)
        _refuse_dynamic(index)
        if index:
            name = ":status" if index in _STATIC_STATUS else ""
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        yield name, value


def _refuse_dynamic(index: int) -> None:
    if index > _STATIC_ENTRIES:
        raise ValueError(f"header index {index}: the peer uses a dynamic table though it was told to keep none")


def _integer(block: bytes, at: int, prefix_bits: int) -> tuple[int, int]:
    limit = (1 << prefix_bits) - 1
    value = block[at] & limit
    at += 1
    if value < limit:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return value, at


def _string(block: bytes, at: int) -> tuple[str, int]:
    huffman = block[at] & 0x80
    length, at = _integer(block, at, 7)
    raw = block[at : at + length]
    return (_unhuffman(raw) if huffman else raw.decode("latin-1")), at + length


def _unhuffman(raw: bytes) -> str:
    """Decodes what the small table knows; a string with any other character comes back empty, as it is not needed."""
    text, code, bits = [], 0, 0
    for byte in raw:
        for shift in range(7, -1, -1):
            code, bits = code << 1 | byte >> shift & 1, bits + 1
            if (character := _HUFFMAN_DECODE.get((bits, code))) is not None:
                text.append(character)
                code = bits = 0
    padding = bits < 8 and code == (1 << bits) - 1
    return "".join(text) if padding else ""
