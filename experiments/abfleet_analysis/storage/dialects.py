"""What databases call functions: one dialect for each that can hold a log."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

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
