"""Opens decision logs for analysis: JSON lines, plain or compressed, and Parquet, of one or many routers. Does IO.

Knows files and DuckDB. What it gives is a table of normalised lines and a connection on which Ibis expressions run;
what lines mean is for the analysis. JSON lines are copied once into a database of their own in a temporary folder, so
that each is parsed once and memory is bounded; Parquet is read where it is.
"""

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import ibis.expr.types as ir
    from ibis.backends.duckdb import Backend

JSON_PATTERNS: Final = ("*.jsonl", "*.jsonl.zst", "*.jsonl.gz", "*.ndjson")
PARQUET_PATTERN: Final = "*.parquet"
_COLUMNS: Final = {
    "event": "VARCHAR", "ts": "TIMESTAMPTZ", "request_id": "VARCHAR", "user_id": "VARCHAR", "experiment": "VARCHAR",
    "group": "VARCHAR", "bucket": "INTEGER", "reason": "VARCHAR", "allocation": "VARCHAR", "propensity": "DOUBLE",
    "model_version": "VARCHAR", "served_version": "VARCHAR", "fallback": "VARCHAR", "status": "VARCHAR",
    "latency_ms": "DOUBLE", "items": "BIGINT[]", "synthetic": "BOOLEAN", "outcome_id": "VARCHAR", "type": "VARCHAR",
    "item_id": "BIGINT", "value": "DOUBLE", "currency": "VARCHAR", "salt": "VARCHAR", "weights": "JSON",
    "user_id_hmac": "VARCHAR",
}  # fmt: skip
"""The fields that analysis reads. Others may be there; those that are missing are null."""
_DETAIL_COLUMNS: Final = {
    "attributes": "JSON", "router": "VARCHAR", "config_revision": "VARCHAR", "traffic": "DOUBLE", "moved": "DOUBLE",
    "old_revision": "VARCHAR", "new_revision": "VARCHAR", "active": "BOOLEAN", "errors": "VARCHAR[]",
}  # fmt: skip
"""Those that are read only for what is shown beside a conclusion; else they are null."""

# Ids become hashes of 63 bits: a table of them is a tenth of the size, and two of 10 million users share one with a
# probability of 5 in a million. An id that is empty is absent.
_NORMALISED: Final = """
    SELECT event, epoch_us(ts) AS at,
        CASE WHEN user_id <> '' THEN (hash(user_id) >> 1)::BIGINT END AS "user",
        CASE WHEN request_id <> '' THEN (hash(request_id) >> 1)::BIGINT END AS request,
        CASE WHEN user_id <> '' AND request_id <> '' THEN (hash(user_id, request_id) >> 1)::BIGINT END AS exposure,
        experiment, "group", bucket, reason, coalesce(allocation, '') AS allocation, propensity, model_version,
        served_version, fallback, status, latency_ms, items, coalesce(synthetic, false) AS synthetic,
        CASE WHEN event = 'outcome' THEN (CASE WHEN outcome_id <> '' THEN hash(outcome_id)
            ELSE hash(user_id, request_id, ts, type, item_id, value) END >> 1)::BIGINT END AS outcome,
        type, item_id, value, currency, salt, weights::VARCHAR AS weights,
        CASE WHEN event = 'exposure' THEN nullif(attributes::VARCHAR, '{{}}') END AS attributes,
        router, config_revision, traffic, moved, old_revision, new_revision, active, errors
    FROM (SELECT * REPLACE (coalesce(nullif(user_id, ''), user_id_hmac) AS user_id) FROM {source})
"""


class LogError(Exception):
    """The log cannot be opened; the message says which file, and why."""


@dataclass(frozen=True, slots=True)
class Log:
    """An open log.

    Attributes:
        connection: For more tables; all of them go when the log is closed.
        lines: The normalised lines. `at` is microseconds since 1970 in UTC, ids are hashes, all else as in the log. A
            line that cannot be read is a row without `event` or `at`.
        files: How many were read.
    """

    connection: "Backend"
    lines: "ir.Table"
    files: int


