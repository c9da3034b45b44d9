"""Reads a folder of the decision log from its beginning, and then as it grows. Gives lines in order of time.

Files are read side by side: the one whose newest line is the oldest goes on. So what has to wait is what routers are
apart, whatever the log's size. A file that was followed and is then compressed is not read twice; one that becomes
Parquet meanwhile neither.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from abfleet_log.files import COMPRESSED_SUFFIX, SUFFIX, without_twins
from abfleet_log.tools.read_lines import LONGEST_LINE, LogsError, is_blank, is_log_file, lines_of, parquet_files

from abfleet_autopilot.following.clock_check import AHEAD_US, FileClock
from abfleet_autopilot.following.read_line import read_line
from abfleet_autopilot.lines import SECOND_US, Line
from abfleet_autopilot.ordering import PATIENCE_US, OrderedLines

CHUNK_BYTES: Final = 1 << 20
CHUNK_LINES: Final = 1000
RELEASED_TOGETHER: Final = 20_000
"""Lines of a replay that are put in order at once: for each by itself that would take longer."""
_STARTED: Final = re.compile(r"-([0-9]{8}T[0-9]{6})[0-9]{6}Z-")
WINDOW_US: Final = 600 * SECOND_US
FEW: Final = 10
SHARE: Final = 0.01
"""Of the newest lines: so many with a wrong time, and more than FEW, are a fault."""


class GrowingFile:
    """A file of plain lines, as far as it has been read. Changed only by `read`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.lines = 0
        self._skipping = False

    def read(self) -> list[bytes]:
        """The next whole lines, about a megabyte of them; none where there is nothing new. Raises OSError.

        A last line without its end stays: its router may be writing it.
        """
        size = CHUNK_BYTES
        with self.path.open("rb") as file:
            while True:
                file.seek(self.offset)
                data = file.read(size)
                end = data.rfind(b"\n") + 1
                if end or len(data) < size or size > LONGEST_LINE:
                    break
                size *= 16
        if not end:
            if len(data) > LONGEST_LINE:  # no router's: what a power cut leaves
                self.offset, self._skipping = self.offset + len(data), True
            return []
        self.offset += end
        found = data[: end - 1].split(b"\n")
        if self._skipping:
            found[0], self._skipping = b"\0", False
        return found


@dataclass(slots=True)
class _Source:
    """A file, or all that is compacted, as lines that come one after the other."""

    name: str
    newest: int
    clock: FileClock
    chunks: Iterator[list[bytes]]
    number: int = 0


@dataclass(slots=True)
class FeedCounts:
    """Lines by what became of them. Changed only by LogFeed."""

    read: int = 0
    unreadable: int = 0
    wrong_clock: Counter[str] = field(default_factory=Counter)


