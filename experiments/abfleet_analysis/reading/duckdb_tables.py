"""How tables are kept and results fetched on DuckDB, which reads every log that consists of files.

A connection takes one call at a time, and refuses a second one. So each has a thread of its own for its calls: whoever
calls waits for its turn, may write another query in another thread meanwhile, and can be interrupted, which DuckDB in
the main thread notices late.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.operations as ops
import ibis.expr.types as ir
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

MOST_ENUM_VALUES: Final = 60_000
"""A column of text with more different values than this stays text."""
MOST_COMBINATIONS: Final = 10_000
"""Of such columns' values; with more of them each is looked up by itself."""
SORTED_AT_ONCE: Final = 8_000_000
"""Numbers of 8 bytes, that all of a column need not be in memory."""
MOST_LISTED: Final = 1_000_000
"""Repeated numbers of a log that are listed in a query one by one."""
_TYPES: Final[Mapping[str, dt.DataType]] = {
    "BIGINT": dt.int64,
    "BIGINT[]": dt.Array(dt.int64),
    "BOOLEAN": dt.boolean,
    "DOUBLE": dt.float64,
    "HUGEINT": dt.Decimal(38, 0),
    "INTEGER": dt.int32,
    "JSON": dt.string,
    "SMALLINT": dt.int16,
    "TIMESTAMP WITH TIME ZONE": dt.Timestamp("UTC", scale=6),
    "UBIGINT": dt.uint64,
    "VARCHAR": dt.string,
    "VARCHAR[]": dt.Array(dt.string),
}
"""As Arrow has them, of the columns that the analysis keeps: reading a type's name takes Ibis longer than a query."""

Follows = Callable[[ir.Table], Mapping[str, ir.Value]]
Result = TypeVar("Result")
_THREADS: Final[WeakKeyDictionary[Any, ThreadPoolExecutor]] = WeakKeyDictionary()
_LOCK: Final = Lock()


def call(connection: Any, work: Callable[[Any], Result]) -> Result:
    """Runs work with DuckDB's connection in the connection's own thread, and returns its result."""
    raw = connection.con
    with _LOCK:
        thread = _THREADS.get(raw) or _THREADS.setdefault(raw, ThreadPoolExecutor(1))
    future = thread.submit(work, raw)
    try:
        return future.result()
    except KeyboardInterrupt:
        interrupt(connection, [future])
        raise


def close(connection: Any) -> None:
    """Closes a connection, when its last call has ended, with its thread and all its tables."""
    with _LOCK:
        thread = _THREADS.pop(connection.con, None)
    if thread is not None:
        thread.shutdown()
    connection.disconnect()


def interrupt(connection: Any, asked: Sequence[Future[Any]]) -> None:
    """Interrupts running calls every 20 ms until all futures are done."""
    while not all(one.done() for one in asked):
        connection.con.interrupt()
        wait(asked, timeout=0.02)


def fetched(connection: Any, query: str) -> "pa.Table":
    """A query's rows. They come without Ibis' own converter, which imports pandas first: half a second of a report."""
    return call(connection, lambda raw: raw.sql(query).to_arrow_table())


def execute(connection: Any, statement: str) -> None:
    """Runs a statement that has no rows."""
    call(connection, lambda raw: raw.execute(statement))


def keep(connection: Any, name: str, table: "ir.Table | pa.Table") -> ir.Table:
    """Computes a table once and stores it as a temporary table; an existing one of that name is replaced."""
    if isinstance(table, ir.Table):
        return made(connection, name, connection.compile(table))

    def given(raw: Any) -> None:
        raw.register("given_rows", table)
        try:
            raw.execute(_created(name, "SELECT * FROM given_rows"))
        finally:
            raw.unregister("given_rows")

    call(connection, given)
    return named(connection, name)


def _created(name: str, query: str) -> str:
    return f'CREATE OR REPLACE TEMP TABLE "{name}" AS {query}'  # names are the analysis's own


def made(connection: Any, name: str, query: str) -> ir.Table:
    """A table from a query, written once: Ibis would write it under another name first, and copy it."""
    execute(connection, _created(name, query))
    return named(connection, name)


def view(connection: Any, name: str, table: ir.Table) -> ir.Table:
    """Creates or replaces a view of the query, and returns it as a table."""
    execute(connection, f'CREATE OR REPLACE VIEW "{name}" AS {connection.compile(table)}')
    return named(connection, name)


def named(connection: Any, name: str) -> ir.Table:
    """The table of that name, with the types that it has. Ibis takes ten times as long to find them."""

    def described(raw: Any) -> list[tuple[str, str]]:
        relation = raw.sql(f'SELECT * FROM "{name}"')  # noqa: S608  # is not run
        return list(zip(relation.columns, map(str, relation.types), strict=True))

    schema = ibis.schema([(column, _type(kind)) for column, kind in call(connection, described)])
    table: ir.Table = ops.DatabaseTable(name, schema=schema, source=connection).to_expr()
    return table


@lru_cache(maxsize=1024)
def _type(kind: str) -> dt.DataType:
    """Ibis' type of one of DuckDB's; a word of a few is a text."""
    if kind in _TYPES:
        return _TYPES[kind]
    if kind.startswith("ENUM("):
        return dt.string
    from ibis.backends.sql.datatypes import DuckDBType

    found: dt.DataType = DuckDBType.from_string(kind)
    return found


