"""Closed log files become Parquet by day and experiment, verified row for row before they are removed. Does IO.

A run has three steps, and each begins where an earlier run ended: (1) a work folder with Parquet under names that no
reader takes for data, read back and compared with the lines; (2) a manifest, written whole, that says what replaces
what: from here on the outcome is certain; (3) the Parquet files take their names, the log files go, and the manifest
last. A run that is killed before 2 is thrown away by the next one, after 2 it is finished by it. Between the two halves
of 3 a reader may see a line twice; nothing is ever missing, and analysis counts a repeat once.

Lines that no Parquet file can hold stay where they are: a log file that has some becomes one of those alone.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from abfleet_process.atomic_file import replace_file

from abfleet_log.files import WriterIdentity, locked_if_closed
from abfleet_log.tools.fit_lines import UnfitLines, of_escaped, of_lines, part, quoted
from abfleet_log.tools.read_lines import PARQUET_OPTIONS, LogsError, is_whole, line_files

if TYPE_CHECKING:
    import duckdb

WORK, MANIFEST, LOCK, WORK_EXTENSION = ".compacting-", ".compacted-", ".compact.lock", "partial"
BATCH_BYTES = 1 << 28
"""Of lines that become Parquet together, half a million of them: bounded work and memory for each step."""
MEMORY_LIMIT = "2GB"
"""Beyond it DuckDB uses the disk; lines take six times their size while they are sorted."""
REST = ".rest"
"""Ends the name of a file that is made of lines that stay."""
LONGEST_NAME = 64
"""Bytes of an experiment's name that a folder is named after; those that a file of ours has are no longer."""
PACKED = 10
"""How much smaller a compressed log file is, about."""
TYPED = {
    "event": "VARCHAR",
    "ts": "TIMESTAMP",
    "received_ts": "TIMESTAMP",
    "request_id": "VARCHAR",
    "user_id": "VARCHAR",
    "user_id_hmac": "VARCHAR",
    "layer": "VARCHAR",
    "experiment": "VARCHAR",
    "group": "VARCHAR",
    "bucket": "INTEGER",
    "reason": "VARCHAR",
    "allocation": "VARCHAR",
    "propensity": "DOUBLE",
    "model_version": "VARCHAR",
    "version": "VARCHAR",
    "primary": "VARCHAR",
    "served_version": "VARCHAR",
    "fallback": "VARCHAR",
    "failure": "VARCHAR",
    "attempts": "INTEGER",
    "status": "VARCHAR",
    "latency_ms": "DOUBLE",
    "method": "VARCHAR",
    "items": "BIGINT[]",
    "item_names": "VARCHAR[]",
    "versions": "VARCHAR[]",
    "teams": "VARCHAR",
    "history_length": "INTEGER",
    "config_revision": "VARCHAR",
    "synthetic": "BOOLEAN",
    "router": "VARCHAR",
    "outcome_id": "VARCHAR",
    "type": "VARCHAR",
    "item_id": "BIGINT",
    "item_name": "VARCHAR",
    "value": "DOUBLE",
    "currency": "VARCHAR",
    "salt": "VARCHAR",
    "weights": "JSON",
    "traffic": "DOUBLE",
    "winner": "VARCHAR",
    "concluded_at": "VARCHAR",
}
"""Columns beside `line`, which has the whole line as it was; what a line lacks is null."""


@dataclass(frozen=True, slots=True)
class CompactionResult:
    """What a run did: files taken, lines in them, Parquet files made, and the bytes before and after."""

    files: int = 0
    lines: int = 0
    parquet_files: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    left: int = 0
    """Files that are still written, or not known to be closed."""
    unreadable: int = 0
    """Lines in Parquet that are no JSON, such as those that a crash has torn."""
    unfit_lines: int = 0
    """Lines that no Parquet file can hold, since they are no UTF-8 or longer than 16 MiB; they stay in their files."""
    unfit: tuple[Path, ...] = ()
    """Files that have those lines, and no others any more."""
    damaged: tuple[Path, ...] = ()
    """Compressed files that cannot be read to their end; they stay as they are."""

    def __add__(self, other: "CompactionResult") -> "CompactionResult":
        return CompactionResult(*(getattr(self, name) + getattr(other, name) for name in self.__slots__))


