"""The one interface to the database that holds a log: tables kept and fetched, as any database that Ibis knows does it.

Everything else of the analysis is the same expressions on all of them. Only DuckDB opens files by itself; on the others
the lines are a table that was loaded there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from abfleet_analysis.storage import ibis_equality

if TYPE_CHECKING:
    import pyarrow as pa

SEPARATOR: Final = "\x1f"
"""Between ids that are hashed together: no id has a control character."""
ibis_equality.make_safe()  # before anything is compared in two threads
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

    def item(self, name: ir.StringValue) -> ir.IntegerValue:
        """A name of an item as a number, of the type that items with numbers have."""
        return self.identity(name).cast("int64")


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


Values = Mapping[str, ir.Value]
Follows = Callable[[Values], Values]
Summed = Callable[[Values], ir.Table]


@dataclass(frozen=True, slots=True)
class Words:
    """What is known of a table's columns that have few different values.

    Attributes:
        columns: Those of text with more than one value. rows: Every combination of their values that the table has.
        same: Those with one value in all rows, of any type.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | None]]
    same: Values = field(default_factory=dict)

    def values(self, table: ir.Table) -> Values:
        """The columns of a table that has them."""
        return {column: table[column] for column in self.columns}


@dataclass(frozen=True, slots=True)
class Storage:
    """A database that holds a log.

    Attributes:
        connection: Ibis' own.
    """

    connection: Any

    @property
    def dialect(self) -> Dialect:
        """What the database calls functions."""
        return DIALECTS[self.connection.name]

    def keep(self, name: str, table: "ir.Table | pa.Table") -> ir.Table:
        """The table, computed once, under a name that may be taken already."""
        kept: ir.Table = self.connection.create_table(name, table, temp=True, overwrite=True)
        return kept

    def keep_but(self, name: str, table: ir.Table, same: Values) -> ir.Table:
        """The same, with columns that have one value in all rows (`same`), so that nothing is kept of these."""
        return self.keep(name, table.drop(*(column for column in same if column in table.columns))).mutate(**same)

    def keep_words(self, name: str, table: ir.Table, words: Words, follows: Follows = lambda _: {}) -> ir.Table:
        """The same, with columns that have few different values in a byte or two each, where the database has a way.

        follows: More columns, of which each value follows from those of `words` in its row.
        """
        made = table.mutate(**follows({**words.values(table), **words.same}))
        return self.keep_but(name, made, words.same)

    def keep_counts(self, name: str, table: ir.Table, counts: Sequence[str], summed: Summed) -> ir.Table:
        """What `summed` makes of a table and the sums of its columns `counts`, which are small whole numbers from 0 on.

        It is one row for each group of rows, and has their number as `calls`.
        """
        return self.keep(name, summed({column: table[column].sum() for column in counts}))

    def keep_repeated(self, name: str, table: ir.Table, key: str) -> tuple[ir.Table, int]:
        """The numbers of a column that more than one row has, each once, and how many rows have one that another has
        too. Of n rows with the same number n - 1 are counted; null is no number."""
        counted = table.filter(table[key].notnull()).group_by(key).aggregate(times=ibis._.count())
        repeated = self.keep(name, counted.filter(counted.times > 1))
        extra = self.fetched((repeated.times - 1).sum().as_table())[0][0].as_py()
        return repeated, int(extra or 0)

    def view(self, name: str, table: ir.Table) -> ir.Table:
        """The table by a name, so that what is asked of it stays a short query: Ibis takes long for long ones."""
        view: ir.Table = self.connection.create_view(name, table, overwrite=True)
        return view

    def fetched(self, table: ir.Table) -> "pa.Table":
        """The rows of a small result."""
        return table.to_pyarrow()

    def counted(
        self, table: ir.Table, keys: Sequence[str], facts: Mapping[str, tuple[str, str]]
    ) -> list[dict[str, Any]]:
        """Each combination of the keys, of which there are few, with facts of its rows.

        facts: By name a function (`count`, `min`, `max`, `sum`) and a column; `*` counts the rows.
        """
        values = {
            name: table.count() if column == "*" else getattr(table[column], function)()
            for name, (function, column) in facts.items()
        }
        rows: list[dict[str, Any]] = self.fetched(table.group_by(*keys).aggregate(**values)).to_pylist()
        return rows

    @contextmanager
    def alongside(self) -> Iterator[Callable[..., Future[Any]]]:
        """A second thread, as a function that gives it work: it asks in turn, and writes queries meanwhile.

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
            self.interrupt(asked)
            raise
        finally:
            pool.shutdown()

    def interrupt(self, asked: Sequence[Future[Any]]) -> None:
        """Ends the calls that run, where the database can."""


class SparkStorage(Storage):
    """Spark has no tables of a session's own; it keeps what it has computed under a view's name."""

    __slots__ = ()

    def keep(self, name: str, table: "ir.Table | pa.Table") -> ir.Table:
        """As of any database."""
        if isinstance(table, ir.Table):
            frame = self.connection.raw_sql(ibis.to_sql(table, dialect="pyspark"))
        else:
            frame = self.connection.raw_sql("SELECT 1").sparkSession.createDataFrame(table)
        frame.cache().createOrReplaceTempView(name)
        kept: ir.Table = self.connection.table(name)
        return kept
