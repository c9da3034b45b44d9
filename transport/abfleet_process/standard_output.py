"""Standard output that takes every character in any encoding, and ends the process quietly when its reader has gone."""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final, TextIO

READER_GONE: Final = 141
"""128 + SIGPIPE: what a shell says of a program that wrote to a pipe whose reader has ended."""
PLAIN: Final = "abfleet.plain"
"""Name of the error handler that writes what an encoding lacks in its own characters."""

_PLAIN: Final = {
    **dict.fromkeys("–—‐‑−─━═╌┄┈╭╮╰╯┌┐└┘├┤┬┴┼╸╺", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”", '"'),
    **dict.fromkeys("\u00a0\u2007\u2009\u202f", " "),
    **dict.fromkeys("•·●⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "*"),
    "…": "...",
    "×": "x",
    "≥": ">=",
    "≤": "<=",
    "→": "->",
    "±": "+/-",
    "≈": "~",
    "α": "alpha",
    "β": "beta",
    "²": "^2",
}


class ReaderGone(SystemExit):
    """Whoever read standard output has ended: the process ends too, without a word."""

    def __init__(self) -> None:
        super().__init__(READER_GONE)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """What stands in an encoding for text that it lacks: ASCII for what is typography, else JSON's `\\uXXXX`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(one) or _escaped(one) for one in text), error.end


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


codecs.register_error(PLAIN, _plain)


class StandardOutput:
    """The text stream it is given, for writing alone. What its encoding lacks is written in ASCII.

    It has no `buffer`: libraries write text here, and none finds a stream of bytes to encode in another way.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self._stream, name)

    @property
    def binary(self) -> BinaryIO:
        """The bytes below the text."""
        return self._stream.buffer

    def write(self, text: str) -> int:
        """Writes the text. Raises ReaderGone."""
        with quiet_end(self._stream):
            try:
                return self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, PLAIN).decode(encoding))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Writes each. Raises ReaderGone."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hands over what is buffered. Raises ReaderGone."""
        with quiet_end(self._stream):
            self._stream.flush()


@contextmanager
def quiet_end(stream: TextIO | None = None) -> Iterator[None]:
    """Around writes to the stream, by default standard output. Raises ReaderGone where its reader has gone.

    What is still buffered then goes nowhere: else the interpreter would complain of it when it ends.
    """
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, (stream or sys.stdout).fileno())
        os.close(nowhere)
        raise ReaderGone from None


def prepare() -> None:
    """Makes `sys.stdout` such a stream, for the rest of the process."""
    if sys.stdout is not None and not isinstance(sys.stdout, StandardOutput):
        sys.stdout = StandardOutput(sys.stdout)


def binary() -> BinaryIO:
    """Standard output as bytes."""
    return sys.stdout.binary if isinstance(sys.stdout, StandardOutput) else sys.stdout.buffer


def takes_all() -> bool:
    """Whether standard output takes every character as it is."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("_", "-").startswith("utf")
