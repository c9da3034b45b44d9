"""Opens decision logs for analysis: JSON lines, plain or compressed, and Parquet, of one or many routers. Does IO.

Knows files and DuckDB. What it gives is a table of normalised lines and a connection on which Ibis expressions run;
what lines mean is for the analysis. JSON lines are parsed once, into a table in memory or, where they may not fit, into
Parquet in a temporary folder; Parquet is read where it is.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from abfleet_log.files import without_twins
from abfleet_log.tools.read_lines import is_log_file

if TYPE_CHECKING:
    import duckdb
    import ibis.expr.types as ir
    from ibis.backends import BaseBackend

    from abfleet_analysis.storage.duckdb_storage import DuckDBStorage
    from abfleet_analysis.storage.storage import Storage

PARQUET_PATTERN: Final = "*.parquet"
_TYPES: Final = {
    "string": "VARCHAR",
    "timestamp(6)": "TIMESTAMPTZ",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "boolean": "BOOLEAN",
    "array<int64>": "BIGINT[]",
    "array<string>": "VARCHAR[]",
}
_DETAIL_COLUMNS: Final = {
    "attributes": "JSON",
    "config_revision": "VARCHAR",
    "traffic": "DOUBLE",
    "moved": "DOUBLE",
    "old_revision": "VARCHAR",
    "new_revision": "VARCHAR",
    "active": "BOOLEAN",
    "errors": "VARCHAR[]",
}
"""Those that are read only for what is shown beside a conclusion; else they are null."""
DEFAULT_MEMORY_BYTES: Final = 6 * 1024**3
"""What DuckDB may take before it goes to the disk, on a machine that has more than that."""
SMALL_BYTES: Final = 8 * 1024**2
"""Of JSON, some 20,000 lines: a second thread costs more than it saves."""
PACKED: Final = 10
"""How much smaller a compressed file of JSON lines is, about."""


class LogError(Exception):
    """The log cannot be opened; the message says which file, and why."""


@dataclass(frozen=True, slots=True)
class Log:
    """An open log.

    Attributes:
        storage: The database, for more tables; all of them go when the log is closed.
        lines: The normalised lines. `at` is microseconds since 1970 in UTC, ids are hashes, all else as in the log. A
            line that cannot be read is a row without `event` or `at`.
        files: How many were read.
        detailed: Whether attributes and the lines about configurations are there.
    """

    storage: "Storage"
    lines: "ir.Table"
    files: int
    detailed: bool = False


@contextmanager
def open_log(
    paths: Sequence[Path],
    *,
    detailed: bool = False,
    answers: bool = False,
    memory_limit_bytes: int | None = None,
    threads: int | None = None,
) -> Iterator[Log]:
    """The log in folders and files, all of them together. Raises LogError.

    detailed: Whether attributes and the lines about configurations are read too. answers: Whether instead the lines are
    answers, to users' calls and to those in their shadow, as `columns.answers` has them, and no others.
    memory_limit_bytes: What tables may take before they go to the disk; None is DEFAULT_MEMORY_BYTES, or less on a
    small machine. threads: None is one for each core, or one alone for a log of at most SMALL_BYTES.
    """
    import duckdb

    from abfleet_analysis.storage.duckdb_storage import DuckDBStorage
    from abfleet_analysis.storage.ibis_duckdb import connect

    json_files, parquet_files = _files(paths)
    if not json_files and not parquet_files:
        where = ", ".join(str(path)[:64] for path in paths)
        raise LogError(f"{where}: no decision log here; allowed: folders, and files *.jsonl, *.jsonl.zst, *.parquet")
    with tempfile.TemporaryDirectory(prefix="abfleet-analysis-") as folder:
        storage = DuckDBStorage(connect(folder))
        try:
            if threads is None and _size([*json_files, *parquet_files]) <= SMALL_BYTES:
                threads = 1
            limit = _limit(storage.connection.con, memory_limit_bytes, threads)
            # A table of lines takes two thirds of their size; what the analysis makes of them needs room beside it.
            spare = None if _size(json_files) < limit else Path(folder)
            try:
                reading = _Reading(detailed=detailed, answers=answers)
                lines = _lines_of_any(storage, Path(folder), spare, json_files, parquet_files, reading)
            except duckdb.Error as error:
                raise LogError(f"the log cannot be read: {str(error).splitlines()[0][:200]}") from error
            yield Log(storage, lines, len(json_files) + len(parquet_files), detailed)
        finally:
            storage.close()


def _limit(raw: "duckdb.DuckDBPyConnection", memory_limit_bytes: int | None, threads: int | None) -> int:
    raw.execute("SET preserve_insertion_order = false")
    raw.execute("SET parquet_metadata_cache = true")  # each query opens all files again
    raw.execute("SET TimeZone = 'UTC'")  # of times that name none
    if threads is not None:
        raw.execute(f"SET threads = {int(threads)}")
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = min(DEFAULT_MEMORY_BYTES, machine * 3 // 5) if memory_limit_bytes is None else memory_limit_bytes
    raw.execute(f"SET memory_limit = '{int(limit)}B'")
    return int(limit)


def _size(files: Sequence[Path]) -> int:
    """Bytes of JSON in the files, about."""
    return sum(file.stat().st_size * (1 if file.suffix in (".jsonl", ".ndjson") else PACKED) for file in files)


def _files(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    json_files: list[Path] = []
    parquet_files: list[Path] = []
    for path in paths:
        if path.is_dir():
            try:
                os.listdir(path)  # glob finds nothing in a folder that it may not read
            except OSError as error:
                raise LogError(f"{str(path)[:64]}: cannot be read: {error.strerror or error}") from error
            inside = {file for file in path.iterdir() if is_log_file(file.name) and file.is_file()}
            json_files += without_twins(inside)
            # A name that begins with a point is of a file that is being made.
            parquet_files += sorted(
                file for file in path.rglob(PARQUET_PATTERN) if file.is_file() and not file.name.startswith(".")
            )
        elif not path.is_file():
            raise LogError(f"{str(path)[:64]}: no such file or folder")
        elif path.suffix == ".parquet":
            parquet_files.append(path)
        else:
            json_files.append(path)
    return json_files, parquet_files


def _lines_of_any(
    storage: "DuckDBStorage",
    scratch: Path,
    spare: Path | None,
    json_files: list[Path],
    parquet_files: list[Path],
    reading: "_Reading",
) -> "ir.Table":
    """The lines, also where a file has one that the database refuses together with the file: an unreadable line.

    Of a file that was cut, which the database takes for whole, the end is such a line.
    """
    import duckdb
    from abfleet_log.tools.read_lines import readable, was_cut

    refused: duckdb.Error | None = None
    if not any(map(was_cut, json_files)):
        try:
            return _lines(storage, spare, json_files, parquet_files, reading)
        except duckdb.Error as error:
            refused = error
    mended = [readable(file, scratch / f"readable-{n}.jsonl") for n, file in enumerate(json_files)]
    if refused is not None and mended == json_files:
        raise refused
    return _lines(storage, spare, mended, parquet_files, reading)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Which lines are read, and how much of them."""

    detailed: bool
    answers: bool

    def columns(self) -> tuple[dict[str, str], dict[str, str]]:
        """The columns that are read, and all that the view has; the others are null in it."""
        from abfleet_analysis.reading.columns import ANSWER_COLUMNS, COLUMNS

        if self.answers:
            wanted = {name: _TYPES[kind] for name, kind in ANSWER_COLUMNS.items()} | {"attributes": "JSON"}
            return wanted, wanted
        plain = {name: _TYPES[kind] for name, kind in COLUMNS.items()}
        every = plain | _DETAIL_COLUMNS
        return every if self.detailed else plain, every

    def normalised(self, lines: "ir.Table", storage: "DuckDBStorage") -> "ir.Table":
        """The lines as whoever asked for them takes them."""
        from abfleet_analysis.reading import columns

        return (columns.answers if self.answers else columns.normalised)(lines, storage.dialect)