@contextmanager
def open_log(paths: Sequence[Path], *, detailed: bool = False) -> Iterator[Log]:
    """The log in folders and files, all of them together. Raises LogError.

    detailed: Whether attributes and the lines about configurations are read too.
    """
    import duckdb
    import ibis

    json_files, parquet_files = _files(paths)
    if not json_files and not parquet_files:
        where = ", ".join(str(path)[:64] for path in paths)
        raise LogError(
            f"{where}: no decision log here; allowed are folders and files of *.jsonl, *.jsonl.zst, *.parquet"
        )
    with tempfile.TemporaryDirectory(prefix="abfleet-analysis-") as folder:
        connection = ibis.duckdb.connect(Path(folder) / "log.duckdb", temp_directory=folder)
        try:
            raw = connection.con
            raw.execute("SET preserve_insertion_order = false")
            raw.execute("SET TimeZone = 'UTC'")  # of times that name none
            # Nothing outlives this connection, so that writing the log of changes would be in vain.
            raw.execute("SET checkpoint_threshold = '1TB'")
            try:
                _create(raw, json_files, parquet_files, detailed=detailed)
            except duckdb.Error as error:
                raise LogError(f"the log cannot be read: {str(error).splitlines()[0][:200]}") from error
            yield Log(connection, connection.table("lines"), len(json_files) + len(parquet_files))
        finally:
            connection.disconnect()


def _files(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    json_files: list[Path] = []
    parquet_files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = {file for pattern in JSON_PATTERNS for file in path.glob(pattern)}
            # Where both are there, a router is just removing the plain one.
            json_files += sorted(file for file in inside if file.with_name(file.name + ".zst") not in inside)
            # A name that begins with a point is of a file that is being made.
            parquet_files += sorted(file for file in path.rglob(PARQUET_PATTERN) if not file.name.startswith("."))
        elif not path.is_file():
            raise LogError(f"{str(path)[:64]}: no such file or folder")
        elif path.suffix == ".parquet":
            parquet_files.append(path)
        else:
            json_files.append(path)
    return json_files, parquet_files


def _create(raw: "object", json_files: list[Path], parquet_files: list[Path], *, detailed: bool) -> None:
    """Makes `lines`: a view where all is Parquet, a table where anything has to be parsed."""
    execute = raw.execute  # type: ignore[attr-defined]
    # A router that has just started has a file without a line. At least one part gives the table its columns.
    every = _COLUMNS | _DETAIL_COLUMNS
    wanted = every if detailed else _COLUMNS
    unread = "".join(f', NULL::{kind} AS "{name}"' for name, kind in every.items() if name not in wanted)
    columns = ", ".join(f'NULL::{kind} AS "{name}"' for name, kind in every.items())
    parts = [f"(SELECT {columns} LIMIT 0)"]
    json_files = [file for file in json_files if file.stat().st_size]
    if json_files:
        columns = ", ".join(f"\"{name}\": '{kind}'" for name, kind in wanted.items())
        parts.append(
            f"(SELECT *{unread} FROM "  # noqa: S608
            f"read_json({_listed(json_files)}, format = 'newline_delimited', columns = {{{columns}}}, "
            "ignore_errors = true, maximum_object_size = 16777216))"
        )
    if parquet_files:
        found = {
            row[0]
            for row in execute(
                f"DESCRIBE SELECT * FROM read_parquet({_listed(parquet_files)}, union_by_name = true)"  # noqa: S608
            ).fetchall()
        }
        columns = ", ".join(_parquet_column(name, kind, found) for name, kind in wanted.items())
        parts.append(
            f"(SELECT {columns}{unread} FROM read_parquet({_listed(parquet_files)}, union_by_name = true))"  # noqa: S608
        )
    # Names of files are quoted by _listed, and nothing else here comes from outside.
    query = " UNION ALL ".join(_NORMALISED.format(source=part) for part in parts)
    kind = "TABLE" if json_files else "VIEW"
    execute(f"CREATE {kind} lines AS {query}")


def _parquet_column(name: str, kind: str, found: Collection[str]) -> str:
    """A column of Parquet files. What they have no column for is in the line itself, if they kept it."""
    if name in found:
        return f'"{name}"::{kind} AS "{name}"'
    if name not in _DETAIL_COLUMNS or "line" not in found or "event" not in found:
        return f'NULL::{kind} AS "{name}"'
    text = f"json_extract(line, '$.{name}')"
    value = text if kind == "JSON" else f"from_json({text}, '[\"VARCHAR\"]')" if kind == "VARCHAR[]" else (
        f"TRY_CAST(json_extract_string(line, '$.{name}') AS {kind})")  # fmt: skip
    events = "('exposure')" if name == "attributes" else "('allocation', 'reload')"
    return f'CASE WHEN event IN {events} THEN {value} END AS "{name}"'


def _listed(files: Sequence[Path]) -> str:
    names = ", ".join("'" + str(file).replace("'", "''") + "'" for file in files)
    return f"[{names}]"
