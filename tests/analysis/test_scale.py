"""What large logs and other databases need: bounded memory, told progress, SQL that others understand."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pytest
import sqlglot
from abfleet_analysis.analyse import analyse
from abfleet_analysis.evidence import log_lines
from abfleet_analysis.evidence.layout import Layout
from abfleet_analysis.evidence.sums import PRODUCTS, Shape, Value, changes
from abfleet_analysis.evidence.visits import by_look, counted_in, of_calls, units_of
from abfleet_analysis.reading.columns import COLUMNS, normalised
from abfleet_analysis.reading.open_log import open_log
from abfleet_analysis.storage.storage import DIALECTS
from click.testing import Result
from sqlglot import exp
from typer.testing import CliRunner

from abfleet.cli import app
from abfleet.commands.analysis_progress import QUIET_SECONDS, plain_lines
from tests.support import made_log
from tests.support.made_log import Size

SMALL = Size(7_000, 700, ramped=True)
OTHERS = ("clickhouse", "bigquery")
DUCKDB_ONLY = {"HASH", "EPOCH_US", "EPOCH", "STRFTIME", "LIST_CONTAINS", "READ_PARQUET"}


def run(folder: Path, *arguments: str) -> Result:
    file = folder / "experiments.yaml"
    file.write_text(made_log.TEXT)
    return CliRunner().invoke(app, ["analyze", "--logs", str(folder), "--experiments", str(file), "--json", *arguments])


def test_a_memory_limit_is_kept_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit reaches the database, the result is the same, and the temporary folder is empty afterwards."""
    logs, temporary = tmp_path / "logs", tmp_path / "temporary"
    logs.mkdir()
    temporary.mkdir()
    made_log.write_lines(logs, SMALL, files=2)
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with open_log([logs], memory_limit_bytes=2**28, threads=1) as log:
        rows = log.storage.connection.con.execute(
            "SELECT name, value FROM duckdb_settings() WHERE name IN ('memory_limit', 'threads', 'temp_directory')"
        ).fetchall()
        assert dict(rows) == {
            "memory_limit": "256.0 MiB",
            "threads": "1",
            "temp_directory": dict(rows)["temp_directory"],
        }
        assert Path(dict(rows)["temp_directory"]).is_relative_to(temporary)
        assert list(temporary.iterdir())
    assert list(temporary.iterdir()) == []
    limited, plain = run(logs, "--memory-limit", str(2**28)), run(logs)
    assert limited.exit_code == plain.exit_code == 0, limited.output
    assert rounded(json.loads(limited.stdout)) == rounded(json.loads(plain.stdout))
    refused = run(logs, "--memory-limit", "1000")
    assert refused.exit_code == 2
    assert "268435456" in refused.output


def test_lines_and_parquet_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same log as JSON lines, as lines that do not fit in memory and as Parquet, over two allocations."""
    lines, parquet = tmp_path / "lines", tmp_path / "parquet"
    lines.mkdir()
    parquet.mkdir()
    made_log.write_lines(lines, SMALL, files=3)
    made_log.write_parquet(parquet, SMALL, files=2, options="(FORMAT parquet)")
    reports = [analyse([folder], made_log.config()).as_dict() for folder in (lines, parquet)]
    monkeypatch.setattr("abfleet_analysis.reading.open_log._size", lambda files: 2**60)
    with open_log([lines]) as log:
        assert list(Path(one_setting(log.storage.connection, "temp_directory")).rglob("*.parquet"))
    reports.append(analyse([lines], made_log.config()).as_dict())
    assert rounded(reports[0]) == rounded(reports[1]) == rounded(reports[2])
    (experiment,) = reports[0]["experiments"]  # type: ignore[misc]
    assert len(experiment["allocations"]) == 2
    assert reports[0]["log"]["lines"] == SMALL.lines  # type: ignore[index]
    left_out = experiment["data_quality"]["moved_by_ramp"]
    assert left_out > 0
    counted = sum(group["exposures"] for group in experiment["groups"])
    assert SMALL.exposures - SMALL.exposures // SMALL.users * left_out <= counted < SMALL.exposures


@pytest.mark.parametrize(("lines", "users"), [(7_000, 70), (70_000, 2)])
def test_calls_may_be_added_up_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int, users: int) -> None:
    """Whether a user's calls of a look are one row or several is a matter of time, and of nothing else.

    Two users have more calls in a look than their counts have bits for, beside each other in one number.
    """
    made_log.write_parquet(tmp_path, Size(lines, users), files=1, options="(FORMAT parquet)")
    reports = []
    for least in (0.0, 1e9):
        monkeypatch.setattr("abfleet_analysis.evidence.layout.OFTEN", least)
        reports.append(rounded(analyse([tmp_path], made_log.config()).as_dict()))
    assert reports[0] == reports[1]
    assert reports[0]["experiments"][0]["plan"]["users"] >= users


def one_setting(connection: Any, name: str) -> str:
    """What DuckDB says of a setting."""
    (row,) = connection.con.execute(f"SELECT current_setting('{name}')").fetchall()
    return str(row[0])


def rounded(document: Any) -> Any:
    """With numbers cut to 9 digits: sums of floats depend on the order of rows, which is nobody's."""
    return json.loads(json.dumps(document), parse_float=lambda text: f"{float(text):.9e}")


