"""Numbers of base 128, seven bits a byte, as protobuf and HPACK have them."""


def varint(value: int) -> bytes:
    """A number of 0 or more, lowest bits first (https://protobuf.dev/programming-guides/encoding/#varints)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
