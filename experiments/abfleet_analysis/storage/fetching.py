"""Small results of a database, as rows, columns and numbers."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import ibis.expr.types as ir
import numpy as np
from numpy.typing import NDArray

from abfleet_analysis.storage.duckdb_storage import DuckDBStorage
from abfleet_analysis.storage.storage import SparkStorage, Storage

if TYPE_CHECKING:
    import pyarrow as pa


def storage_of(connection: Any) -> Storage:
    """The storage of an Ibis connection."""
    if connection.name == "duckdb":
        return DuckDBStorage(connection)
    return (SparkStorage if connection.name == "pyspark" else Storage)(connection)


def fetched(table: ir.Table) -> "pa.Table":
    """The rows of a small result."""
    return storage_of(table.get_backend()).fetched(table)


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


def fetched_one(value: ir.Scalar) -> Any:
    """The value of an expression that has one."""
    return fetched(value.as_table())[0][0].as_py()


def counted(table: ir.Table, keys: Sequence[str], facts: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    """As `Storage.counted`."""
    return storage_of(table.get_backend()).counted(table, keys, facts)


def columns_of(table: ir.Table) -> dict[str, NDArray[Any]]:
    """The columns of a small result of numbers, by name."""
    result = fetched(table)
    return {name: numbers(result[name]) for name in result.schema.names}


def float_columns(table: ir.Table) -> dict[str, NDArray[np.float64]]:
    """A small result's columns as float64[rows]; null is 0."""
    return {name: np.nan_to_num(column.astype(np.float64)) for name, column in columns_of(table).items()}
