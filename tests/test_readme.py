"""The README, done from top to bottom: every command in it runs as it stands, against `abfleet up` on free ports.

What is replaced: the ports, `./run up` by the command it becomes, and three programs where they are not installed, by
programs that do the same: grpcurl by `buf curl`, the duckdb shell by its Python package, curl by urllib.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import typer

from abfleet.cli import app
from tests.support.fleet import Process, wait_until
from tests.support.node_tools import MODULES

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [(match["language"], match["text"]) for match in BLOCK.finditer(README)]
SECONDS = 120

STAND_INS = {
    # The flags that the README uses, and no others: an unknown one is an error.
    "grpcurl": f"""
import argparse, os
parser = argparse.ArgumentParser()
parser.add_argument("-plaintext", action="store_true", required=True)
parser.add_argument("-import-path", default=".")
parser.add_argument("-proto")
parser.add_argument("-d", required=True)
parser.add_argument("address")
parser.add_argument("method")
a = parser.parse_args()
schema = ["--schema", os.path.join(a.import_path, a.proto)] if a.proto else []
buf = {str(MODULES / ".bin" / "buf")!r}
os.execv(buf, [buf, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *schema, "-d", a.d,
               f"http://{{a.address}}/{{a.method}}"])
""",
    "duckdb": """
import argparse, duckdb
parser = argparse.ArgumentParser()
parser.add_argument("-c", required=True)
print(duckdb.sql(parser.parse_args().c))
""",
    "curl": """
