"""One user's lines in the log, and their erasure. Rewrites each file whole or not at all.

A line is a user's when it names the user, by id or by its keyed hash, or when it is an outcome of one of the user's
requests. One that cannot be read is the user's when the id, the hash or one of these requests stands in what is left
of it. Erasing leaves every other byte as it was.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from abfleet_log.files import WriterIdentity, compressed, locked_if_closed
from abfleet_log.tools.check import digest_of
from abfleet_log.tools.read_lines import (
    PARQUET_OPTIONS,
    PARQUET_SUFFIX,
    LogsError,
    all_lines,
    dress_like,
    is_blank,
    is_whole,
    line_files,
    lines_of,
    parquet_files,
    parsed,
    written_like,
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
        """Byte strings of which every line that names the user contains at least one, however JSON writes the id."""
        texts = (self.user_id, self.user_id_hmac) if self.user_id_hmac else (self.user_id,)
        written = (form for text in texts for form in (orjson.dumps(text), json.dumps(text).encode()))
        return tuple(dict.fromkeys(form[1:-1] for form in written))


def user_history(
    paths: Sequence[Path], who: LoggedUser, unreadable: Callable[[Path], None] = lambda path: None
) -> list[dict[str, Any]]:
    """The user's exposures, outcomes and calls in the shadow in the order of time, each once.

    unreadable: Called with its file for each line, and each end of a compressed file, that cannot be read.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    requests: set[str] = set()
    lone: list[dict[str, Any]] = []
    for path, raw, _ in all_lines(paths, damaged=unreadable):
        if (line := parsed(raw)) is None:
            if not is_blank(raw):
                unreadable(path)
        elif line.get("event") in ("exposure", "outcome", "shadow"):
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
    return line["event"], str(line.get(name)), str(line.get("version"))


@dataclass(frozen=True, slots=True)
class ErasureResult:
    """What an erasure did.

    Attributes:
        lines: That were removed. files: That were rewritten.
        busy: Files left alone because a router writes them.
        damaged: Compressed files left alone because they cannot be read to their end.
        unreadable: Lines that are left and cannot be read. The user's id is not in them as it would be written.
    """

    lines: int
    files: int
    busy: tuple[Path, ...]
    damaged: tuple[Path, ...]
    unreadable: int


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
    damaged: list[Path] = []
    requests = {
        request
        for _, raw, _ in all_lines(paths, damaged=damaged.append)
        if (line := parsed(raw)) is not None
        and line.get("event") == "exposure"
        and who.is_in(line)
        and isinstance(request := line.get("request_id"), str)
        and request
    }
    needles = (*who.needles(), *(orjson.dumps(request) for request in requests))

    def is_theirs(raw: bytes) -> bool:
        line = parsed(raw)
        if line is None:  # what is left of it may be about the user
            return any(needle in raw for needle in needles)
        if who.is_in(line):
            return True
        lone = not line.get("user_id") and not line.get("user_id_hmac")
        return line.get("event") == "outcome" and lone and line.get("request_id") in requests

    lines = files = unreadable = 0
    busy = []
    for path in [*line_files(paths), *parquet_files(paths)]:
        if path in damaged:
            continue
        theirs = 0
        for raw, _ in lines_of(path):
            if is_theirs(raw):
                theirs += 1
            elif parsed(raw) is None:
                unreadable += not is_blank(raw)
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
    return ErasureResult(lines, files, tuple(busy), tuple(damaged), unreadable)


def _remove_twins(folder: Path, identity: WriterIdentity, wall: Callable[[], float]) -> None:
    """Removes plain files whose compressed twin is complete: a router died between the two steps of a compression."""
    for path in folder.glob("*.jsonl"):
        twin = compressed(path)
        if twin.exists() and is_whole(twin):
            with locked_if_closed(path, identity, wall) as file:
                if file is not None:
                    path.unlink()


def _rewrite_lines(path: Path, is_theirs: Callable[[bytes], bool]) -> None:
    partial = path.with_name(PARTIAL + path.name)
    try:
        with written_like(path, partial) as write:
            for raw, ended in lines_of(path):
                if not is_theirs(raw):
                    write(raw + b"\n" if ended else raw)
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
    dress_like(path, partial)
    partial.rename(path)
