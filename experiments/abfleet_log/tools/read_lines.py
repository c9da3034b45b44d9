"""Finds and reads the files of decision logs, line by line as bytes. Knows suffixes and compression, no schema.

Where a file is there plain and compressed, its router is just removing the plain one: the compressed one counts.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from abfleet_log.files import compressed, without_twins

LINE_SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".ndjson")
PARQUET_SUFFIX = ".parquet"
PARQUET_OPTIONS = "FORMAT parquet, PARQUET_VERSION V2, COMPRESSION zstd, COMPRESSION_LEVEL 1"
"""V2 writes the differences of times and lengths, which makes a file smaller by a tenth, and quicker to read by as much
or more; a higher level takes longer for files that are no smaller."""
PARQUET_ROWS = 10_000
"""Lines taken from Parquet at a time."""
LONGEST_LINE = 1 << 24
"""Bytes of a line that is read; longer ones are what a power cut leaves, and no router's."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LogsError(Exception):
    """Log files cannot be read, compacted, erased or imported; the message says which and why."""


def line_files(paths: Sequence[Path]) -> list[Path]:
    """Files of JSON lines in folders, and files given by name; each once, oldest first by name. Raises LogsError."""
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            inside = {file for file in path.iterdir() if file.name.endswith(LINE_SUFFIXES) and file.is_file()}
            found.update(without_twins(inside))
        elif not path.exists():
            raise LogsError(f"{str(path)[:64]}: there is no such file or folder")
        elif path.suffix != PARQUET_SUFFIX:
            found.add(path)
    return sorted(file for file in found if not file.name.startswith("."))


def parquet_files(paths: Sequence[Path]) -> list[Path]:
    """Compacted files in folders, however deep, and files given by name."""
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found |= set(path.rglob(f"*{PARQUET_SUFFIX}"))
        elif path.suffix == PARQUET_SUFFIX:
            found.add(path)
    return sorted(file for file in found if not file.name.startswith("."))


def lines_of(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Each line without its line feed, and whether it had one.

    Parquet has the lines that were put in; one there that is no JSON counts as one without an end. Raises LogsError for
    a file that is damaged, after the lines before that.
    """
    if path.suffix == PARQUET_SUFFIX:
        yield from _parquet_lines(path)
        return
    import zstandard

    with closing(_opened(path)) as file:
        try:
            for line in file:
                yield (line[:-1], True) if line.endswith(b"\n") else (line, False)
        except (zstandard.ZstdError, zlib.error, gzip.BadGzipFile, EOFError) as error:
            raise LogsError(f"{path}: the compressed file is damaged and cannot be read to its end: {error}") from error


def parsed(raw: bytes) -> dict[str, Any] | None:
    """The line as an object of JSON, or None where it cannot be read as one."""
    if len(raw) > LONGEST_LINE:
        return None
    try:
        line = orjson.loads(raw.removeprefix(BYTE_ORDER_MARK))
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) else None


def readable(path: Path, out: Path) -> Path:
    """The file itself, or where a database could not take a line of it, or its end is damaged, a copy that it can take.

    In the copy, which is plain, one NUL stands for each such line and for such an end. Holds no whole line in memory.
    """
    if not any(short is None for short in _short_pieces(path)):
        return path
    with out.open("wb") as file:
        file.writelines(b"\0\n" if piece is None else piece for piece in _short_pieces(path))
    return out


def _short_pieces(path: Path) -> Iterator[bytes | None]:
    """The lines of a file with their line feeds; None for each that is too long, and for a damaged end."""
    import zstandard

    with closing(_opened(path)) as file:
        try:
            while piece := file.readline(LONGEST_LINE):
                if len(piece) < LONGEST_LINE:
                    yield piece
                    continue
                while piece and not piece.endswith(b"\n"):
                    piece = file.readline(LONGEST_LINE)
                yield None
        except (zstandard.ZstdError, zlib.error, gzip.BadGzipFile, EOFError):
            yield None


def all_lines(
    paths: Sequence[Path],
    on_file: Callable[[Path], None] = lambda path: None,
    damaged: Callable[[Path], None] | None = None,
) -> Iterator[tuple[Path, bytes, bool]]:
    """All lines of all files: (file, line, whether it was ended); `on_file` is called with each file that is done.

    damaged: Called with a file that cannot be read to its end, after the lines before that. Raises LogsError when there
    is no log, and for such a file if nobody asks for them.
    """
    files = [*parquet_files(paths), *line_files(paths)]
    if not files:
        where = ", ".join(str(path)[:64] for path in paths)
        raise LogsError(
            f"{where}: there is no decision log here; allowed are folders, and files *.jsonl, *.jsonl.zst, *.parquet"
        )
    for path in files:
        try:
            for line, ended in lines_of(path):
                yield path, line, ended
        except FileNotFoundError:  # its router has just compressed it
            packed = compressed(path)
            if not packed.exists():
                raise
            for line, ended in lines_of(packed):
                yield packed, line, ended
        except LogsError:
            if damaged is None:
                raise
            damaged(path)
        on_file(path)


def _opened(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".zst":
        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True, read_across_frames=True)
        return io.BufferedReader(reader, 1 << 20)
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return path.open("rb")


def _parquet_lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    import duckdb

    with duckdb.connect() as connection:
        try:
            rows = connection.execute("SELECT line, json_valid(line) FROM read_parquet(?)", [str(path)])
        except duckdb.Error as error:
            raise LogsError(f"{path}: {str(error).splitlines()[0][:200]}") from error
        while batch := rows.fetchmany(PARQUET_ROWS):
            for line, valid in batch:
                yield line.encode(), valid
