"""Standard output in any encoding, and without a reader."""

import io
import json
import os

import pytest
from abfleet_process.standard_output import READER_GONE, ReaderGone, StandardOutput


def written(text: str, encoding: str) -> str:
    """The text as a stream of that encoding got it."""
    below = io.BytesIO()
    stream = io.TextIOWrapper(below, encoding=encoding)
    output = StandardOutput(stream)
    assert output.write(text) == len(text)
    output.flush()
    return below.getvalue().decode(encoding, "surrogatepass")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "utf-16"])
def test_what_an_encoding_lacks_is_written_in_its_own_characters(encoding: str) -> None:
    """Typography becomes ASCII, other letters JSON's escapes, half a pair too; what the encoding has stays."""
    text = "p50 – 3 × 2 ≥ 1 … │ é ж 🎬 \udcff"
    got = written(text, encoding)
    if encoding.startswith("utf"):
        assert got == text.replace("\udcff", "\\udcff")
    if encoding == "ascii":
        assert got == "p50 - 3 x 2 >= 1 ... | \\u00e9 \\u0436 \\ud83c\\udfac \\udcff"
    if encoding == "latin-1":
        assert got == "p50 - 3 × 2 >= 1 ... | é \\u0436 \\ud83c\\udfac \\udcff"
    assert json.loads(written('"ж🎬"', encoding)) == "ж🎬"


def test_libraries_find_no_bytes_below_it() -> None:
    """click writes UTF-8 to the bytes below a stream that says it is ASCII; here it finds none."""
    output = StandardOutput(io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert not hasattr(output, "buffer")
    assert output.encoding == "ascii"
    assert output.binary.write(b"x") == 1


@pytest.mark.parametrize("late", [False, True])
def test_a_reader_that_has_gone_ends_the_process(late: bool) -> None:
    """Whether a write or only a flush finds out; what is left goes nowhere, so that nothing is said of it."""
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w", buffering=-1 if late else 1) as stream:
        output = StandardOutput(stream)
        with pytest.raises(ReaderGone) as gone:  # noqa: PT012  # whichever of the two
            output.write("a line\n")
            output.flush()
        assert gone.value.code == READER_GONE == 141
        output.write("more\n")
        output.flush()