import argparse, urllib.request
parser = argparse.ArgumentParser()
parser.add_argument("-s", action="store_true")
parser.add_argument("url")
print(urllib.request.urlopen("http://" + parser.parse_args().url).read().decode())
""",
}


def blocks(language: str) -> list[str]:
    return [text for of, text in BLOCKS if of == language]


def block(language: str, mark: str) -> str:
    """The one block in `language` that has `mark` in it."""
    (found,) = [text for text in blocks(language) if mark in text]
    return found


@dataclass(frozen=True, slots=True)
class Reader:
    """Somebody with a checkout, a shell in it, and a fleet that runs."""

    folder: Path
    address: str
    metrics_address: str
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """Runs a command in the checkout; a failure shows all it said."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0, f"{command[-1]}\nexited {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def sh(self, text: str) -> str:
        """Runs a block of the README in a shell."""
        return self.run("sh", "-euc", self.moved(text))

    def python(self, text: str) -> str:
        """Runs a Python block of the README."""
        return self.run(sys.executable, "-c", self.moved(text))

    def moved(self, text: str) -> str:
        """The same text with the addresses of this fleet."""
        return text.replace("localhost:50051", self.address).replace("localhost:8000", self.metrics_address)

    def lines(self, **wanted: str) -> list[dict[str, Any]]:
        """What the log has with these values."""
        lines = [
            json.loads(line)
            for path in (self.folder / "logs").glob("decisions-*.jsonl")
            for line in path.read_text().splitlines()
        ]
        return [line for line in lines if all(line.get(key) == value for key, value in wanted.items())]


def need(program: str) -> None:
    """Skips where neither the program nor what its stand-in needs is here."""
    if shutil.which(program) is not None or program in ("curl", "duckdb"):
        return
    if program == "grpcurl" and (MODULES / ".bin" / "buf").exists():
        return
    remedy = "./run node-tools fetches buf, which stands in for it" if program == "grpcurl" else "install it"
    pytest.skip(f"{program} is not here: {remedy}")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A checkout of links, apart from what the README changes, and `abfleet up` in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("models", "protos"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "experiments", folder / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for name in ("abfleet", "python"):
        (tools / name).symlink_to(Path(sys.executable).with_name(name))
    (folder / "run").write_text('#!/bin/sh\nexec .venv/bin/abfleet "$@"\n')  # which is all it does once it is set up
    (folder / "run").chmod(0o755)
    stand_ins = tmp_path_factory.mktemp("bin")
    for name, code in STAND_INS.items():
        if shutil.which(name) is None:
            (stand_ins / name).write_text(f"#!{sys.executable}{code}")
            (stand_ins / name).chmod(0o755)
    with up(folder) as (address, admin_address, metrics_address):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ABFLEET_")}
        environment["PATH"] = f"{stand_ins}{os.pathsep}{os.environ['PATH']}"
        environment["ABFLEET_ADDRESS"] = address
        environment["ABFLEET_ADMIN"] = admin_address
        yield Reader(folder, address, metrics_address, environment)


@contextmanager
def up(folder: Path) -> Iterator[tuple[str, str, str]]:
    """The README's `up` on free ports, with time for a slow machine: where calls, the admin port and metrics are."""
    _, command, *words = block("sh", "./run up").split()
    free = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "0", "--worker-port", "0")
    process = Process("up", "abfleet", (command, *words, *free, "--", "--attempt-timeout", "5"), folder)
    try:
        words = process.ready()
        yield words[1], words[3], words[5]
    finally:
        assert process.stop() == 0


def listed_commands() -> set[str]:
    """What `./run` says it can do."""
    usage = subprocess.run([ROOT / "run"], capture_output=True, text=True, timeout=SECONDS, check=True).stdout
    return {line.split()[0] for line in usage.splitlines() if line.startswith("  ")}


MARKS = (
    ("", "router"),
    ("sh", "./run up"),
    ("sh", "./run traffic"),
    ("", "SHIP"),
    ("sh", "Recommender/Recommend"),
    ("json", "itemIds"),
    ("sh", "Feedback/Record"),
    ("python", "Recommender("),
    ("sh", "./run plan"),
    ("sh", "jq"),
    ("sh", "duckdb"),
    ("sh", "curl -s"),
    ("sh", "./run models"),
)
"""The blocks that the tests below run or compare, by a word in each; the first is a drawing."""


def test_every_block_is_tried() -> None:
    """No command, program or sample answer of the README is left out below."""
    assert len(BLOCKS) == len(MARKS)
    for (language, text), (expected, mark) in zip(BLOCKS, MARKS, strict=True):
        assert language == expected
        assert mark in text


def test_commands_of_run_exist() -> None:
    """Every `./run COMMAND` that a page mentions is one that `./run` lists or abfleet has. Pages that begin in a clone
    say `./run`, the others `abfleet`: nobody has to type where a program lies."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    mentioned = {name for page in pages for name in re.findall(r"\./run ([a-z][a-z-]*)", page.read_text())}
    assert mentioned <= listed_commands() | set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert not [str(page) for page in pages if re.search(r"\.venv/bin/abfleet|python -m abfleet\b", page.read_text())]


def test_from_a_clone_to_a_verdict(reader: Reader) -> None:
    """The first thing that the README does ends as it says. It comes first here too: an experiment begins with its
    first user, and this one is planned for half a minute."""
    said = reader.sh(block("sh", "./run traffic"))
    verdict, reason = block("", "SHIP").splitlines()
    assert verdict in said
    for part in reason.strip().split("…"):
        assert part in re.sub(r"\s+", " ", said)


def test_the_call_answers_as_shown(reader: Reader) -> None:
    """The grpcurl call gets group, items and scores that the README shows."""
    need("grpcurl")
    answer, shown = json.loads(reader.sh(block("sh", "Recommender/Recommend"))), json.loads(block("json", "itemIds"))
    scores = answer.pop("scores")
    assert scores == pytest.approx(shown.pop("scores"), rel=1e-5)
    assert answer == shown


def test_the_click_joins_the_call(reader: Reader) -> None:
    """The README's outcome is accepted, and is a click on an item of the answer to the call that the README makes."""
    need("grpcurl")
    reader.sh(block("sh", "Recommender/Recommend"))
    accepted, _, lines = reader.sh(block("sh", "Feedback/Record")).partition("}\n")
    assert json.loads(accepted + "}") == {"accepted": 1}
    assert re.search(r"exposure +user-14 +first-look/treatment +v1\.4\.0-rc1 +OK +5 items", lines)
    assert re.search(r"outcome +user-14 +click +item 161 +of visit-1", lines)
    assert_joined(reader, "visit-1")


def test_the_python_client_works(reader: Reader) -> None:
    """The block of Python runs as it stands: its call is answered, and its click joins it."""
    out = reader.python(block("python", "Recommender("))
    assert "group='treatment'" in out
    assert len(re.findall(r"\d+", out.partition("items=(")[2].partition(")")[0])) == 5
    assert "accepted=1" in out or "duplicate=1" in out
    assert_joined(reader, "visit-2")


def assert_joined(reader: Reader, request: str) -> None:
    """The log has a click on the first item of this request's answer."""
    (served, *_), (click, *_) = (
        wait_until(partial(reader.lines, event=event, request_id=request), f"{event} of {request} in the log")
        for event in ("exposure", "outcome")
    )
    assert click["item_id"] == served["items"][0]
    assert click["user_id"] == served["user_id"]


def test_reading_the_log(reader: Reader) -> None:
    """A call is in the log, and both jq and DuckDB read it as the README says."""
    reader.python(block("python", "Recommender("))
    wait_until(partial(reader.lines, event="exposure", user_id="user-14"), "the call in the log")
    table = reader.sh(block("sh", "duckdb"))
    assert "p95_ms" in table
    assert "v1.4.0-rc1" in table
    need("jq")
    rows = [json.loads(line) for line in reader.sh(block("sh", "jq")).splitlines()]
    assert ["user-14", "treatment", "v1.4.0-rc1", "v1.4.0-rc1", None] in rows


def test_metrics_have_the_names(reader: Reader) -> None:
    """The three metrics that the README names are on the router's page."""
    page = reader.sh(block("sh", "curl -s"))
    for name in ("grpc_requests_total", "grpc_request_duration_seconds", "grpc_requests_in_progress"):
        assert f"# TYPE {name.removesuffix('_total')}" in page or f"# TYPE {name}" in page
        assert name in README


def test_the_models_are_as_shown(reader: Reader) -> None:
    """`models verify` finds every model sound, and the README's table has the figures of metrics.json, rounded."""
    out = reader.sh(block("sh", "./run models"))
    rows = re.findall(r"^\| (v[\w.-]+),? .*\| ([\d.]+) \| ([\d.]+) \|$", README, flags=re.MULTILINE)
    assert len(rows) == 4
    for version, recall, ndcg in rows:
        assert version in out
        (metrics_path,) = (ROOT / "models").glob(f"**/{version}/metrics.json")
        metrics = json.loads(metrics_path.read_text())["metrics"]
        assert (recall, ndcg) == (f"{metrics['recall@10']:.3f}", f"{metrics['ndcg@10']:.3f}")


def test_the_edit_moves_what_plan_says(reader: Reader) -> None:
    """`plan` announces 30 %; once the file is saved, the running router gives a moved user the new group."""
    who = "\n".join(f"user-{number}" for number in range(100))
    ask = f"printf '%s\\n' {shlex.quote(who)} | ./run assign --experiments experiments/demo.yaml"
    before = reader.sh(ask).splitlines()
    original = (reader.folder / "experiments" / "demo.yaml").read_text()
    out = reader.sh(block("sh", "./run plan"))
    try:
        assert "30 %" in out
        assert "first-look" in out.partition("warning")[2]  # of status, after those of the plan
        moved = [line for line in reader.sh(ask).splitlines() if line not in before]
        assert 15 <= len(moved) <= 45
        user, _, group, _, version, _ = moved[0].split(",")
        assert group == "treatment"
        call = block("python", "Recommender(").replace("user-14", user)
        wait_until(lambda: f"model_version='{version}'" in reader.python(call), f"{user} gets {version}")
    finally:
        (reader.folder / "experiments" / "demo.yaml").write_text(original)
