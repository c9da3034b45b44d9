"""Finds and reads the files of decision logs, line by line as bytes. Knows suffixes and compression, no schema.

Where a file is there plain and compressed, its router is just removing the plain one: the compressed one counts.
"""

import gzip
import io
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import orjson

from abfleet_log.files import LEVEL, compressed, without_twins

LINE_SUFFIXES = (".jsonl", ".jsonl.zst", ".jsonl.gz", ".ndjson")
PARQUET_SUFFIX = ".parquet"
ACTIONS_PREFIX = "actions-"
"""Of files that say what the autopilot has done. They may stand beside the log, and are no part of it."""
DAMAGED = "the compressed file is damaged and cannot be read to its end"
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
            inside = {file for file in path.iterdir() if is_log_file(file.name) and file.is_file()}
            found.update(without_twins(inside))
        elif not path.exists():
            raise LogsError(f"{str(path)[:64]}: no such file or folder")
        elif path.suffix != PARQUET_SUFFIX:
            found.add(path)
    return sorted(file for file in found if not file.name.startswith("."))


def is_log_file(name: str) -> bool:
    """Whether a file in a folder of logs has lines of the decision log, by its name."""
    return name.endswith(LINE_SUFFIXES) and not name.startswith(ACTIONS_PREFIX)


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
            raise LogsError(f"{path}: {DAMAGED}: {error}") from error


def parsed(raw: bytes) -> dict[str, Any] | None:
    """The line as an object of JSON, or None where it cannot be read as one."""
    if len(raw) > LONGEST_LINE:
        return None
    try:
        line = orjson.loads(raw.removeprefix(BYTE_ORDER_MARK))
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) else None


def is_blank(raw: bytes) -> bool:
    """Whether there is nothing in a line: then it is none, for databases too."""
    return not raw.strip(b" \t\r")


def readable(path: Path, out: Path) -> Path:
    """The file itself, or where a database could not take a line of it, or its end is damaged, a copy that it can take.

    In the copy, which is plain, one NUL stands for each such line and for such an end. Holds no whole line in memory.
    """
    if not any(short is None for short in _short_pieces(path)):
        return path
    with out.open("wb") as file:
        file.writelines(b"\0\n" if piece is None else piece for piece in _short_pieces(path))
    return out


def is_whole(path: Path) -> bool:
    """Whether a file can be read to its end; a plain one always can."""
    import zstandard

    if path.suffix not in (".zst", ".gz"):
        return True
    with closing(_opened(path)) as file:
        try:
            while file.read(1 << 20):
                pass
        except (zstandard.ZstdError, zlib.error, gzip.BadGzipFile, EOFError):
            return False
    return True


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
        raise LogsError(f"{where}: no decision log here; allowed: folders, and files *.jsonl, *.jsonl.zst, *.parquet")
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


@contextmanager
def written_like(path: Path, partial: Path) -> Iterator[Callable[[bytes], object]]:
    """Writes a new file that is packed as `path` is, and is on disk in the end, with the mode and age of `path`."""
    with partial.open("wb") as out:
        packer: Any = nullcontext(out)
        if path.suffix == ".zst":
            import zstandard

            packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(out, closefd=False)
        elif path.suffix == ".gz":
            packer = gzip.GzipFile(fileobj=out, mode="wb", mtime=0)
        with packer as writer:
            yield writer.write
        out.flush()
        os.fsync(out.fileno())
    dress_like(path, partial)


def dress_like(path: Path, partial: Path) -> None:
    """Gives a new file the mode of the one that it replaces, and its age, from which retention counts."""
    stat = path.stat()
    os.chmod(partial, stat.st_mode & 0o777)
    os.utime(partial, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _opened(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path), 1 << 20)
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return path.open("rb")


class _ZstdFile(io.RawIOBase):
    """The content of a file of zstd frames. The library's own reader takes a file that was cut for one that ends."""

    def __init__(self, path: Path) -> None:
        import zstandard

        self._path = path
        self._content: Any = zstandard.ZstdDecompressor().stream_reader(
            path.open("rb"), closefd=True, read_across_frames=True
        )

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises ZstdError, and EOFError at the end of a file that was cut."""
        size: int = self._content.readinto(buffer)
        if not size and was_cut(self._path):
            raise EOFError("its last frame has no end")
        return size

    def close(self) -> None:
        self._content.close()
        super().close()


def was_cut(path: Path) -> bool:
    """Whether a file of zstd frames, going by the sizes in them (RFC 8878), ends within one. Other files never do."""
    if path.suffix != ".zst":
        return False
    size = path.stat().st_size
    with path.open("rb") as file:
        while (at := file.tell()) < size:
            head = file.read(18)  # the longest there is
            kind = int.from_bytes(head[:4], "little")
            if kind & ~0xF == 0x184D2A50:  # a frame to be skipped
                file.seek(at + 8 + int.from_bytes(head[4:8], "little"))
                continue
            if kind != 0xFD2FB528 or len(head) < 6:
                return len(head) < 6  # what is no frame at all is damaged in another way
            single, checked = head[4] >> 5 & 1, head[4] >> 2 & 1
            content_size = (single, 2, 4, 8)[head[4] >> 6]
            file.seek(at + 5 + (not single) + (0, 1, 2, 4)[head[4] & 3] + content_size)
            last = False
            while not last:
                if len(block := file.read(3)) < 3:
                    return True
                number = int.from_bytes(block, "little")
                last = bool(number & 1)
                file.seek(1 if number >> 1 & 3 == 1 else number >> 3, os.SEEK_CUR)
            file.seek(4 * checked, os.SEEK_CUR)
        return at > size


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