def _lines(
    storage: "DuckDBStorage",
    folder: Path | None,
    json_files: list[Path],
    parquet_files: list[Path],
    reading: _Reading,
) -> "ir.Table":
    """The view `lines`. folder: Where parsed JSON lines go; None keeps them in memory."""
    import ibis

    raw = storage.connection.con
    wanted, every = reading.columns()
    # A router that has just started has a file without a line. At least one part gives the table its columns.
    parts = [f"SELECT {', '.join(f'NULL::{kind} AS {_quoted(name)}' for name, kind in every.items())} LIMIT 0"]
    json_files = [file for file in json_files if file.stat().st_size]
    sources = [_parsed(storage, folder, json_files, wanted)] if json_files else []
    sources += [_parquet(raw, parquet_files)] if parquet_files else []
    parts += [_selected(raw, source, wanted, every) for source in sources]
    normal = []
    for index, part in enumerate(parts):
        storage.execute(f"CREATE VIEW part_{index} AS {part}")
        normal.append(reading.normalised(storage.named(f"part_{index}"), storage))
    return storage.view("lines", ibis.union(*normal) if len(normal) > 1 else normal[0])


def _parsed(storage: "DuckDBStorage", folder: Path | None, files: list[Path], wanted: Mapping[str, str]) -> str:
    """What JSON lines have, as a source in SQL; a line that cannot be read is a row of nulls.

    A table in memory is made in half the time that Parquet takes, which is a fifth of the size.
    """
    columns = ", ".join(f"\"{name}\": '{kind}'" for name, kind in wanted.items())
    rows = (
        f"SELECT * FROM read_json({_listed(files)}, format = 'newline_delimited', columns = {{{columns}}}, "  # noqa: S608
        "ignore_errors = true, maximum_object_size = 16777216)"
    )
    if folder is None:
        storage.execute(f"CREATE TEMP TABLE parsed_lines AS {rows}")
        return "parsed_lines"
    out = folder / "parsed"
    shutil.rmtree(out, ignore_errors=True)  # of an attempt that failed
    options = "(FORMAT parquet, COMPRESSION lz4_raw, PER_THREAD_OUTPUT true)"
    storage.execute(f"COPY ({rows}) TO {_text(out)} {options}")
    return _parquet(storage.connection.con, sorted(out.glob("*.parquet")))


