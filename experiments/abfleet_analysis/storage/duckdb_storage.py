"""DuckDB's own way with tables and results; it reads every log that consists of files.

A connection takes one call at a time, and refuses a second one. So each has a thread of its own for its calls: whoever
calls waits for its turn, may write another query in another thread meanwhile, and can be interrupted, which DuckDB in
the main thread notices late.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache, partial
from threading import RLock
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.operations as ops
import ibis.expr.types as ir
import numpy as np
from numpy.typing import NDArray

from abfleet_analysis.storage.packed_counts import WORD_BITS, packed, unpacked
from abfleet_analysis.storage.storage import Follows, Storage, Summed, Words

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
MOST_WRITTEN: Final = 256
"""Queries whose SQL is remembered, with some 90 KB each; a report of one experiment has about fifty."""
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

Result = TypeVar("Result")
_THREADS: Final[WeakKeyDictionary[Any, ThreadPoolExecutor]] = WeakKeyDictionary()
_LOCK: Final = RLock()  # the collector may close a log within
_WRITTEN: Final[dict[ops.Node, str]] = {}


class DuckDBStorage(Storage):
    """A DuckDB with a log."""

    __slots__ = ()

    def call(self, work: Callable[[Any], Result]) -> Result:
        """Runs work with DuckDB's connection in the connection's own thread, and returns its result."""
        raw = self.connection.con
        with _LOCK:
            thread = _THREADS.get(raw) or _THREADS.setdefault(raw, ThreadPoolExecutor(1))
        future = thread.submit(work, raw)
        try:
            return future.result()
        except KeyboardInterrupt:
            self.interrupt([future])
            raise

    def close(self) -> None:
        """Closes the connection, when its last call has ended, with its thread and all its tables."""
        with _LOCK:
            thread = _THREADS.pop(self.connection.con, None)
        if thread is not None:
            thread.shutdown()
        self.connection.disconnect()

    def interrupt(self, asked: Sequence[Future[Any]]) -> None:
        """Interrupts running calls every 20 ms until all futures are done."""
        while not all(one.done() for one in asked):
            self.connection.con.interrupt()
            wait(asked, timeout=0.02)

    def rows(self, query: str) -> "pa.Table":
        """A query's rows. They come without Ibis' own converter, which imports pandas first: half a second."""
        return self.call(lambda raw: raw.sql(query).to_arrow_table())

    def execute(self, statement: str) -> None:
        """Runs a statement that has no rows."""
        self.call(lambda raw: raw.execute(statement))

    def written(self, table: ir.Table) -> str:
        """The table as SQL. Writing it is nearly half of a small report, so what was written for the same table of
        another log, or of an earlier report, is taken again: the SQL depends on names, types and literals alone."""
        with _LOCK:
            if (found := _WRITTEN.get(table.op())) is not None:
                return found
        query = str(self.connection.compile(table))
        with _LOCK:
            _WRITTEN[table.op()] = query
            while len(_WRITTEN) > MOST_WRITTEN:
                del _WRITTEN[next(iter(_WRITTEN))]
        return query

    def fetched(self, table: ir.Table) -> "pa.Table":
        """As of any database."""
        return self.rows(self.written(table)).cast(table.schema().to_pyarrow())

    def keep(self, name: str, table: "ir.Table | pa.Table") -> ir.Table:
        """As a temporary table."""
        if isinstance(table, ir.Table):
            return self.made(name, self.written(table))

        def given(raw: Any) -> None:
            raw.register("given_rows", table)
            try:
                raw.execute(_created(name, "SELECT * FROM given_rows"))
            finally:
                raw.unregister("given_rows")

        self.call(given)
        return self.named(name)

    def made(self, name: str, query: str) -> ir.Table:
        """A table from a query, written once: Ibis would write it under another name first, and copy it."""
        self.execute(_created(name, query))
        return self.named(name)

    def view(self, name: str, table: ir.Table) -> ir.Table:
        """As of any database."""
        self.execute(f'CREATE OR REPLACE VIEW "{name}" AS {self.written(table)}')
        return self.named(name)

    def named(self, name: str) -> ir.Table:
        """The table of that name, with the types that it has. Ibis takes ten times as long to find them."""

        def described(raw: Any) -> list[tuple[str, str]]:
            relation = raw.sql(f'SELECT * FROM "{name}"')  # noqa: S608  # is not run
            return list(zip(relation.columns, map(str, relation.types), strict=True))

        schema = ibis.schema([(column, _type(kind)) for column, kind in self.call(described)])
        table: ir.Table = ops.DatabaseTable(name, schema=schema, source=self.connection).to_expr()
        return table

    def keep_words(self, name: str, table: ir.Table, words: Words, follows: Follows = lambda _: {}) -> ir.Table:
        """As of any database. Columns become ENUMs; one hash join brings them and what follows."""
        if not words.columns:
            return Storage.keep_words(self, name, table, words, follows)
        table = table.drop(*(column for column in words.same if column in table.columns))
        return self._narrow(name, table, words, follows).mutate(**words.same)

    def _narrow(self, name: str, table: ir.Table, words: Words, follows: Follows) -> ir.Table:
        quoted = [f'"{column}"' for column in words.columns]
        narrow = [_enum(self, name, words, index) for index in range(len(quoted))]
        hashed = f"hash({', '.join(quoted)})"
        listed = _combinations(self, f"{name}_words", quoted, words.rows, f"{hashed} AS words, {', '.join(narrow)}")
        if listed is None:
            query = self.written(table.mutate(**follows({**words.values(table), **words.same})))
            return self.made(name, f"SELECT * REPLACE ({', '.join(narrow)}) FROM ({query})")  # noqa: S608
        # Looking one number up for a row costs less than looking each of its words up, and all that follows from them.
        facts = self.keep(f"{name}_facts", listed.mutate(**follows({**words.values(listed), **words.same})))
        found = ", ".join(f'w."{column}"' for column in facts.columns if column != "words")
        return self.made(
            name,
            f"SELECT t.* EXCLUDE (words, {', '.join(quoted)}), {found} FROM "  # noqa: S608
            f"(SELECT *, {hashed} AS words FROM ({self.written(table)})) AS t "
            f'JOIN "{name}_facts" AS w USING (words)',
        )

    def keep_counts(self, name: str, table: ir.Table, counts: Sequence[str], summed: Summed) -> ir.Table:
        """As of any database, but in one number where it has room for all, which takes a third less time."""
        word = dict.fromkeys(counts, WORD_BITS // len(counts))
        kept = self.keep(name, summed({"word": packed(table, word).sum()}))
        (most,) = self.fetched(kept.calls.max().as_table())[0].to_pylist()
        if (most or 0) >> min(word.values()):
            return Storage.keep_counts(self, name, table, counts, summed)
        return kept.mutate(**unpacked(kept.word, word, "")).drop("word")

    def keep_repeated(self, name: str, table: ir.Table, key: str) -> tuple[ir.Table, int]:
        """As of any database, but where too many numbers are repeated without grouping all."""
        keys = table.filter(table[key].notnull()).select(key)
        twice = _repeated_numbers(self, self.written(keys), key)
        if len(twice) > MOST_LISTED:
            return Storage.keep_repeated(self, name, table, key)
        listed = ", ".join(map(str, np.unique(twice)))
        kind = "UBIGINT" if keys[key].type().is_unsigned_integer() else "BIGINT"
        return self.made(name, f'SELECT unnest([{listed}]::{kind}[]) AS "{key}"'), len(twice)

    def counted(
        self, table: ir.Table, keys: Sequence[str], facts: Mapping[str, tuple[str, str]]
    ) -> list[dict[str, Any]]:
        """As of any database. Groups by one hash of all keys, which takes two thirds of the time."""
        quoted = [f'"{key}"' for key in keys]
        chosen = [f"any_value({key}) AS {key}" for key in quoted]
        for name, (function, column) in facts.items():
            value = column if column == "*" else f'"{column}"'
            chosen.append(f'{function}({value}) AS "{name}"')
        query = f"SELECT {', '.join(chosen)} FROM ({self.written(table)}) GROUP BY hash({', '.join(quoted)})"  # noqa: S608
        rows: list[dict[str, Any]] = self.rows(query).to_pylist()
        return rows


def _created(name: str, query: str) -> str:
    return f'CREATE OR REPLACE TEMP TABLE "{name}" AS {query}'  # names are the analysis's own


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


def _enum(storage: DuckDBStorage, name: str, words: Words, index: int) -> str:
    """A column of words as an ENUM, in SQL; as it is where it has too many words, or none."""
    column = words.columns[index]
    values = sorted({word for row in words.rows if (word := row[index]) is not None})
    if not values or len(values) > MOST_ENUM_VALUES:
        return f'"{column}" AS "{column}"'
    storage.execute(f'DROP TYPE IF EXISTS "{name}_{column}"')
    storage.execute(f'CREATE TYPE "{name}_{column}" AS ENUM ({", ".join(map(_literal, values))})')
    return f'"{column}"::"{name}_{column}" AS "{column}"'


def _combinations(
    storage: DuckDBStorage, name: str, columns: Sequence[str], rows: Sequence[Sequence[str | None]], selected: str
) -> ir.Table | None:
    """A table of combinations with a hash for each; None where they are too many, or two hashes collide."""
    if not rows or len(rows) > MOST_COMBINATIONS:
        return None
    values = ", ".join(f"({', '.join(map(_literal, row))})" for row in rows)
    table = storage.made(name, f"SELECT {selected} FROM (VALUES {values}) AS listed ({', '.join(columns)})")  # noqa: S608
    (different,) = storage.rows(f'SELECT count(DISTINCT words) AS n FROM "{name}"')["n"].to_pylist()  # noqa: S608
    return table if different == len(rows) else None


def _literal(text: str | None) -> str:
    """A string literal in SQL, with its quotes doubled; NULL for None."""
    return "NULL::VARCHAR" if text is None else "'" + text.replace("'", "''") + "'"


def _repeated_numbers(storage: DuckDBStorage, query: str, key: str) -> NDArray[Any]:
    """Numbers that come again, each occurrence after the first. Sorting takes a sixth of grouping's time."""
    (rows,) = storage.rows(f"SELECT count(*) AS n FROM ({query})")["n"].to_pylist()  # noqa: S608
    parts = 1 << (rows // SORTED_AT_ONCE).bit_length()
    found: list[Future[NDArray[Any]]] = []
    with ThreadPoolExecutor(1) as pool:  # numpy sorts one part while the database finds the next
        for part in range(parts):
            some = f'SELECT "{key}" FROM ({query}) WHERE "{key}" & {parts - 1} = {part}'  # noqa: S608
            values = storage.call(partial(_column, query=some, name=key))
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