def compact(
    folder: Path,
    out: Path,
    identity: WriterIdentity,
    *,
    wall: Callable[[], float] = time.time,
    on_step: Callable[[str], None] = lambda step: None,
) -> CompactionResult:
    """Compacts what is closed. `on_step` is called with each step before it begins. Raises LogsError and OSError."""
    folder, out = folder.resolve(), out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        lock = held.enter_context((out / LOCK).open("w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LogsError(f"{out}: another compaction is running; run the command again once it has ended") from error
        total = finish(out, on_step)
        for leftover in {*out.glob(f"{WORK}*"), *folder.glob(f"{WORK}*{REST}")}:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        closed = []
        for path in line_files([folder]):
            if held.enter_context(locked_if_closed(path, identity, wall)) is None:
                total += CompactionResult(left=1)
            elif not is_whole(path):
                total += CompactionResult(damaged=(path,))
            else:
                closed.append(path)
        for batch in _batches(closed):
            total += _fit_for_parquet(batch, out, on_step)
    return total


def _fit_for_parquet(files: Sequence[Path], out: Path, on_step: Callable[[str], None]) -> CompactionResult:
    """Compacts files together or, if one of them has a line that is unfit, half of them at a time."""
    try:
        return _one_batch(files, out, on_step)
    except UnfitLines:
        if len(files) == 1:
            return _one_batch(files, out, on_step, parted=True)
    half = len(files) // 2
    return _fit_for_parquet(files[:half], out, on_step) + _fit_for_parquet(files[half:], out, on_step)


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    batch: list[Path] = []
    size = 0
    for path in files:
        grown = path.stat().st_size * (PACKED if path.suffix == ".zst" else 1)
        if batch and size + grown > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += grown
    if batch:
        yield batch


def _one_batch(
    files: Sequence[Path], out: Path, on_step: Callable[[str], None], *, parted: bool = False
) -> CompactionResult:
    """parted: Whether the lines of one file are looked at one by one, and those that are unfit stay."""
    import duckdb

    name = hashlib.sha256("\n".join(f"{path.name} {path.stat().st_size}" for path in files).encode()).hexdigest()[:16]
    work = out / f"{WORK}{name}"
    rest = files[0].with_name(f"{WORK}{files[0].name}{REST}")
    fit = unfit = 0
    on_step(f"write {name}")
    with tempfile.TemporaryDirectory(prefix=WORK, dir=out) as spill, duckdb.connect() as connection:
        connection.execute(f"SET temp_directory = {quoted(spill)}")
        connection.execute(f"SET memory_limit = {quoted(MEMORY_LIMIT)}")
        try:
            escaped = Path(spill) / "fit.jsonl"
            if parted:
                fit, unfit = part(files[0], escaped, rest)
            if unfit and not fit:
                rest.unlink()
                return CompactionResult(unfit_lines=unfit, unfit=tuple(files))
            lines = _write(connection, of_escaped(escaped) if parted else of_lines(files), work)
            on_step(f"verify {name}")
            _verify(connection, work, lines)
            unreadable = _number(connection, "SELECT count(*) FROM typed WHERE json_valid(line) IS NOT true")
        except duckdb.InvalidInputException as error:
            shutil.rmtree(work, ignore_errors=True)
            raise UnfitLines(f"{files[0]}: {str(error).splitlines()[0][:200]}") from error
        except duckdb.Error as error:
            raise LogsError(f"the log cannot be compacted: {str(error).splitlines()[0][:200]}") from error
    on_step(f"manifest {name}")
    _promise(files, work, out, name, rest=str(rest) if unfit else None, lines=lines)
    stay = CompactionResult(unreadable=unreadable, unfit_lines=unfit, unfit=tuple(files) if unfit else ())
    return finish(out, on_step) + stay


def _promise(files: Sequence[Path], work: Path, out: Path, name: str, *, rest: str | None, lines: int) -> None:
    """Writes the manifest: what replaces the files. rest: A file of the lines that stay."""
    made = sorted(work.rglob(f"*.{WORK_EXTENSION}"))
    for path in made:
        _sync(path)
    manifest = {
        "inputs": [str(path) for path in files],
        "moves": [[str(path), str(_final(path, work, out, name))] for path in made],
        "rest": rest,
        "lines": lines,
    }
    replace_file(out / f"{MANIFEST}{name}.json", json.dumps(manifest).encode())
    _sync(out)


def _final(path: Path, work: Path, out: Path, name: str) -> Path:
    inside = path.relative_to(work)
    return out / inside.parent / f"{name}-{path.stem}.parquet"


def finish(out: Path, on_step: Callable[[str], None] = lambda step: None) -> CompactionResult:
    """Carries out what manifests say that an earlier step, or an earlier run, left."""
    total = CompactionResult()
    for path in sorted(out.glob(f"{MANIFEST}*.json")):
        manifest = json.loads(path.read_text())
        on_step(f"publish {path.stem.removeprefix(MANIFEST)}")
        after = before = 0
        for source, target in manifest["moves"]:
            if Path(source).exists():
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                Path(source).rename(target)
            after += Path(target).stat().st_size
        on_step(f"remove {path.stem.removeprefix(MANIFEST)}")
        for source in map(Path, manifest["inputs"]):
            with contextlib.suppress(FileNotFoundError):
                before += source.stat().st_size
                if (rest := manifest.get("rest")) is None:
                    source.unlink()
                elif Path(rest).exists():
                    Path(rest).rename(source)
        path.unlink()
        shutil.rmtree(out / f"{WORK}{path.stem.removeprefix(MANIFEST)}", ignore_errors=True)
        total += CompactionResult(len(manifest["inputs"]), manifest["lines"], len(manifest["moves"]), before, after)
    return total


def _write(connection: "duckdb.DuckDBPyConnection", source: str, work: Path) -> int:
    """Reads the lines of a source into a table and writes it as Parquet; gives the number of lines.

    A line that is no JSON is kept as well, in a row whose other columns are null.
    """
    connection.execute("SET preserve_insertion_order = false")
    connection.execute(
        f"CREATE TEMP TABLE raw AS SELECT line FROM {source} WHERE trim(line, ' \t\r') <> ''"  # noqa: S608
    )
    shape = json.dumps(TYPED)
    columns = ", ".join(f'fields."{name}" AS "{name}"' for name in TYPED)
    connection.execute(
        f"CREATE TEMP TABLE typed AS SELECT {columns}, line FROM (SELECT line, "  # noqa: S608
        f"CASE WHEN json_valid(line) THEN json_transform(line, {quoted(shape)}) END AS fields FROM raw)"
    )
    connection.execute("DROP TABLE raw")
    connection.execute(
        "COPY (SELECT *, coalesce(strftime(ts, '%Y-%m-%d'), 'unknown') AS day, "  # noqa: S608
        f"CASE WHEN strlen(experiment) <= {LONGEST_NAME} THEN experiment ELSE 'none' END AS exp "
        "FROM typed ORDER BY ts) "
        f"TO {quoted(str(work))} ({PARQUET_OPTIONS}, "
        f"PARTITION_BY (day, exp), FILE_EXTENSION {quoted(WORK_EXTENSION)})"
    )
    return _number(connection, "SELECT count(*) FROM typed")


def _verify(connection: "duckdb.DuckDBPyConnection", work: Path, lines: int) -> None:
    """Row for row: each line and each column is in the Parquet files as it is in the log, and nothing else is.

    A row is known by 64 bits of its text and all of its columns, and rows in whatever order by how many they are and
    what these add up to: a row that is lost, doubled or changed stays unseen once in 2^64 times. Hashed twice, because
    DuckDB puts the hashes of columns together so simply that sums of them could agree by more than chance.
    """
    if not lines:
        return
    names = ", ".join(f'"{name}"' for name in (*TYPED, "line"))
    files = f"read_parquet({quoted(str(work / '**' / f'*.{WORK_EXTENSION}'))}, hive_partitioning = false)"
    facts = [
        connection.execute(f"SELECT count(*), sum(hash(hash({names}))::HUGEINT) FROM {rows}").fetchone()  # noqa: S608
        for rows in ("typed", files)
    ]
    if facts[0] != facts[1]:
        raise LogsError("the Parquet rows differ from the log lines they were made from; no log file was removed")


def _number(connection: "duckdb.DuckDBPyConnection", query: str) -> int:
    row: Any = connection.execute(query).fetchone()
    return int(row[0])


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
