"""Random edits of bytes and of texts. Knows no format but what makes numbers and delimiters interesting."""

import random
from collections.abc import Sequence

EDGES = (0, 1, 0x7F, 0x80, 0xFF)
NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
VARINTS = (b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\x80" * 11, b"\xff\xff\xff\xff\x0f", b"\x80\x80\x80\x80\x80\x01")
TEXTS = (
    *"[]{}:,\n\t\"'|#%~\x00\u2028\ufeff\r;ж\U0001f600",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "1e-999",
    "NaN",
    "Infinity",
    "9" * 400,
    "0x1F",
    "../..",
    "/etc/passwd",
    "x" * 300,
    "\\ud800",
    "\\u0000",
    "[" * 50,
    '{"a":' * 50,
    "%s%n",
    "=1+1",
    "2026-11-01T00:00:00Z",
    "9999-12-31T23:59:59+14:00",
    "<script>",
)


def mutated(data: bytes, source: random.Random, most: int = 4) -> bytes:
    """One to `most` random edits: bits turned, bytes set, cut, doubled, moved, numbers and lengths made extreme."""
    for _ in range(source.randint(1, most)):
        start = source.randrange(len(data) + 1)
        end = min(len(data), start + source.choice((1, 1, 2, 4, 16, 64)))
        match source.randrange(7):
            case 0 if start < len(data):
                data = data[:start] + bytes((data[start] ^ 1 << source.randrange(8),)) + data[start + 1 :]
            case 1:
                data = data[:start] + bytes((source.choice(EDGES),)) + data[start + 1 :]
            case 2:
                data = data[:start] + data[end:]
            case 3:
                data = data[:end] + data[start:end] * source.choice((1, 3, 30)) + data[end:]
            case 4:
                data = data[:start] + source.choice(VARINTS) + data[start + source.randrange(2) :]
            case 5:
                data = data[:start] + source.randbytes(source.choice((1, 2, 8, 40))) + data[end:]
            case _:
                number = source.choice(NUMBERS) & 0xFFFFFFFF
                data = data[:start] + number.to_bytes(4, source.choice(("big", "little"))) + data[start + 4 :]
    return data


def mutated_text(text: str, source: random.Random, most: int = 4) -> str:
    """The same for text: something inserted, cut, doubled or put in the place of something else."""
    for _ in range(source.randint(1, most)):
        start = source.randrange(len(text) + 1)
        end = min(len(text), start + source.choice((0, 1, 1, 2, 5, 20, 100)))
        match source.randrange(4):
            case 0:
                text = text[:start] + source.choice(TEXTS) + text[start:]
            case 1:
                text = text[:start] + text[end:]
            case 2:
                text = text[:end] + text[start:end] * source.choice((1, 2, 30)) + text[end:]
            case _:
                text = text[:start] + source.choice(TEXTS) + text[end:]
    return text


def any_of(source: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds, mostly mutated; sometimes random bytes, sometimes as it is."""
    kind = source.randrange(10)
    if kind == 0:
        return source.randbytes(source.choice((0, 1, 5, 9, 50, 500)))
    seed = source.choice(seeds)
    return seed if kind == 1 else mutated(seed, source)
