"""Lines of lists out of two versions, for whoever reads a log: check, show, compact, erase; beside lines of before."""

import socket
from pathlib import Path
from typing import Any

import duckdb
import orjson
from abfleet_experiments.assign import Assigner
from abfleet_experiments.file.load import load_text
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.check import Checker
from abfleet_log.tools.compact import compact
from abfleet_log.tools.erase import LoggedUser, erase
from abfleet_log.tools.read_lines import all_lines
from abfleet_log.tools.show import one_line

from tests.log.books import START, exposure, outcome, put

HERE = WriterIdentity(socket.gethostname(), 1)
DUEL = load_text(
    "version: 1\ndefault: v1\nmodels: {v1: {target: 'h:1'}, v2: {target: 'h:2'}}\n"
    "experiments: [{name: duel, interleave: [v1, v2]}]\n"
)


def interleaved(number: int, user: str = "user-1", **changes: Any) -> dict[str, Any]:
    """A call whose list is out of two."""
    arm, bucket = Assigner(DUEL, START).assign(user, {})
    together = {
        "experiment": "duel",
        "group": "interleaved",
        "bucket": bucket,
        "allocation": arm.allocation,
        "propensity": 1.0,
        "model_version": None,
        "versions": ["v1", "v2"],
        "served_version": None,
        "teams": "=AB",
        "attempts": 2,
        "config_revision": DUEL.revision,
    }
    return exposure(number, user, **together | changes)


def test_check_compares_them_with_the_file() -> None:
    """A line is what the file decides; other versions, or one alone, are a difference."""
    lines = [interleaved(0), interleaved(1, versions=["v2", "v1"]), interleaved(2, group="control")]
    checker = Checker(gap_seconds=60, config=DUEL)
    found = checker.take([(Path("log"), orjson.dumps(line), True) for line in lines])
    assert (found.compared, dict(found.mismatches), dict(found.problems)) == (3, {"versions": 1, "group": 1}, {})


def test_they_are_shown_with_both_versions() -> None:
    """Who served: both, or one of them and why."""
    assert "duel/interleaved  v1 and v2  OK  3 items" in one_line(interleaved(0))
    alone = interleaved(0, served_version="v1", fallback="timeout", teams=None)
    assert "v1 instead of v1 and v2 (timeout)  OK" in one_line(alone)
    assert "nothing  UNAVAILABLE" in one_line(interleaved(0, teams=None, status="UNAVAILABLE"))


def test_parquet_has_them_beside_lines_of_before(tmp_path: Path) -> None:
    """`versions` and `teams` are columns, null in all other lines; nothing of any line is lost."""
    put(tmp_path, [exposure(0), outcome(0), interleaved(1), interleaved(2, items=None, item_names=["a", "b", "c"])])
    before = Checker(gap_seconds=1e9).take(all_lines([tmp_path]))
    compact(tmp_path, tmp_path / "compacted", HERE)
    after = Checker(gap_seconds=1e9).take(all_lines([tmp_path]))
    assert (after.digest, after.sound) == (before.digest, True)
    rows = duckdb.sql(
        f"SELECT versions, teams, model_version FROM read_parquet('{tmp_path}/compacted/**/*.parquet') ORDER BY ts"
    ).fetchall()
    assert rows == [(None, None, "v1"), (None, None, None), *[(["v1", "v2"], "=AB", None)] * 2]


def test_they_are_erased_with_their_user(tmp_path: Path) -> None:
    """A user's lines go, whichever these are."""
    put(tmp_path, [interleaved(0), interleaved(1, "user-2"), outcome(0)])
    erase([tmp_path], LoggedUser("user-1"), HERE, dry_run=False)
    (line,) = [raw for _, raw, _ in all_lines([tmp_path])]
    assert b'"user-2"' in line
