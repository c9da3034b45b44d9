"""Which lines a Parquet file can hold, and how a database reads them as they are. Knows no schema."""

from collections.abc import Sequence
from pathlib import Path

import orjson

from abfleet_log.tools.read_lines import BYTE_ORDER_MARK, LONGEST_LINE, LogsError, is_blank, lines_of, written_like


class UnfitLines(LogsError):
    """Files have a line that cannot be read together with the others; they are to be parted."""


def part(path: Path, fit: Path, rest: Path) -> tuple[int, int]:
    """Parts the lines of a file; gives how many are fit for Parquet, each a text of JSON in `fit`, and how many not."""
    fits = unfit = 0
    with fit.open("wb") as file, written_like(path, rest) as write_rest:
        for raw, ended in lines_of(path):
            if is_blank(raw):
                continue
            try:
                text = orjson.dumps({"line": raw.decode()})
            except UnicodeDecodeError:
                text = b""
            if text and len(text) <= LONGEST_LINE:
                fits += 1
                file.write(text + b"\n")
            else:
                unfit += 1
                write_rest(raw + b"\n" if ended else raw)
    if not unfit:
        rest.unlink()
    return fits, unfit


def of_lines(files: Sequence[Path]) -> str:
    """A table of SQL: the lines of files as one column without separators or quotes, which a torn line is as well.

    A byte that no text of JSON has raw stands for the separator. Raises UnfitLines where a file begins with a mark,
    which would be lost.
    """
    for path in files:
        if next(lines_of(path), (b"", True))[0].startswith(BYTE_ORDER_MARK):
            raise UnfitLines(f"{path}: it begins with a byte order mark")
    names = ", ".join(quoted(str(path)) for path in files)
    return (
        f"read_csv([{names}], columns = {{'line': 'VARCHAR'}}, delim = '\\x01', quote = '', escape = '', "
        f"header = false, auto_detect = false, max_line_size = {LONGEST_LINE}, null_padding = false, "
        "nullstr = '\\x02', new_line = '\\n')"
    )


def of_escaped(fit: Path) -> str:
    """The lines of a file that `part` has made."""
    return (
        f"read_json({quoted(str(fit))}, columns = {{'line': 'VARCHAR'}}, format = 'newline_delimited', "
        f"maximum_object_size = {2 * LONGEST_LINE})"
    )


def quoted(text: str) -> str:
    """Text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"
