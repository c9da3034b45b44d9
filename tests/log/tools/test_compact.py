"""Compaction: the same lines before and after, whenever it is killed; nothing is removed that is not verified."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from abfleet_analysis.reading.open_log import open_log
from abfleet_log.files import WriterIdentity, create
from abfleet_log.tools import compact as compacting
from abfleet_log.tools.check import Checker, CheckResult
from abfleet_log.tools.compact import compact
from abfleet_log.tools.read_lines import LogsError, all_lines

from tests.log.books import exposure, outcome, put

HERE = WriterIdentity(socket.gethostname(), 1)


def checked(folder: Path) -> CheckResult:
    return Checker(gap_seconds=1e9).take(all_lines([folder]))


def fill(folder: Path) -> CheckResult:
    """Two files with text that wants to break out, over two days, with a torn end."""
    hostile = ['"', "a,b\t;|", "\\", "u\u2028x", "用户", "\x01\x02", "'; DROP", "NULL", " "]
    put(folder, [exposure(n, hostile[n % 9], latency_ms=0.1 + n) for n in range(90)] + [outcome(n) for n in range(40)])
    late = [exposure(86_400 + n, experiment=None, group=None, unknown={"deep": [1, None]}) for n in range(30)]
    put(folder, late, number=2, tail=b'{"schema":1,"event":"expo')
    return checked(folder)


def summary(check: CheckResult) -> tuple[object, ...]:
    return check.lines, check.digest, check.torn, check.by_event, check.by_experiment, check.repeated_exposures


def counted(folder: Path) -> object:
    """What analysis makes of it."""
    with open_log([folder]) as log:
        query = (
            'SELECT count(*), count(event), count(DISTINCT exposure), sum(latency_ms), sum("at"), sum("outcome"), '
            'sum(len(items)), count(experiment), sum(propensity), count(DISTINCT "user") FROM lines'
        )
        return log.storage.connection.con.execute(query).fetchone()


def test_the_same_before_and_after(tmp_path: Path) -> None:
    """Counts, sums and hashes of all lines agree, analysis sees the same, and only Parquet is left."""
    before, seen = fill(tmp_path), counted(tmp_path)
    done = compact(tmp_path, tmp_path / "compacted", HERE)
    assert (done.files, done.lines, done.left) == (2, 161, 0)
    assert list(tmp_path.glob("*.jsonl*")) == []
    assert summary(checked(tmp_path)) == summary(before)
    assert counted(tmp_path) == seen
    days = {path.name for path in (tmp_path / "compacted").iterdir() if path.is_dir()}
    assert days == {"day=2026-11-01", "day=2026-11-02", "day=unknown"}
    assert {path.parent.name for path in tmp_path.rglob("*.parquet")} == {"exp=ranking", "exp=none"}
    assert compact(tmp_path, tmp_path / "compacted", HERE).files == 0, "there is nothing to do"


def test_more_than_fits_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are taken a few at a time, each time to the end; the result is the same."""
    before = fill(tmp_path)
    monkeypatch.setattr(compacting, "BATCH_BYTES", 10)
    steps: list[str] = []
    assert compact(tmp_path, tmp_path / "compacted", HERE, on_step=steps.append).files == 2
    assert sum(step.startswith("manifest") for step in steps) == 2
    assert summary(checked(tmp_path)) == summary(before)


class Killed(BaseException):
    """Ends a run as SIGKILL would: nothing after it is run."""


STEPS = ("write", "verify", "manifest", "publish", "remove")


