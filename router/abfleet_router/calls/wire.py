"""Protobuf messages field by field, so that what is only passed on is never parsed. Knows no message.

https://protobuf.dev/programming-guides/encoding/
"""

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Kinds of fields."""
MOST_FIELDS = 4096
"""Of one message: each takes time, and 16 MiB have room for 8 million."""
SMALL_BYTES = 2 * MOST_FIELDS
"""Up to here protobuf takes a message apart quicker, at the price of a copy, and there are not too many fields."""


class WireError(Exception):
    """Bytes that are no message, or one of too many fields."""


def fields(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Each field of a message: (number, where it begins, where its value begins, where it ends). Raises WireError.

    The value of a field of bytes is what follows its length.
    """
    position, end = 0, len(message)
    count = 0
    while position < end:
        begin = position
        tag, position = _number(message, position)
        kind = tag & 7
        value = position
        if kind == BYTES:
            length, value = _number(message, position)
            position = value + length
        elif kind == VARINT:
            _, position = _number(message, position)
        elif kind == FIXED64:
            position += 8
        elif kind == FIXED32:
            position += 4
        else:
            raise WireError(f"a field of kind {kind} is not allowed")
        count += 1
        if position > end or tag < 8 or count > MOST_FIELDS:
            raise WireError(f"more than {MOST_FIELDS} fields" if count > MOST_FIELDS else "the message is cut")
        yield tag >> 3, begin, value, position


def _number(message: bytes, position: int) -> tuple[int, int]:
    """A base-128 number and where it ends."""
    value = shift = 0
    while True:
        try:
            byte = message[position]
        except IndexError:
            raise WireError("the message is cut") from None
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise WireError("a number of more than ten bytes")
