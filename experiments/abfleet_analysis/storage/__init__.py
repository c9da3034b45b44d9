"""The database that holds a log, behind one interface: how tables are kept, made small and fetched. Knows no rule."""

__all__ = [
    "duckdb_storage",
    "fetching",
    "ibis_duckdb",
    "ibis_equality",
    "packed_counts",
    "storage",
]
