"""Ibis' DuckDB without its twenty other databases: what `ibis.duckdb` imports first is a quarter of a small report.

The package with the compilers imports all of them, and sqlglot's dialects of each. Here it comes without, and finds
each when somebody asks for it: other databases work as before, whichever comes first.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from ibis.backends.duckdb import Backend

COMPILERS: Final = "ibis.backends.sql.compilers"
_LOCK: Final = Lock()


def connect(temporary: Path | str) -> "Backend":
    """A database in memory, which goes to this folder with what has no room there."""
    with _LOCK:
        if COMPILERS not in sys.modules:
            _without_others()
    import ibis
    from ibis.backends.duckdb import Backend

    # DuckDB merges selects of selects by itself; for Ibis it is a quarter of the time that it takes to write SQL.
    ibis.options.sql.fuse_selects = False
    connection: Backend = Backend().connect(temp_directory=str(temporary))
    # Each log has a database of its own, with the same tables: what is SQL for one is SQL for all.
    connection.db_identity = "a log"
    return connection


def _without_others() -> None:
    """Puts the package of compilers among the modules, without running it."""
    spec = find_spec(COMPILERS)  # imports the packages above it
    assert spec is not None, "Ibis has compilers, or is no Ibis"
    package: Any = module_from_spec(spec)

    def found(name: str) -> Any:
        module = f"{COMPILERS}.{name.removesuffix('Compiler').lower()}"
        if name.startswith("_") or find_spec(module) is None:
            raise AttributeError(f"module {COMPILERS!r} has no attribute {name!r}")
        imported = import_module(module)
        return getattr(imported, name) if name.endswith("Compiler") else imported

    package.__getattr__ = found
    sys.modules[COMPILERS] = package
    sys.modules[COMPILERS.rpartition(".")[0]].compilers = package  # type: ignore[attr-defined]