@pytest.mark.parametrize("step", STEPS)
def test_killed_and_run_again(tmp_path: Path, step: str) -> None:
    """Before any step: the log is whole at that moment, and the next run ends with the same as a run that lives."""
    before = fill(tmp_path)

    def kill(at: str) -> None:
        if at.startswith(step):
            raise Killed

    with pytest.raises(Killed):
        compact(tmp_path, tmp_path / "compacted", HERE, on_step=kill)
    between = checked(tmp_path)
    assert set(between.by_event) == set(before.by_event)
    assert between.lines - between.repeated_exposures - between.repeated_outcomes == before.lines
    compact(tmp_path, tmp_path / "compacted", HERE)
    assert summary(checked(tmp_path)) == summary(before)
    left = {path.name for path in (tmp_path / "compacted").iterdir() if path.is_file()}
    assert left == {".compact.lock"}
    assert not list((tmp_path / "compacted").glob(".compacting*"))


def test_killed_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some files have their names and some have not: the next run goes on."""
    before = fill(tmp_path)
    real, left = Path.rename, [2]

    def rename(self: Path, target: Path) -> Path:
        if str(target).endswith(".parquet"):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            compact(tmp_path, tmp_path / "compacted", HERE)
    compact(tmp_path, tmp_path / "compacted", HERE)
    assert summary(checked(tmp_path)) == summary(before)


BENT = {
    "changed": "SELECT * REPLACE (coalesce(latency_ms, 0) + 1 AS latency_ms) FROM rows",
    "one changed": "SELECT * REPLACE (CASE WHEN nth = 1 THEN 'x' ELSE router END AS router) FROM rows",
    "text changed": "SELECT * REPLACE (CASE WHEN nth = 1 THEN line || ' ' ELSE line END AS line) FROM rows",
    "lost": "SELECT * FROM rows WHERE nth > 1",
    "doubled": "SELECT * FROM rows UNION ALL SELECT * FROM rows WHERE nth = 1",
    "one for another": "SELECT * FROM rows WHERE nth > 1 UNION ALL SELECT * FROM rows WHERE nth = 2",
    "exchanged": "SELECT * REPLACE (lag(request_id, 1, last) OVER (ORDER BY nth) AS request_id) "
    "FROM (SELECT *, max_by(request_id, nth) OVER () AS last FROM rows)",
}


@pytest.mark.parametrize("how", BENT)
def test_what_does_not_agree_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """A row that is not what it was made of, however: an error, and the log stays as it was."""
    before = fill(tmp_path)
    real: Callable[..., int] = compacting._write

    def bend(connection: duckdb.DuckDBPyConnection, files: list[Path], work: Path) -> int:
        lines = real(connection, files, work)
        victim = max(work.rglob("*.partial"), key=lambda path: path.stat().st_size)
        connection.execute(
            f"COPY (WITH rows AS (SELECT *, row_number() OVER () AS nth FROM read_parquet('{victim}', "
            f"hive_partitioning = false)) SELECT * EXCLUDE (nth) FROM ({BENT[how]})) TO '{victim}.new' (FORMAT parquet)"
        )
        Path(f"{victim}.new").rename(victim)
        return lines

    monkeypatch.setattr(compacting, "_write", bend)
    with pytest.raises(LogsError, match="Parquet rows differ from the log lines"):
        compact(tmp_path, tmp_path / "compacted", HERE)
    assert summary(checked(tmp_path)) == summary(before)
    assert list(tmp_path.rglob("*.parquet")) == []


def test_what_is_written_is_left(tmp_path: Path) -> None:
    """A file that a router holds stays, and is told; the others go."""
    fill(tmp_path)
    file, path = create(tmp_path, HERE, lambda: 1_790_000_000.0)
    os.write(file, b"{}\n")
    assert compact(tmp_path, tmp_path / "compacted", HERE).left == 1
    assert list(tmp_path.glob("*.jsonl")) == [path]
    os.close(file)
    assert compact(tmp_path, tmp_path / "compacted", HERE).files == 1


def test_two_at_once(tmp_path: Path) -> None:
    """The second one is told, and touches nothing."""
    fill(tmp_path)

    def second(step: str) -> None:
        with pytest.raises(LogsError, match="another compaction"):
            compact(tmp_path, tmp_path / "compacted", HERE)

    assert compact(tmp_path, tmp_path / "compacted", HERE, on_step=second).files == 2
