"""`abfleet traffic` against a real fleet: what it says it did is what the log has, and analysis may count it."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_experiments.file.load import load
from abfleet_log.schema import problems

from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.log_books import read_books

pytestmark = pytest.mark.system
BRISK = ("--rate", "300", "--duration", "1", "--users", "60", "--delay", "0.2")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Every version serves; tests tell their runs apart by name."""
    with Fleet(tmp_path_factory.mktemp("traffic"), experiments=experiments_file()) as running:
        for version in ("v1.2.3", "v1.3.0-beta", "v1.4.0-rc1"):
            running.wait_for_serving(version)
        yield running


def traffic(address: str, *words: str, code: int = 0) -> tuple[str, str]:
    """Runs the command; gives stdout and stderr."""
    command = [sys.executable, "-m", "abfleet", "traffic", "--address", address, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def lines_of(fleet: Fleet, run: str) -> list[dict[str, Any]]:
    """The log's lines of one run, when nothing is buffered."""
    wait_until(lambda: not fleet.status().decision_log.buffered, "an empty buffer")
    return [line for line in read_books(fleet.log_dir).lines if str(line.get("request_id", "")).startswith(f"{run}-")]


def test_the_log_has_what_happened(fleet: Fleet) -> None:
    """Each call is an exposure, each outcome that was told is there once, marked as synthetic, with its exposure."""
    out, _ = traffic(fleet.address, *BRISK, "--run", "one", "--loss", "0.2", "--duplicates", "0.3", "--json")
    report = json.loads(out)
    lines = lines_of(fleet, "one")
    exposures = {line["request_id"]: line for line in lines if line["event"] == "exposure"}
    outcomes = [line for line in lines if line["event"] == "outcome"]
    assert [line for line in lines if problems(line)] == []
    assert len(exposures) == report["calls"] == report["answered"] == 300
    counts = Counter(line["type"] for line in outcomes)
    assert counts["click"] > 20
    assert len({line["outcome_id"] for line in outcomes}) == len(outcomes) == report["outcomes"]["accepted"]
    happened = sum(one["clicks"] + one["conversions"] + one["purchases"] for one in report["groups"])
    assert len(outcomes) + report["outcomes"]["withheld"] == happened
    assert report["outcomes"]["duplicate"] == report["outcomes"]["repeated"] > 0
    assert report["outcomes"]["withheld"] > 0
    for line in outcomes:
        exposure = exposures[line["request_id"]]
        assert line["item_id"] in exposure["items"]
        assert line["user_id"] == exposure["user_id"]
        assert line["ts"] >= exposure["ts"]
    assert {line["synthetic"] for line in lines} == {True}


def test_the_same_seed_calls_alike(fleet: Fleet) -> None:
    """The same people in the same order, whatever the rate; another seed differs; --as-real marks nothing."""
    reports = []
    for run, words in (
        ("a", ("--seed", "5")),
        ("b", ("--seed", "5", "--rate", "150", "--duration", "2")),
        ("c", ("--seed", "6")),
    ):
        out, _ = traffic(fleet.address, *BRISK, "--run", run, "--as-real", "--json", *words)
        reports.append(json.loads(out))
    first, second, third = ([{**one, "model_version": ""} for one in report["groups"]] for report in reports)
    assert first == second
    assert first != third
    users = [[line["user_id"] for line in lines_of(fleet, run) if line["event"] == "exposure"] for run in "ab"]
    assert Counter(users[0]) == Counter(users[1])
    assert {line["synthetic"] for line in lines_of(fleet, "a")} == {False}


def test_analysis_counts_what_happened(fleet: Fleet, tmp_path: Path) -> None:
    """Without --loss, clicks over lists in the report are those of the summary, for each group, repeats or not."""
    words = ("--run", "counted", "--as-real", "--loss", "0", "--duplicates", "0.5", "--json")
    summary = json.loads(traffic(fleet.address, *BRISK, *words)[0])
    lines = lines_of(fleet, "counted")
    lines += [line for line in read_books(fleet.log_dir).lines if line["event"] == "allocation"]
    (tmp_path / "decisions-one.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report: Any = analyse([tmp_path], load(fleet.experiments_path)).as_dict()
    (experiment,) = report["experiments"]
    lists: Counter[str] = Counter()
    clicks: Counter[str] = Counter()
    for one in summary["groups"]:
        lists[one["group"]] += one["lists"]
        clicks[one["group"]] += one["clicks"]
    assert {one["name"]: one["exposures"] for one in experiment["groups"]} == lists
    rates = {one["group"]: one["value"] for one in experiment["metrics"] if one["name"] == "ctr"}
    assert set(rates) == {"experiment", "canary"}
    for name, rate in rates.items():
        assert rate == pytest.approx(clicks[name] / lists[name])


def test_an_effect_is_seen(fleet: Fleet) -> None:
    """A group whose clicks are all taken away has none, and the others go on."""
    out, _ = traffic(fleet.address, *BRISK, "--effect", "control=-1", "--json")
    clicks: Counter[str] = Counter()
    for one in json.loads(out)["groups"]:
        clicks[one["group"]] += one["clicks"]
    assert clicks["control"] == 0
    assert clicks["experiment"] + clicks["canary"] > 0


def test_what_people_read(fleet: Fleet) -> None:
    """A table by group and a summary in words; no progress bar in a pipe."""
    out, err = traffic(fleet.address, *BRISK)
    assert re.search(r"^homepage-ranking\tcontrol\tv1\.2\.3\t", out, re.MULTILINE)
    assert "300 of 300 calls answered" in out
    assert "synthetic" in out
    assert "Calling" not in err


def test_nobody_answers() -> None:
    """Said in one line with the flag that may be wrong, and exit code 1."""
    out, err = traffic("127.0.0.1:1", "--rate", "50", "--duration", "0.1", code=1)
    assert "--address" in err
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    "words",
    [
        ("--effect", "control"),
        ("--effect", "control=much"),
        ("--effect", "control=9"),
        ("--effect", "control=-2"),
        ("--users", "0"),
        ("--rate", "0"),
        ("--data", "/nowhere"),
    ],
)
def test_usage(words: tuple[str, ...]) -> None:
    """A usage mistake is exit code 2, before any call."""
    traffic("127.0.0.1:1", *words, code=2)


def test_movielens_data(fleet: Fleet, tmp_path: Path) -> None:
    """A folder of ratings replaces the built-in population."""
    rows = [f"{user},{1 + user * 3 + n},4.0,{n}" for user in range(1, 9) for n in range(20)]
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(rows))
    traffic(fleet.address, *BRISK, "--run", "movies", "--data", str(tmp_path))
    lengths = {line["history_length"] for line in lines_of(fleet, "movies") if line["event"] == "exposure"}
    assert lengths == {16}