def test_long_steps_are_told_where_nobody_watches() -> None:
    """Steps that begin early are not told; later ones are, with the time so far."""
    told: list[str] = []
    times = iter((10.0, 10.0, 10.0 + QUIET_SECONDS, 100.0))
    heard = plain_lines(told.append, lambda: next(times))
    for step in ("reading the log", "reading 8 lines", "analysing a"):
        heard(step)
    assert told == ["analyze: reading 8 lines (5 s)", "analyze: analysing a (90 s)"]


@dataclass
class Compiled:
    """The queries of the aggregates in one dialect, as they are made one from the other."""

    dialect: str
    queries: dict[str, str] = field(default_factory=dict)

    def keep(self, name: str, table: ir.Table) -> ir.Table:
        """The table under a name, as a database would keep it."""
        self.queries[name] = str(ibis.to_sql(table, dialect=self.dialect))
        return ibis.table(table.schema(), name=name)


def compiled(dialect: str) -> Compiled:
    """From lines to the sums over users."""
    made = Compiled(dialect)
    lines = made.keep("lines", normalised(ibis.table(dict(COLUMNS), name="decisions"), DIALECTS[dialect]))
    exposures = made.keep("exposures", lines.filter(lines.event == "exposure"))
    words = (exposures[name] for name in ("status", "fallback", "cause", "unsent", "unlisted"))
    exposures = exposures.mutate(**log_lines.call_results(*words))
    calls = log_lines.calls(exposures, ["control", "treatment"], ["a", "b"])
    calls = made.keep("calls", calls.mutate(look=(calls["at"] // 86_400_000_000).cast("int64")))
    layout = Layout(ramped=True, timed=True)
    added = of_calls(calls, None, layout)
    visits = made.keep("visits", by_look(added, layout, {name: added[name].sum() for name in counted_in(added)}))
    units = made.keep("units", units_of(visits, layout))
    joined = visits.drop("g").inner_join(
        units.select("user", "period", "g").mutate(cell=units.period), ["user", "period"]
    )
    values = {"m": Value("answered", "timed"), "n": Value("error", any=True)}
    changed = made.keep("changes", changes(joined, values, Shape(3, 2, 2), layout))
    sums = {f"{name}_{part}": changed[f"{name}_{part}"].sum() for name in values for part in PRODUCTS}
    made.keep("sums", changed.group_by("place").aggregate(**sums))
    return made


@pytest.mark.parametrize("dialect", OTHERS)
def test_others_understand_the_aggregates(dialect: str) -> None:
    """Every query parses in the dialect, reads the table before it, gives its columns, and has no word of DuckDB's."""
    reads = {
        "lines": {"decisions"},
        "exposures": {"lines"},
        "calls": {"exposures"},
        "visits": {"calls"},
        "units": {"visits"},
        "changes": {"visits", "units"},
        "sums": {"changes"},
    }
    made = compiled(dialect)
    assert set(made.queries) == set(reads)
    for name, query in made.queries.items():
        (tree,) = sqlglot.parse(query, dialect=dialect)
        assert tree is not None
        own = {part.alias for part in tree.find_all(exp.CTE)}
        assert {table.name for table in tree.find_all(exp.Table)} - own == reads[name], query
        words = {function.name.upper() for function in tree.find_all(exp.Anonymous)}
        assert not words & DUCKDB_ONLY, f"{name}: {words}"
    columns = set(exp.maybe_parse(made.queries["sums"], dialect=dialect).named_selects)
    assert {"place", "m_yy", "n_nonzero"} <= columns


def test_ids_are_hashed_by_the_database_that_has_them() -> None:
    """Each dialect's own functions are in its query for ids and times."""
    words = {
        "duckdb": ("HASH(", "EPOCH_US("),
        "clickhouse": ("XXHASH64(", "TOUNIXTIMESTAMP64MICRO("),
        "bigquery": ("FARM_FINGERPRINT(", "UNIX_MICROS("),
    }
    for dialect, expected in words.items():
        query = compiled(dialect).queries["lines"].upper()
        assert all(word in query for word in expected), query
