"""What a report of a small log must not do: import what it does not need, and ask the database again and again.

Counts instead of times, because a test measures none; `./run prove small-logs` does.
"""

import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import ibis
import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.storage import duckdb_storage
from abfleet_analysis.storage.duckdb_storage import DuckDBStorage
from abfleet_analysis.storage.ibis_duckdb import connect
from ibis.backends.duckdb import Backend

from tests.support import made_log
from tests.support.made_log import Size

SMALL = Size(700, 70)
COMPILED, ASKED = 46, 90
"""A little above what a report of one experiment takes: expressions made SQL, and calls of the database."""
UNNEEDED = (
    "scipy",
    "pandas",
    "grpc",
    "numpy.testing",
    "numpy.f2py",
    "ibis.backends.sql.compilers.bigquery",
    "ibis.backends.sql.compilers.snowflake",
    "rich.live",
)


def test_a_small_report_asks_the_database_few_things(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each expression costs Ibis some milliseconds, and each call the database: of a small log that is all the time."""
    made_log.write_lines(tmp_path, SMALL, files=1)
    compiled = _compiled(monkeypatch)
    asked, call = [], DuckDBStorage.call

    def calling(*arguments: Any) -> Any:
        asked.append(1)
        return call(*arguments)

    monkeypatch.setattr(DuckDBStorage, "call", calling)
    report = analyse([tmp_path], made_log.config())
    assert report.experiments[0].decision
    assert 10 < len(compiled) <= COMPILED
    assert 20 < len(asked) <= ASKED
    assert len(set(compiled)) == len(compiled), "the same query is not made twice"


def test_sql_of_an_earlier_report_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dashboard makes the same report again and again; of another log it is the same SQL."""
    compiled = _compiled(monkeypatch)
    reports = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        made_log.write_lines(folder, SMALL, files=number)
        reports.append(analyse([folder], made_log.config()).experiments[0].decision.verdict)
        if number == 1:
            first = len(compiled)
    assert reports[0] == reports[1]
    assert len(compiled) - first <= first // 10, compiled[first:]


def test_sql_is_remembered_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest queries are kept; one that is no longer remembered is written again."""
    compiled = _compiled(monkeypatch)
    monkeypatch.setattr(duckdb_storage, "MOST_WRITTEN", 3)
    with closing(DuckDBStorage(connect("/nowhere"))) as storage:
        table = storage.keep("numbers", ibis.range(5).unnest().name("n").as_table())
        compiled.clear()
        queries = [table.filter(table.n > least) for least in range(4)]
        rows = [storage.fetched(query).num_rows for query in (*queries, queries[3], queries[0])]
    assert rows == [4, 3, 2, 1, 1, 4]
    assert len(compiled) == 5


def _compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Ibis writes from now on, when nothing is remembered."""
    compiled: list[str] = []
    compile_ = Backend.compile

    def compiling(self: Any, *arguments: Any, **named: Any) -> Any:
        compiled.append(compile_(self, *arguments, **named))
        return compiled[-1]

    monkeypatch.setattr(Backend, "compile", compiling)
    monkeypatch.setattr(duckdb_storage, "_WRITTEN", {})
    return compiled


def test_the_command_imports_only_what_it_needs(tmp_path: Path) -> None:
    """Importing is most of what the command does with a small log."""
    made_log.write_lines(tmp_path, SMALL, files=1)
    file = tmp_path / "experiments.yaml"
    file.write_text(made_log.TEXT)
    code = (
        "import sys\nfrom abfleet.cli import main\n"
        f"sys.argv = ['abfleet', 'analyze', '--logs', {str(tmp_path)!r}, '--experiments', {str(file)!r}, '--json']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print(sorted(set({UNNEEDED!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_other_compilers_are_found_when_they_are_asked_for() -> None:
    """After DuckDB's came without them: by their names, as modules, and by Ibis itself; other names are none."""
    code = """
import ast
from pathlib import Path
from abfleet_analysis.storage.ibis_duckdb import COMPILERS, connect
connection = connect("/nowhere")
import sys
package = sys.modules[COMPILERS]
assert not any(name.startswith(COMPILERS + ".big") for name in sys.modules)
tree = ast.parse(Path(package.__file__).read_text())
(names,) = (ast.literal_eval(node.value) for node in tree.body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__")
assert len(names) > 15
for name in names:
    assert getattr(package, name).__name__ == name
import ibis
import ibis.backends.sql.compilers as compilers
assert compilers is package and compilers.trino.TrinoCompiler is compilers.TrinoCompiler
assert not hasattr(compilers, "NobodysCompiler") and not hasattr(compilers, "nobody")
table = ibis.table({"n": "int64"}, name="numbers")
for dialect in ("duckdb", "bigquery", "clickhouse", "pyspark"):
    assert "SUM(" in ibis.to_sql(table.n.sum(), dialect=dialect).upper()
assert ibis.duckdb.connect().con.execute("SELECT 1").fetchall() == [(1,)]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
