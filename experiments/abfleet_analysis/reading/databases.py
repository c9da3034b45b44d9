"""What differs between the databases that can hold a log: names of functions, and how a table is kept.

Everything else of the analysis is the same expressions on all of them. Only DuckDB opens files by itself; on the others
the lines are a table that was loaded there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import numpy as np
from abfleet_log.schema import LARGEST_VALUE
from numpy.typing import NDArray

from abfleet_analysis.reading import duckdb_tables

if TYPE_CHECKING:
    import pyarrow as pa
    from ibis.backends import BaseBackend

SEPARATOR: Final = "\x1f"
"""Between ids that are hashed together: no id has a control character."""
TEXT, ID, AT = dt.string, dt.uint64, dt.Timestamp(scale=6)


def _builtin(name: str, arguments: Sequence[dt.DataType], result: dt.DataType) -> Callable[..., Any]:
    def of_one(value: Any) -> Any: ...

    def of_two(value: Any, other: Any) -> Any: ...

    wrapped: Callable[..., Any] = ibis.udf.scalar.builtin(
        of_one if len(arguments) == 1 else of_two, name=name, signature=(tuple(arguments), result)
    )
    return wrapped


def _with_zone(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function of an instant, where a time without a zone is of another type: it is in the session's, UTC."""
    return lambda at: function(at.cast(dt.Timestamp("UTC", scale=6)))


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a database calls things.

    Attributes:
        hash: 64 bits of a text; unsigned is whether they come without a sign.
        hash_two: The same of two texts; None where they are put together first.
        microseconds: Of an instant, since 1970.
    """

    hash: Callable[[ir.StringValue], ir.IntegerValue]
    unsigned: bool
    microseconds: Callable[[ir.TimestampValue], ir.IntegerValue]
    hash_two: Callable[[ir.StringValue, ir.StringValue], ir.IntegerValue] | None = None

    def identity(self, *texts: ir.StringValue) -> ir.IntegerValue:
        """An id as a number of 63 or 64 bits; of several texts together. Texts are not null."""
        if len(texts) == 2 and self.hash_two is not None:
            value = self.hash_two(*texts)
        else:
            value = self.hash(ibis.literal(SEPARATOR).join(texts) if len(texts) > 1 else texts[0])
        return value >> 1 if self.unsigned else value


DIALECTS: Final[Mapping[str, Dialect]] = {
    "duckdb": Dialect(
        _builtin("hash", [TEXT], ID), True, _builtin("epoch_us", [AT], dt.int64), _builtin("hash", [TEXT, TEXT], ID)
    ),
    "pyspark": Dialect(
        _builtin("xxhash64", [TEXT], dt.int64), False, _with_zone(_builtin("unix_micros", [AT], dt.int64))
    ),
    "clickhouse": Dialect(_builtin("xxHash64", [TEXT], ID), True, _builtin("toUnixTimestamp64Micro", [AT], dt.int64)),
    "bigquery": Dialect(_builtin("farm_fingerprint", [TEXT], dt.int64), False, _builtin("unix_micros", [AT], dt.int64)),
}
"""By Ibis' name of the database."""

LONGEST_MS: Final = 1e9
"""Twelve days: no call takes so long, and squares of response times up to here add up."""
LATEST_US: Final = 221_845_392_000_000_000
"""The year 9000: a line of a broken clock, past which dates and their distances have no type of Python."""
COLUMNS: Final[Mapping[str, str]] = {
    "event": "string",
    "ts": "timestamp(6)",
    "request_id": "string",
    "user_id": "string",
    "user_id_hmac": "string",
    "experiment": "string",
    "group": "string",
    "bucket": "int32",
    "reason": "string",
    "allocation": "string",
    "propensity": "float64",
    "model_version": "string",
    "served_version": "string",
    "fallback": "string",
    "failure": "string",
    "attempts": "int32",
    "status": "string",
    "latency_ms": "float64",
    "method": "string",
    "items": "array<int64>",
    "synthetic": "boolean",
    "outcome_id": "string",
    "type": "string",
    "item_id": "int64",
    "value": "float64",
    "currency": "string",
    "salt": "string",
    "weights": "string",
    "traffic": "float64",
    "winner": "string",
    "concluded_at": "string",
    "router": "string",
}
"""What a table of lines has, as the log names it; `weights` is JSON. A log need not have all of it."""


