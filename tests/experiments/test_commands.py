"""The commands as people run them: output, files and exit codes."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer
from abfleet_experiments.file import save
from abfleet_experiments.file.load import load
from typer.testing import CliRunner, Result

from abfleet.commands import experiments
from tests.experiments import reference
from tests.experiments.file.test_rewrite import BLOCK

SHIPPED = Path(__file__).parents[2] / "experiments" / "recommender.yaml"
COLUMNS = ["user_id", "experiment", "group", "bucket", "model_version", "reason"]

app = typer.Typer()
experiments.register(app)


def _run(*arguments: object, stdin: str | bytes = "", env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], input=stdin, env={"COLUMNS": "200", **(env or {})})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiments file of one's own."""
    path = tmp_path / "recommender.yaml"
    path.write_text(BLOCK, encoding="utf-8")
    return path


def _rows(output: bytes) -> list[dict[str, str]]:
    csv.field_size_limit(2**21)  # the default refuses the longest id that a test sends
    return list(csv.DictReader(io.StringIO(output.decode(errors="surrogateescape"), newline="")))


def test_assign_agrees_with_the_formula() -> None:
    """100,000 ids through a real process: every cell is what a second reading of the formula gives."""
    users = [f"user-{number}" for number in range(99_000)] + [f"пользователь-{number}" for number in range(1000)]
    process = subprocess.run(
        [sys.executable, "-m", "abfleet", "assign", "--experiments", SHIPPED],
        input="\n".join(users).encode(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert process.stderr == b""
    assert process.stdout.startswith(",".join(COLUMNS).encode() + b"\r\n")
    rows = _rows(process.stdout)
    names = (("control", "v1.2.3"), ("experiment", "v1.3.0-beta"), ("canary", "v1.4.0-rc1"))
    held: Counter[str] = Counter()
    for user_id, row in zip(users, rows, strict=True):
        user_bucket = reference.bucket("recommender-2026-11", user_id)
        group, version = names[reference.group_of((7000, 2000, 1000), user_bucket)]
        expected = [user_id, "homepage-ranking", group, str(user_bucket), version, "allocated"]
        assert list(row.values()) == expected
        held[group] += 1
    assert abs(held["control"] - 70_000) < 1000


def test_assign_takes_every_line() -> None:
    """Empty, quoted, invalid and very long ids each give one row; what is wrong is counted on standard error."""
    lines = ["", "a,b", 'say "hi"', " x ", "tab\there", "x" * 257, "ж" * 128, "z" * 2**20, "\x7f"]
    result = _run("assign", "--experiments", SHIPPED, stdin="\r\n".join(lines).encode() + b"\n\xff\n")
    rows = _rows(result.stdout_bytes)
    assert result.exit_code == 0
    assert len(rows) == len(lines) + 1
    assert [row["user_id"] for row in rows[:-1]] == lines
    reasons = [row["reason"] for row in rows]
    bad = "invalid_user_id"
    assert reasons == ["no_user_id", *["allocated"] * 3, bad, bad, "allocated", bad, bad, bad]
    assert list(rows[0].values()) == ["", "", "", "", "v1.2.3", "no_user_id"]
    assert all([row[c] for c in COLUMNS[1:-1]] == [""] * 4 for row in rows if row["reason"] == bad)
    assert "invalid user ids: 5" in result.stderr


def test_assign_streams_lines_of_any_chunking() -> None:
    """Lines of all lengths, some across chunks, come out one for one; no line gives only the header."""
    users = [("u" * (number % 200)) + str(number) for number in range(20_000)]
    result = _run("assign", "--experiments", SHIPPED, stdin="\n".join(users))
    assert [row["user_id"] for row in _rows(result.stdout_bytes)] == users
    assert _run("assign", "--experiments", SHIPPED).stdout_bytes == ",".join(COLUMNS).encode() + b"\r\n"


def test_assign_stops_when_nobody_reads() -> None:
    """`abfleet assign | head -1` ends without a traceback."""
    program = f"{sys.executable} -m abfleet assign --experiments {SHIPPED} | head -1"
    stdin = b"".join(b"user-%d\n" % number for number in range(200_000))
    process = subprocess.run(program, shell=True, input=stdin, capture_output=True, timeout=120)
    assert process.stdout == ",".join(COLUMNS).encode() + b"\r\n"
    assert process.stderr == b""


def test_assign_with_time_and_attributes(tmp_path: Path) -> None:
    """`--at` chooses the ramp row and `--attributes` the audience."""
    path = tmp_path / "f.yaml"
    path.write_text(
        "version: 1\ndefault: v1\nmodels: {v1: {target: 'h:1'}}\nexperiments:\n"
        "  - {name: e, audience: {c: [d]}, groups: [{name: g, model: v1, weight: 100}],\n"
        "     ramp: [{at: 2026-11-01T00:00:00Z, g: 100}]}\n",
        encoding="utf-8",
    )

    def reason(*more: str) -> str:
        return _rows(_run("assign", "--experiments", path, *more, stdin="u").stdout_bytes)[0]["reason"]

    assert reason("--at", "2026-10-31T23:59:59Z", "--attributes", "c=d") == "not_in_traffic"
    assert reason("--at", "2026-11-01T01:00:00+01:00", "--attributes", "c=d") == "allocated"
    assert reason("--at", "2026-11-01T00:00:00Z", "--attributes", "c=e") == "not_in_audience"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("assign", "--at", "tomorrow"), "--at: `tomorrow` must be a time with its zone"),
        (("assign", "--attributes", "country"), "--attributes: `country` must be NAME=VALUE"),
        (("assign", "--experiments", "/none.yaml"), "/none.yaml:1:1: cannot be read: No such file or directory"),
        (("ramp", "homepage-ranking"), "nothing to change"),
        (
            ("ramp", "homepage-ranking", "cnary=101", "canary=x", "canary=1", "--traffic", "300", "--at", "tomorrow"),
            "`cnary=101`: the share|`canary=x`: the share|`canary` is given twice|`--traffic 300`|--at: `tomorrow`",
        ),
        (
            ("ramp", "homepage-ranking", "canary=90", "experiment=50", "--at", "2020-01-01T00:00:00Z"),
            "2020-01-01T00:00:00Z must be later than the last ramp row|the treatments have 140 percent together",
        ),
        (
            ("ramp", "homepage-ranking", "cnary=1", "experment=1", "--at", "2020-01-01T00:00:00Z"),
            "`cnary` is not a group|`experment` is not a group|2020-01-01T00:00:00Z must be later",
        ),
        (("ramp", "homepage-ranking", "canary"), "`canary`: the share must be a percentage"),
        (("ramp", "homepage-ranking", "canary=101"), "`canary=101`: the share must be a percentage"),
        (("ramp", "homepage-ranking", "--traffic", "1.234"), "`--traffic 1.234`: the share must be"),
        (("halt", "homepage"), "`homepage` is not an experiment of the file; did you mean `homepage-ranking`?"),
        (("conclude", "homepage-ranking", "--winner", "canari"), "did you mean `canary`?"),
        (("explain", "a\tb"), "must hold no control characters"),
        (("plan", SHIPPED, SHIPPED, "--attributes", "a=b"), "--attributes: needs --users"),
    ],
)
def test_usage_mistakes_exit_with_2(arguments: tuple[object, ...], message: str) -> None:
    """What was asked wrongly is said, a line each (here between `|`), and nothing is changed."""
    before = SHIPPED.read_bytes()
    named = () if "plan" in arguments or "--experiments" in arguments else ("--experiments", SHIPPED)
    result = _run(*arguments, *named)
    assert result.exit_code == 2
    assert all(part in result.stderr for part in message.split("|")), result.stderr
    assert SHIPPED.read_bytes() == before