def keep_narrow(
    connection: Any,
    name: str,
    table: ir.Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[str | None]],
    follows: Follows,
) -> ir.Table:
    """`databases.keep_narrow` on DuckDB: columns become ENUMs; one hash join brings them and what follows."""
    quoted = [f'"{column}"' for column in columns]
    narrow = []
    for index, column in enumerate(quoted):
        values = sorted({word for row in rows if (word := row[index]) is not None})
        if not values or len(values) > MOST_ENUM_VALUES:
            narrow.append(f"{column} AS {column}")
            continue
        kind = f'"{name}_{columns[index]}"'
        execute(connection, f"DROP TYPE IF EXISTS {kind}")
        execute(connection, f"CREATE TYPE {kind} AS ENUM ({', '.join(map(_literal, values))})")
        narrow.append(f"{column}::{kind} AS {column}")
    hashed = f"hash({', '.join(quoted)})"
    combinations = _combinations(connection, f"{name}_words", quoted, rows, f"{hashed} AS words, {', '.join(narrow)}")
    if combinations is None:
        query = connection.compile(table.mutate(**follows(table)))
        return made(connection, name, f"SELECT * REPLACE ({', '.join(narrow)}) FROM ({query})")  # noqa: S608
    # Looking one number up for a row costs less than looking each of its words up, and all that follows from them.
    looked_up = keep(connection, f"{name}_facts", combinations.mutate(**follows(combinations)))
    found = ", ".join(f'w."{column}"' for column in looked_up.columns if column != "words")
    query = connection.compile(table)
    return made(
        connection,
        name,
        f"SELECT t.* EXCLUDE (words, {', '.join(quoted)}), {found} "  # noqa: S608
        f'FROM (SELECT *, {hashed} AS words FROM ({query})) AS t JOIN "{name}_facts" AS w USING (words)',
    )


def _combinations(
    connection: Any, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | None]], selected: str
) -> ir.Table | None:
    """A table of combinations with a hash for each; None where they are too many, or two hashes collide."""
    if not rows or len(rows) > MOST_COMBINATIONS:
        return None
    values = ", ".join(f"({', '.join(map(_literal, row))})" for row in rows)
    table = made(connection, name, f"SELECT {selected} FROM (VALUES {values}) AS listed ({', '.join(columns)})")  # noqa: S608
    (different,) = fetched(connection, f'SELECT count(DISTINCT words) AS n FROM "{name}"')["n"].to_pylist()  # noqa: S608
    return table if different == len(rows) else None


def _literal(text: str | None) -> str:
    """A string literal in SQL, with its quotes doubled; NULL for None."""
    return "NULL::VARCHAR" if text is None else "'" + text.replace("'", "''") + "'"


def keep_repeated(connection: Any, name: str, keys: ir.Table) -> tuple[ir.Table, int] | None:
    """`databases.keep_repeated` for one column without nulls; None where too many numbers are repeated."""
    (key,) = keys.columns
    twice = _repeated_numbers(connection, connection.compile(keys), key)
    if len(twice) > MOST_LISTED:
        return None
    listed = ", ".join(map(str, np.unique(twice)))
    kind = "UBIGINT" if keys[key].type().is_unsigned_integer() else "BIGINT"
    return made(connection, name, f'SELECT unnest([{listed}]::{kind}[]) AS "{key}"'), len(twice)


def _repeated_numbers(connection: Any, query: str, key: str) -> NDArray[Any]:
    """The repeated numbers of a query, each occurrence after the first. Sorting takes a sixth of grouping's time."""
    (rows,) = fetched(connection, f"SELECT count(*) AS n FROM ({query})")["n"].to_pylist()  # noqa: S608
    parts = 1 << (rows // SORTED_AT_ONCE).bit_length()
    found: list[Future[NDArray[Any]]] = []
    with ThreadPoolExecutor(1) as pool:  # numpy sorts one part while the database finds the next
        for part in range(parts):
            some = f'SELECT "{key}" FROM ({query}) WHERE "{key}" & {parts - 1} = {part}'  # noqa: S608
            values = call(connection, partial(_column, query=some, name=key))
            found.append(pool.submit(_repeats, values))
            wait(found[:-1])  # no more than two are in memory
    return np.concatenate([part.result() for part in found])


def _column(raw: Any, query: str, name: str) -> NDArray[Any]:
    column: NDArray[Any] = raw.execute(query).fetchnumpy()[name]
    return column


def _repeats(values: NDArray[Any]) -> NDArray[Any]:
    values.sort()
    repeated: NDArray[Any] = values[1:][values[1:] == values[:-1]]
    return repeated


def counted(
    connection: Any, table: ir.Table, keys: Sequence[str], facts: Mapping[str, tuple[str, str]]
) -> list[dict[str, Any]]:
    """`databases.counted` on DuckDB. Groups by one hash of all keys, which takes two thirds of the time."""
    quoted = [f'"{key}"' for key in keys]
    chosen = [f"any_value({key}) AS {key}" for key in quoted]
    for name, (function, column) in facts.items():
        value = column if column == "*" else f'"{column}"'
        chosen.append(f'{function}({value}) AS "{name}"')
    query = f"SELECT {', '.join(chosen)} FROM ({connection.compile(table)}) GROUP BY hash({', '.join(quoted)})"  # noqa: S608
    rows: list[dict[str, Any]] = fetched(connection, query).to_pylist()
    return rows
