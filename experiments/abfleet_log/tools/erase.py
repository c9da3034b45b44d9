"""One user's lines in the log, and their erasure. Rewrites each file whole or not at all.

A line is a user's when it names the user, by id or by its keyed hash, or when it is an outcome of one of the user's
requests. Erasing leaves every other byte as it was.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from abfleet_log.files import LEVEL, WriterIdentity, compressed, locked_if_closed
from abfleet_log.tools.check import digest_of
from abfleet_log.tools.read_lines import (
    PARQUET_OPTIONS,
    PARQUET_SUFFIX,
    LogsError,
    all_lines,
    line_files,
    lines_of,
    parquet_files,
    parsed,
)

PARTIAL = ".erasing-"
"""Before the name of a file that is being made: readers of a log pass over names with a point."""


@dataclass(frozen=True, slots=True)
class LoggedUser:
    """A user: the id, and its keyed hash where logs have that instead."""

    user_id: str
    user_id_hmac: str | None = None

    def is_in(self, line: dict[str, Any]) -> bool:
        """Whether a line names this user."""
        if line.get("user_id") == self.user_id:
            return True
        return self.user_id_hmac is not None and line.get("user_id_hmac") == self.user_id_hmac

    def needles(self) -> tuple[bytes, ...]:
        """Byte strings of which every line that names the user contains at least one."""
        texts = (self.user_id, self.user_id_hmac) if self.user_id_hmac else (self.user_id,)
        return tuple(orjson.dumps(text)[1:-1] for text in texts)


def user_history(paths: Sequence[Path], who: LoggedUser) -> list[dict[str, Any]]:
    """The user's exposures and outcomes in the order of time, each once."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    requests: set[str] = set()
    lone: list[dict[str, Any]] = []
    for _, raw, _ in all_lines(paths):
        line = parsed(raw)
        if line is None or line.get("event") not in ("exposure", "outcome"):
            continue
        if who.is_in(line):
            found.setdefault(_key(line), line)
            if line["event"] == "exposure":
                requests.add(str(line.get("request_id")))
        elif line["event"] == "outcome" and not line.get("user_id") and not line.get("user_id_hmac"):
            lone.append(line)
    for line in lone:
        if line.get("request_id") in requests:
            found.setdefault(_key(line), line)
    return sorted(found.values(), key=lambda line: str(line.get("ts")))


def _key(line: dict[str, Any]) -> tuple[str, ...]:
    name = "outcome_id" if line["event"] == "outcome" else "request_id"
    return line["event"], str(line.get(name))


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """What an erasure did: lines removed, files rewritten, and files left alone because a router writes them."""

    lines: int
    files: int
    busy: tuple[Path, ...]


def erase(
    paths: Sequence[Path],
    who: LoggedUser,
    identity: WriterIdentity,
    *,
    dry_run: bool,
    wall: Callable[[], float] = time.time,
) -> ErasureResult:
    """Rewrites every file without the user's lines; each new file is read back before it takes its name."""
    for path in paths:
        if path.is_dir() and not dry_run:
            for leftover in path.rglob(f"{PARTIAL}*"):
                leftover.unlink()
            _remove_twins(path, identity, wall)
    requests = {
        str(line.get("request_id"))
        for _, raw, _ in all_lines(paths)
        if (line := parsed(raw)) is not None and line.get("event") == "exposure" and who.is_in(line)
    }
    needles = who.needles()

    def is_theirs(raw: bytes) -> bool:
        line = parsed(raw)
        if line is None:  # torn: what is left of it may be about the user
            return any(needle in raw for needle in needles)
        if who.is_in(line):
            return True
        lone = not line.get("user_id") and not line.get("user_id_hmac")
        return line.get("event") == "outcome" and lone and line.get("request_id") in requests

    lines = files = 0
    busy = []
    for path in [*line_files(paths), *parquet_files(paths)]:
        theirs = sum(is_theirs(raw) for raw, _ in lines_of(path))
        if not theirs:
            continue
        lines += theirs
        if dry_run:
            files += 1
            continue
        if path.suffix == PARQUET_SUFFIX:  # no router writes that
            _rewrite_parquet(path, is_theirs)
            files += 1
            continue
        with locked_if_closed(path, identity, wall) as file:
            if file is None:
                busy.append(path)
                lines -= theirs
                continue
            _rewrite_lines(path, is_theirs)
            files += 1
    return ErasureResult(lines, files, tuple(busy))


def _remove_twins(folder: Path, identity: WriterIdentity, wall: Callable[[], float]) -> None:
    """Removes plain files whose compressed twin is complete: a router died between the two steps of a compression."""
    for path in folder.glob("*.jsonl"):
        if compressed(path).exists():
            with locked_if_closed(path, identity, wall) as file:
                if file is not None:
                    path.unlink()


def _rewrite_lines(path: Path, is_theirs: Callable[[bytes], bool]) -> None:
    partial = path.with_name(PARTIAL + path.name)
    try:
        with partial.open("wb") as out:
            packer: Any = contextlib.nullcontext(out)
            if path.suffix == ".zst":
                import zstandard

                packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).stream_writer(out, closefd=False)
            elif path.suffix == ".gz":
                import gzip

                packer = gzip.GzipFile(fileobj=out, mode="wb", mtime=0)
            with packer as writer:
                for raw, ended in lines_of(path):
                    if not is_theirs(raw):
                        writer.write(raw + b"\n" if ended else raw)
            out.flush()
            os.fsync(out.fileno())
        _take_over(path, partial, is_theirs)
    finally:
        partial.unlink(missing_ok=True)


def _rewrite_parquet(path: Path, is_theirs: Callable[[bytes], bool]) -> None:
    import duckdb

    partial = path.with_name(PARTIAL + path.name)
    try:
        with duckdb.connect() as connection:
            connection.create_function("is_theirs", lambda line: is_theirs(line.encode()), ["VARCHAR"], "BOOLEAN")
            source, target = (str(one).replace("'", "''") for one in (path, partial))
            connection.execute(
                f"COPY (SELECT * FROM read_parquet('{source}', hive_partitioning = false) "  # noqa: S608
                f"WHERE NOT is_theirs(line)) TO '{target}' ({PARQUET_OPTIONS})"
            )
        file = os.open(partial, os.O_RDONLY)
        os.fsync(file)
        os.close(file)
        _take_over(path, partial, is_theirs)
    finally:
        partial.unlink(missing_ok=True)


def _take_over(path: Path, partial: Path, is_theirs: Callable[[bytes], bool]) -> None:
    """Gives the new file the old one's name, mode and age, once it is known to have all other lines and only those."""
    kept = [digest_of(raw) for raw, _ in lines_of(path) if not is_theirs(raw)]
    there = [digest_of(raw) for raw, _ in lines_of(partial)]
    if sorted(kept) != sorted(there):
        raise LogsError(
            f"{path}: the new file differs from the old one in more than the user's lines; nothing was changed"
        )
    stat = path.stat()
    os.chmod(partial, stat.st_mode & 0o777)
    os.utime(partial, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    partial.rename(path)