def _parquet(raw: "duckdb.DuckDBPyConnection", files: Sequence[Path]) -> str:
    """Parquet files as a source in SQL; what some of them lack is null there.

    Where all files have the same columns, `union_by_name` is off: with it each query would open every file first.
    """
    differs = f"SELECT 1 FROM parquet_schema({_listed(files)}) GROUP BY name, type, logical_type HAVING count(*) <> ?"  # noqa: S608
    union = raw.execute(f"{differs} LIMIT 1", [len(files)]).fetchone() is not None
    return f"read_parquet({_listed(files)}, union_by_name = {str(union).lower()})"


def _selected(
    raw: "duckdb.DuckDBPyConnection", source: str, wanted: Mapping[str, str], every: Mapping[str, str]
) -> str:
    """What is read of a source, each column as it should be."""
    rows = raw.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()  # noqa: S608
    found = {str(row[0]): str(row[1]) for row in rows}
    # With a constant instead, DuckDB reads no list where only a call of a model of tensors would make it matter.
    infers = "method" in found and raw.execute(f"SELECT 1 FROM {source} WHERE method = 'infer' LIMIT 1").fetchone()  # noqa: S608
    if not infers:
        found.pop("method", None)
    for name in ("item_names", "item_name", "versions", "teams"):
        if name in found and not raw.execute(f"SELECT 1 FROM {source} WHERE {name} IS NOT NULL LIMIT 1").fetchone():  # noqa: S608
            found.pop(name)
    columns = [
        _column(name, kind, found) if name in wanted else f"NULL::{kind} AS {_quoted(name)}"
        for name, kind in every.items()
    ]
    # Names of files in it are quoted by _listed, and nothing else here comes from outside.
    return f"SELECT {', '.join(columns)} FROM {source}"  # noqa: S608


def _column(name: str, kind: str, found: Mapping[str, str]) -> str:
    """A column of Parquet files. What they have no column for is in the line itself, if they kept it."""
    if name in found:
        # A time without a zone is UTC; making one with a zone of it takes longer than all else that is done with it.
        same = found[name] == kind or (kind == "TIMESTAMPTZ" and found[name].startswith("TIMESTAMP"))
        return _quoted(name) if same else f"{_quoted(name)}::{kind} AS {_quoted(name)}"
    if name not in _DETAIL_COLUMNS or "line" not in found or "event" not in found:
        return f"NULL::{kind} AS {_quoted(name)}"
    text = f"json_extract(line, '$.{name}')"
    value = (
        text
        if kind == "JSON"
        else f"from_json({text}, '[\"VARCHAR\"]')"
        if kind == "VARCHAR[]"
        else (f"TRY_CAST(json_extract_string(line, '$.{name}') AS {kind})")
    )
    events = "('exposure')" if name == "attributes" else "('allocation', 'reload')"
    return f"CASE WHEN event IN {events} THEN {value} END AS {_quoted(name)}"


def _listed(files: Sequence[Path]) -> str:
    return f"[{', '.join(_text(file) for file in files)}]"


def _text(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def _quoted(name: str) -> str:
    return f'"{name}"'


def log_in(connection: "BaseBackend", lines: "ir.Table") -> Log:
    """The log that a table of a database holds: columns as in COLUMNS; those that it lacks are null."""
    import ibis
    import ibis.expr.datatypes as dt

    from abfleet_analysis.reading.columns import COLUMNS, normalised
    from abfleet_analysis.storage.fetching import storage_of

    typed = {name: dt.dtype(kind) for name, kind in COLUMNS.items()}
    given = {name: lines[name] if name in lines.columns else ibis.null(kind) for name, kind in typed.items()}
    plain = lines.select(
        **{name: column if column.type().is_timestamp() else column.cast(typed[name]) for name, column in given.items()}
    )
    storage = storage_of(connection)
    return Log(storage, storage.view("lines", normalised(plain, storage.dialect)), 1)