def normalised(lines: ir.Table, dialect: Dialect) -> ir.Table:
    """The lines as the analysis takes them: times in microseconds, ids as hashes; all else as in the log.

    A table of hashes is a tenth of the size, and two of 10 million users share one with a probability of 5 in a
    million. An id that is empty is absent, and so is a time before 1970 or after the year 8999, and a number that no
    sum could take, such as nan; `unusable` is whether the line has one of these. Columns beyond those of the analysis
    are kept. `unsent` is a word in lines of calls that no worker was asked about, `cause` why the assigned version did
    not answer, where a line says so, and `unlisted` a word in lines of calls of ModelInfer whose items are not logged.
    """
    at = dialect.microseconds(lines.ts)
    user_id = ibis.coalesce(lines.user_id.nullif(""), lines.user_id_hmac.nullif(""))
    request_id = lines.request_id.nullif("")
    outcome_id = lines.outcome_id.nullif("")
    made_of = [user_id, request_id, lines.type, *(lines[name].cast("string") for name in ("ts", "item_id", "value"))]
    instead = dialect.identity(*(part.fill_null("") for part in made_of))
    outcome = ibis.ifelse(outcome_id.notnull(), dialect.identity(outcome_id), instead)
    both = ibis.ifelse(user_id.notnull() & request_id.notnull(), dialect.identity(user_id, request_id), ibis.null())
    detail = {}
    if "attributes" in lines.columns:
        text = lines.attributes.cast("string").nullif("{}")
        detail["attributes"] = ibis.ifelse(lines.event == "exposure", text, ibis.null())
    bounds = {"value": (-LARGEST_VALUE, LARGEST_VALUE), "latency_ms": (0.0, LONGEST_MS), "propensity": (0.0, 1.0)}
    # Nan is above every bound, or compares with none: it is in no range on any of the databases.
    usable = {name: lines[name].between(low, high).fill_null(True) for name, (low, high) in bounds.items()}
    replaced = ("ts", "user_id", "user_id_hmac", "request_id", "outcome_id", "attempts", "failure", "method", *bounds)
    # One in the other: where a log is known to have no such calls, nobody has to read the lists.
    unlisted = ibis.ifelse(lines["items"].isnull(), "unlisted", ibis.null("string"))
    return lines.select(
        *(name for name in lines.columns if name not in (*replaced, *detail, "allocation", "synthetic")),
        at=ibis.ifelse(at.between(0, LATEST_US), at, ibis.null()),
        user=ibis.ifelse(user_id.notnull(), dialect.identity(user_id), ibis.null()),
        request=ibis.ifelse(request_id.notnull(), dialect.identity(request_id), ibis.null()),
        exposure=both,
        outcome=ibis.ifelse(lines.event == "outcome", outcome, ibis.null()),
        allocation=lines.allocation.fill_null(""),
        synthetic=lines.synthetic.fill_null(False),
        **{name: ibis.ifelse(usable[name], lines[name], ibis.null()) for name in bounds},
        unsent=ibis.ifelse(lines.attempts == 0, "unsent", ibis.null("string")),
        unlisted=ibis.ifelse(lines.method == "infer", unlisted, ibis.null("string")),
        cause=ibis.coalesce(lines.failure, lines.fallback),
        unusable=~ibis.and_(*usable.values()),
        **detail,
    )


def keep(connection: "BaseBackend", name: str, table: "ir.Table | pa.Table") -> ir.Table:
    """The table, computed once, under a name that may be taken already."""
    if connection.name == "pyspark":
        return _cached(connection, name, table)
    if connection.name == "duckdb":
        return duckdb_tables.keep(connection, name, table)
    return connection.create_table(name, table, temp=True, overwrite=True)


def _cached(connection: Any, name: str, table: "ir.Table | pa.Table") -> ir.Table:
    """Spark has no tables of a session's own; it keeps what it has computed under a view's name."""
    if isinstance(table, ir.Table):
        frame = connection.raw_sql(ibis.to_sql(table, dialect="pyspark"))
    else:
        frame = connection.raw_sql("SELECT 1").sparkSession.createDataFrame(table)
    frame.cache().createOrReplaceTempView(name)
    kept: ir.Table = connection.table(name)
    return kept