def test_flag_before_environment_before_file(file: Path, tmp_path: Path) -> None:
    """`--experiments` beats ABFLEET_EXPERIMENTS, which beats the default place."""
    env = {"ABFLEET_EXPERIMENTS": str(file)}
    assert "2 experiments" in _run("validate", env=env).stdout
    assert "1 experiment\n" in _run("validate", "--experiments", SHIPPED, env=env).stdout
    missing = {"ABFLEET_EXPERIMENTS": str(tmp_path / "none.yaml")}
    assert _run("assign", env=missing).exit_code == 2


def test_validate_tells_every_mistake_of_every_file(file: Path, tmp_path: Path) -> None:
    """Exit code 2 if one file is wrong; right ones are named with their revision; JSON has the same."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        BLOCK.replace("weight: 20", "weight: 21").replace("layer: other", "layer: other\n    ownr: me"),
        encoding="utf-8",
    )
    result = _run("validate", file, bad)
    assert result.exit_code == 2
    assert result.stdout == f"{file}: ok, revision {load(file).revision}, 2 experiments\n"
    assert [line.removeprefix(f"{bad}:").split(": ")[0] for line in result.stderr.splitlines()] == ["11:7", "25:5"]
    reports = json.loads(_run("validate", file, bad, "--json").stdout)
    assert [report["ok"] for report in reports] == [True, False]
    assert reports[1]["errors"][1]["key"] == "experiments[1].ownr"


def test_validate_strict_refuses_what_is_advised(file: Path) -> None:
    """Advice is a warning, and with `--strict` a mistake."""
    file.write_text(BLOCK.replace("layer: other", "layer: other\n    audience: {score: {min: 1}}"), encoding="utf-8")
    assert _run("validate", file).exit_code == 0
    result = _run("validate", file, "--strict")
    assert result.exit_code == 2
    assert "experiments[1].audience.score: a treatment may change" in result.stderr


def test_plan_prints_and_fails_on_moves(file: Path, tmp_path: Path) -> None:
    """The table says how many move from where to where; `--fail-on-moves` exits 3 when anyone does."""
    new = tmp_path / "new.yaml"
    new.write_text(BLOCK.replace("weight: 70", "weight: 65").replace("weight: 10}", "weight: 15}"), encoding="utf-8")
    result = _run("plan", file, new)
    assert result.exit_code == 0
    assert "moved: 5,000 of 100,000 users (5 %)" in result.stdout
    assert "e/control (v1) -> e/two (v2)" in result.stdout
    assert _run("plan", file, new, "--fail-on-moves").exit_code == 3
    assert _run("plan", file, file, "--fail-on-moves").exit_code == 0
    assert json.loads(_run("plan", file, new, "--json").stdout)["moved"] == 5.0


def test_plan_counts_given_users(file: Path, tmp_path: Path) -> None:
    """With `--users` the figures are of these users, and equal what `assign` says of them before and after."""
    new, users = tmp_path / "new.yaml", tmp_path / "users.txt"
    new.write_text(BLOCK.replace("weight: 70", "weight: 40").replace("weight: 20", "weight: 50"), encoding="utf-8")
    users.write_text("".join(f"user-{number}\n" for number in range(10_000)), encoding="utf-8")
    values = json.loads(_run("plan", file, new, "--users", users, "--json").stdout)
    before, after = (
        _rows(_run("assign", "--experiments", path, stdin=users.read_text()).stdout_bytes) for path in (file, new)
    )
    moved = sum(one["group"] != other["group"] for one, other in zip(before, after, strict=True))
    assert (values["users"], values["moved"]) == (10_000, moved / 100)


def test_explain_tells_the_story() -> None:
    """A published vector, as a person reads it and as JSON."""
    result = _run("explain", "user-1", "--experiments", SHIPPED)
    assert "hash of `recommender-2026-11:user-1` is 2014402165, bucket 4690" in result.stdout
    assert "homepage-ranking, group control, version v1.2.3 (allocated)" in result.stdout
    values: dict[str, Any] = json.loads(_run("explain", "user-1", "--experiments", SHIPPED, "--json").stdout)
    assert (values["bucket"], values["group"], values["propensity"]) == (4690, "control", 0.7)
    assert "the call has none, so v1.2.3 serves" in _run("explain", "", "--experiments", SHIPPED).stdout


def test_ramp_halt_resume_conclude(file: Path) -> None:
    """A life of an experiment, each step written into the same file."""
    assert _run("ramp", "e", "two=25", "--experiments", file, "--yes").exit_code == 0
    ramped = load(file).experiment("e")
    assert [g.weight_bp for g in ramped.groups] == [5500, 2000, 2500]
    assert len(ramped.ramp) == 2
    assert (
        _run("ramp", "e", "--traffic", "50", "--at", "2099-01-01T00:00:00Z", "--experiments", file, "--yes").exit_code
        == 0
    )
    assert load(file).experiment("e").ramp[-1].traffic_bp == 5000
    assert _run("halt", "e", "--experiments", file, "--yes").exit_code == 0
    assert load(file).experiment("e").enabled is False
    assert _run("resume", "e", "--experiments", file, "--yes").exit_code == 0
    result = _run("conclude", "e", "--winner", "two", "--experiments", file, "--yes")
    assert result.exit_code == 0
    config = load(file)
    assert (config.default, [e.name for e in config.experiments]) == ("v2", ["f"])
    assert file.read_text(encoding="utf-8").startswith(
        "# The whole file.\nversion: 1\ndefault: v2   # serves the rest\n"
    )


def test_nothing_is_written_without_a_yes(file: Path) -> None:
    """`--dry-run` shows the plan only; without a terminal to ask on, `--yes` is needed."""
    shown = _run("ramp", "e", "two=25", "--experiments", file, "--dry-run", "--json")
    assert json.loads(shown.stdout)["moved"] == 15.0
    assert shown.exit_code == 0
    result = _run("ramp", "e", "two=25", "--experiments", file)
    assert result.exit_code == 2
    assert "--yes to write without asking" in result.stderr
    assert file.read_text(encoding="utf-8") == BLOCK


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1)])
def test_asks_on_a_terminal(file: Path, answer: bytes, code: int) -> None:
    """On a terminal the plan is shown and the change waits for a yes; a no leaves the file as it was."""
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "abfleet", "halt", "e", "--experiments", file],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    os.close(theirs)
    os.write(mine, answer)
    output, _ = process.communicate(timeout=60)
    os.close(mine)
    assert process.returncode == code
    assert f"Write this to {file}?".encode() in output
    assert (file.read_text(encoding="utf-8") == BLOCK) is bool(code)


def test_a_file_that_cannot_be_written_is_a_failure(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another has written meanwhile, or the disk refuses, the reason is told and the exit code is 1."""

    def refuse(path: Path, **_: object) -> None:
        raise save.SaveError(f"{path} was changed by another process in the meantime; run the command again")

    monkeypatch.setattr(save, "save", refuse)
    result = _run("halt", "e", "--experiments", file, "--yes")
    assert result.exit_code == 1
    assert "was changed by another process" in result.stderr
    assert file.read_text(encoding="utf-8") == BLOCK


@pytest.mark.parametrize("command", ["validate", "plan", "explain", "assign", "ramp", "halt", "resume", "conclude"])
def test_help_has_an_example(command: str) -> None:
    """Each command's help shows how it is used."""
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert f"abfleet {command}" in result.stdout
    assert "Example:" in result.stdout