class LogFeed:
    """The lines of a folder. `replay` first and once, then `poll`."""

    def __init__(self, folder: Path) -> None:
        self.counts = FeedCounts()
        self._folder = folder
        self._ordered = OrderedLines()
        self._growing: dict[str, GrowingFile] = {}
        self._clocks: dict[str, FileClock] = {}
        self._done: set[str] = set()
        self._window = (0, 0, Counter[str]())  # since when, lines and wrong ones then
        self._fault: str | None = None

    @property
    def late(self) -> int:
        """Lines that came when later ones had been taken, and were left out."""
        return self._ordered.late

    @property
    def waiting(self) -> int:
        """Lines that wait for earlier ones."""
        return len(self._ordered)

    def replay(self, now: int) -> Iterator[Line]:
        """All lines that are there, up to PATIENCE_US ago; the others wait. now: Microseconds since 1970."""
        sources = self._sources()
        added = 0
        while sources:
            source = min(sources, key=lambda one: (one.newest, one.name))
            chunk = next(source.chunks, None)
            if chunk is None:
                sources.remove(source)
            else:
                self._add(source.name, source.clock, source.number, chunk, now + AHEAD_US)
                source.number += len(chunk)
                source.newest = max(source.newest, source.clock.last or 0)
                added += len(chunk)
            if sources and added < RELEASED_TOGETHER:
                continue
            added = 0
            bound = min((one.newest for one in sources), default=now)
            yield from self._ordered.until(min(bound, now) - PATIENCE_US)
        self._note_window(now)

    def rest(self) -> Iterator[Line]:
        """What still waits, where nobody waits for more."""
        return self._ordered.until(1 << 62)

    def poll(self, now: int) -> Iterator[Line]:
        """What has come since, up to PATIENCE_US ago."""
        for name, number, chunk in self._news():
            clock = self._clocks.setdefault(name, FileClock(_started(name)))
            self._add(name, clock, number, chunk, now + AHEAD_US)
        self._note_window(now)
        yield from self._ordered.until(now - PATIENCE_US)

    def faults(self) -> list[str]:
        """What keeps the log's newest lines from being trusted, in plain words."""
        return [] if self._fault is None else [self._fault]

    # --- parts --------------------------------------------------------------------------------------------------------

    def _add(self, name: str, clock: FileClock, first: int, chunk: list[bytes], latest: int) -> None:
        counts, ordered = self.counts, self._ordered
        counts.read += len(chunk)
        lines = [read_line(raw) for raw in chunk]
        if all(lines) and clock.all_agree(lines, latest):  # type: ignore[arg-type]  # none of them is None
            ordered.add_all(name, first, lines)  # type: ignore[arg-type]
            return
        for number, (raw, line) in enumerate(zip(chunk, lines, strict=True), first):
            if line is None:
                counts.unreadable += not is_blank(raw)
                continue
            if clock.agrees(line.at, latest):
                ordered.add(name, number, line)
                continue
            for place, right in clock.right_ones(number, line, latest, counts.wrong_clock):
                ordered.add(name, place, right)

    def _sources(self) -> list[_Source]:
        found = []
        for path in without_twins(self._files()):
            base = _base(path)
            started = _started(base)
            clock = self._clocks[base] = FileClock(started)
            if path.name.endswith((SUFFIX, ".ndjson")):
                growing = self._growing[base] = GrowingFile(path)
                chunks = _growing_chunks(growing)
            else:
                self._done.add(base)
                chunks = self._packed_chunks(path)
            found.append(_Source(base, started or 0, clock, chunks))
        if compacted := parquet_files([self._folder]):
            found.append(_Source("", 0, FileClock(), _compacted_chunks(compacted)))
        return found

    def _files(self) -> set[Path]:
        names = [entry.name for entry in os.scandir(self._folder)]
        return {self._folder / name for name in names if is_log_file(name) and not name.startswith(".")}

    def _news(self) -> Iterator[tuple[str, int, list[bytes]]]:
        """New chunks of lines, with their file and the number of the first."""
        files = self._files()
        for path in without_twins(files):
            base = _base(path)
            if path.name.endswith((SUFFIX, ".ndjson")):
                yield from self._grown(base, path)
            elif base not in self._done:
                # It was followed as a plain file up to here, or was not there at all.
                self._done.add(base)
                before = self._growing.pop(base, None)
                number = 0 if before is None else before.lines
                for chunk in self._packed_chunks(path, skip=number):
                    yield base, number, chunk
                    number += len(chunk)
        for base in self._growing.keys() - {_base(path) for path in files}:
            self._growing.pop(base)  # expired, or compacted: what it had was read

    def _grown(self, base: str, path: Path) -> Iterator[tuple[str, int, list[bytes]]]:
        growing = self._growing.setdefault(base, GrowingFile(path))
        try:
            if path.stat().st_size <= growing.offset:
                return
            while chunk := growing.read():
                yield base, growing.lines, chunk
                growing.lines += len(chunk)
        except FileNotFoundError:
            return  # its router has just compressed it: the next poll reads the rest there

    def _packed_chunks(self, path: Path, skip: int = 0) -> Iterator[list[bytes]]:
        lines = (raw for raw, _ in islice(lines_of(path), skip, None))
        while True:
            try:
                chunk = list(islice(lines, CHUNK_LINES))
            except (LogsError, OSError):
                self.counts.unreadable += 1  # damaged, or gone meanwhile: what could be read was
                return
            if not chunk:
                return
            yield chunk

    def _note_window(self, now: int) -> None:
        """Every ten minutes, whether too many of the lines since then have a time that cannot be right."""
        since, lines, wrong = self._window
        late = Counter({"late": self.late})
        current = self.counts.wrong_clock + late
        bad, read = sum((current - wrong).values()), self.counts.read - lines
        if bad > FEW and bad > SHARE * read:
            routers = sorted(name for name in (self.counts.wrong_clock - wrong) if name)
            named = f" (routers: {', '.join(routers[:3])})" if routers else ""
            self._fault = f"{bad:,} of the newest {read:,} lines came too late or have a wrong time{named}"
        elif now - since > WINDOW_US:
            self._fault = None
        if now - since > WINDOW_US:
            self._window = (now, self.counts.read, current)


def _base(path: Path) -> str:
    """The name that a file has before it is compressed."""
    name = path.name
    return name[: -len(COMPRESSED_SUFFIX)] + SUFFIX if name.endswith(COMPRESSED_SUFFIX) else name


def _started(name: str) -> int | None:
    """When a router began a file, by its name; None for files of other making."""
    match = _STARTED.search(name)
    if match is None:
        return None
    try:
        begun = datetime.strptime(match[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(begun.timestamp()) * SECOND_US


def _growing_chunks(growing: GrowingFile) -> Iterator[list[bytes]]:
    while True:
        try:
            chunk = growing.read()
        except FileNotFoundError:
            return  # the next poll finds it compressed
        if not chunk:
            return
        yield chunk
        growing.lines += len(chunk)


def _compacted_chunks(paths: list[Path]) -> Iterator[list[bytes]]:
    """The lines of Parquet in order of time; what is more than fits in memory is sorted on disk."""
    import duckdb

    with duckdb.connect() as connection:
        rows = connection.execute("SELECT line FROM read_parquet(?) ORDER BY ts", [[str(path) for path in paths]])
        while batch := rows.fetchmany(CHUNK_LINES):
            yield [line.encode() for (line,) in batch]