def keep_narrow(
    connection: "BaseBackend",
    name: str,
    table: ir.Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | None]],
    follows: duckdb_tables.Follows = lambda _: {},
) -> ir.Table:
    """The same, with columns that have few different values in a byte or two each, where that is known.

    columns: Names of such columns, all of them text. rows: Every combination of their values that the table has.
    follows: More columns, of which each value follows from a row's combination.
    """
    if connection.name != "duckdb" or not columns:
        return keep(connection, name, table.mutate(**follows(table)))
    return duckdb_tables.keep_narrow(connection, name, table, columns, rows, follows)


def keep_repeated(connection: "BaseBackend", name: str, table: ir.Table, key: str) -> tuple[ir.Table, int]:
    """The numbers of a column that more than one row has, each once, and how many rows have one that another has too.

    Of n rows with the same number n - 1 are counted; null is no number.
    """
    keys = table.filter(table[key].notnull()).select(key)
    if connection.name == "duckdb" and (found := duckdb_tables.keep_repeated(connection, name, keys)) is not None:
        return found
    counted = keys.group_by(key).aggregate(times=ibis._.count())
    repeated = keep(connection, name, counted.filter(counted.times > 1))
    return repeated, int(fetched_one((repeated.times - 1).sum()) or 0)


def fetched(table: ir.Table) -> "pa.Table":
    """The rows of a small result."""
    connection: Any = table.get_backend()
    if connection.name != "duckdb":
        return table.to_pyarrow()
    return duckdb_tables.fetched(connection, connection.compile(table)).cast(table.schema().to_pyarrow())


def numbers(column: "pa.ChunkedArray") -> NDArray[Any]:
    """A column of numbers; null is nan. Arrow's own way imports pandas first."""
    if column.null_count or column.type.bit_width > 64:  # so wide are decimals alone
        column = column.cast("float64").fill_null(float("nan"))
    chunks = [np.from_dlpack(chunk) for chunk in column.chunks]
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate(chunks) if chunks else np.zeros(0, column.type.to_pandas_dtype())


def fetched_rows(table: ir.Table) -> list[dict[str, Any]]:
    """The rows of a small result, by column."""
    rows: list[dict[str, Any]] = fetched(table).to_pylist()
    return rows


def counted(table: ir.Table, keys: Sequence[str], facts: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """Each combination of the keys, of which there are few, with facts of its rows.

    facts: By name a function (`count`, `min`, `max`, `sum`) and a column; `*` counts the rows.
    """
    connection: Any = table.get_backend()
    if connection.name != "duckdb":
        values = {
            name: table.count() if column == "*" else getattr(table[column], function)()
            for name, (function, column) in facts.items()
        }
        return fetched_rows(table.group_by(*keys).aggregate(**values))
    return duckdb_tables.counted(connection, table, keys, facts)


def fetched_one(value: ir.Scalar) -> Any:
    """The value of an expression that has one."""
    return fetched(value.as_table())[0][0].as_py()


def view(connection: "BaseBackend", name: str, table: ir.Table) -> ir.Table:
    """The table by a name, so that what is asked of it stays a short query: long ones take Ibis longer than DuckDB."""
    if connection.name == "duckdb":
        return duckdb_tables.view(connection, name, table)
    return connection.create_view(name, table, overwrite=True)


@contextmanager
def alongside(connection: "BaseBackend") -> Iterator[Callable[..., Future[Any]]]:
    """A second thread, as a function that gives it work: it asks the database in turn, and writes queries meanwhile.

    If the first one fails, or somebody interrupts it, the second one's work ends with it.
    """
    pool = ThreadPoolExecutor(1)
    asked: list[Future[Any]] = []

    def submit(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        asked.append(pool.submit(work, *arguments))
        return asked[-1]

    try:
        yield submit
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        if connection.name == "duckdb":
            duckdb_tables.interrupt(connection, asked)
        raise
    finally:
        pool.shutdown()
