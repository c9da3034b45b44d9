"""`abfleet client` and `abfleet status` against one running fleet, and what they say when nobody answers."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
import typer
from abfleet_experiments.assign import Assigner
from abfleet_experiments.file.load import load_text
from abfleet_protos import recommender_pb2, recommender_pb2_grpc
from typer.testing import CliRunner

from abfleet.cli import app
from abfleet.observed_split import quantile
from tests.support.fleet import ROOT, experiments_file, wait_until
from tests.support.tiny_model import expected
from tests.support.up import Up, run_abfleet, tiny_models, without_flags

pytestmark = pytest.mark.system
USERS = 1000
NO_FLAGS = [name for name in os.environ if name.startswith("ABFLEET_")]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Every version serves its own users, however long the machine lets a worker wait."""
    folder = tmp_path_factory.mktemp("up")
    with Up(folder, tiny_models(folder / "models"), "--", "--attempt-timeout", "5") as running:
        yield running.ready()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens, and nobody can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def exposures(up: Up) -> list[dict[str, object]]:
    lines = [line for path in (up.folder / "logs").glob("decisions-*") for line in path.read_text().splitlines()]
    return [entry for line in lines if (entry := json.loads(line))["event"] == "exposure"]


def test_an_answer_is_readable(up: Up) -> None:
    """Group, version, items and their titles, in the order of the answer."""
    with (up.folder / "movies.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["movieId", "title", "genres"], [32, "Film, the second", "x"]])
    done = run_abfleet(
        *("client", "--address", up.address, "--user-id", "user-1", "--items", "1,2,3,10,15", "--limit", "3"),
        *("--titles", "movies.csv"),
        folder=up.folder,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("user-1: homepage-ranking / control, served by v1.2.3 in ")
    ids, scores = expected([1, 2, 3, 10, 15], 3)
    assert [line.split()[:3] for line in lines[2:]] == [
        [str(rank), str(item), f"{score:.4f}"] for rank, (item, score) in enumerate(zip(ids, scores, strict=True), 1)
    ]
    assert [line.endswith("Film, the second") for line in lines[2:]] == [item == 32 for item in ids]
    assert 32 in ids


def test_an_answer_as_json(up: Up) -> None:
    """The same as one object; its request id is in the log, with the mark of a synthetic call."""
    done = run_abfleet(
        *("client", "--address", up.address, "--user-id", "пользователь-7", "--items", "4", "--json"),
        *("--attributes", "country=DE", "--attributes", "plan=a=b"),
        folder=up.folder,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["item_ids"] == expected([4], 0)[0]
    assert answer["user_id"] == "пользователь-7"
    assert answer["experiment"] == "homepage-ranking"

    def found() -> list[dict[str, object]]:
        return [line for line in exposures(up) if line["request_id"] == answer["request_id"]]

    assert wait_until(found, "the call in the log")[0]["synthetic"] is answer["synthetic"] is True


def test_a_call_that_counts(up: Up) -> None:
    """With --as-real the line in the log has no such mark, and neither has what is printed."""
    words = ("client", "--address", up.address, "--user-id", "real", "--as-real")
    done = run_abfleet(*words, folder=up.folder)
    assert done.returncode == 0, done.stderr
    assert "synthetic" not in done.stdout
    assert "marked as synthetic" in run_abfleet(*words[:-1], folder=up.folder).stdout

    def found() -> list[object]:
        marks = [line["synthetic"] for line in exposures(up) if line["user_id"] == "real"]
        return marks if len(marks) == 2 else []

    assert wait_until(found, "both calls in the log") == [False, True]


def test_many_users_get_the_split_of_the_file(up: Up) -> None:
    """The counts are those that the file's assignment gives for user-1 to user-N, one for one."""
    done = run_abfleet("client", "--address", up.address, "--users", str(USERS), "--json", folder=up.folder)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assigner = Assigner(load_text(experiments_file()), datetime.now(UTC))
    arms = [assigner.assign(f"user-{number}", {})[0] for number in range(1, USERS + 1)]
    wanted = Counter((arm.experiment, arm.group, arm.model_version) for arm in arms)
    got = {(row["experiment"], row["group"], row["model_version"]): row["users"] for row in document["split"]}
    assert got == dict(wanted)
    assert document["errors"] == {}
    assert sum(row["share"] for row in document["split"]) == pytest.approx(1)


def test_a_split_is_readable(up: Up) -> None:
    """A row for each group with count and share, then a sum."""
    done = run_abfleet("client", "--address", up.address, "--users", "50", folder=up.folder)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert rows[0] == ["experiment", "group", "version", "users", "share"]
    body = [row for row in rows[1:] if len(row) == 5]
    assert sum(int(row[3]) for row in body) == 50
    assert {row[1] for row in body} <= {"control", "experiment", "canary"}
    assert rows[-1][0].startswith("50 of 50 users answered")


def test_errors_are_counted_by_status(up: Up) -> None:
    """Calls that the router refuses are counted, explained once, and make the exit code 1."""
    done = run_abfleet(
        "client", "--address", up.address, "--users", "5", "--attributes", f"k={'x' * 300}", "--json", folder=up.folder
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["errors"] == {"INVALID_ARGUMENT": 5}
    assert "attributes" in done.stderr


def test_status_shows_the_fleet(up: Up) -> None:
    """JSON has the router's document and where it came from; lines have the groups and versions."""
    done = run_abfleet("status", "--admin", up.admin_address, "--json", folder=up.folder)
    document = json.loads(done.stdout)
    assert document["admin"] == up.admin_address
    assert document["config"]["errors"] == []
    assert {pool["version"]: pool["available"] for pool in document["pools"]} == {
        "v1.2.3": 1,
        "v1.3.0-beta": 1,
        "v1.4.0-rc1": 1,
    }
    plain = run_abfleet("status", "--admin", up.admin_address, folder=up.folder)
    assert plain.returncode == 0
    assert f"config {document['config']['revision']}" in plain.stdout
    for word in ("control", "experiment", "canary", "v1.4.0-rc1\t1\t1"):
        assert word in plain.stdout


def test_one_file_has_one_revision(up: Up) -> None:
    """plan, ramp, status and the log name it alike, though the router has a fleet file; so the log can be compared."""

    def said(*words: str) -> str:
        done = run_abfleet(*words, folder=up.folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def in_force() -> str:
        revision: str = json.loads(said("status", "--admin", up.admin_address, "--json"))["config"]["revision"]
        return revision

    file, old = str(up.experiments_path), up.experiments_path.read_text()
    (up.folder / "old.yaml").write_text(old)
    name = load_text(old).experiments[0].name
    try:
        ramped = said("ramp", name, "--traffic", "50", "--experiments", file, "--yes")
        planned = json.loads(said("plan", "old.yaml", file, "--json"))
        assert f"written, revision {planned['new_revision']}\n" in ramped
        assert ramped.startswith(f"{planned['old_revision']} -> {planned['new_revision']} ")
        wait_until(lambda: in_force() == planned["new_revision"], "the plan's revision in force")

        def compared() -> object:
            """Called each time anew: what is decided within a second of a ramp's row is not compared."""
            said("client", "--address", up.address, "--user-id", "compared")
            found = said("logs", "check", "--logs", "logs", "--experiments", file)
            return re.search(r"^[1-9]\d* exposures compared", found, re.MULTILINE)

        wait_until(compared, "a compared line")
    finally:
        up.edit(old)
        wait_until(lambda: in_force() == load_text(old).revision, "the old file in force again")


def keys_of(value: object) -> Iterator[str]:
    """Every key of a JSON value, however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner)


def test_every_key_of_status_is_documented(up: Up) -> None:
    """docs/operations.md names each key that a router with groups and replicas shows."""
    done = run_abfleet("status", "--admin", up.admin_address, "--json", folder=up.folder)
    table = (ROOT / "docs" / "operations.md").read_text().partition("| key | what |")[2]
    documented = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", table))))
    found = set(keys_of(json.loads(done.stdout)))
    assert {"bounds_s", "health", "buffered"} <= found
    assert found - documented == set()


def test_watching_looks_again_until_it_is_interrupted(up: Up) -> None:
    """A JSON object a look, of the same router and ever later; Ctrl-C ends it with 0."""
    command = [sys.executable, "-m", "abfleet", "status", "--admin", up.admin_address, "--watch", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=without_flags()) as watching:
        assert watching.stdout is not None
        first, second = (json.loads(watching.stdout.readline()) for _ in range(2))
        watching.send_signal(signal.SIGINT)
        watching.stdout.read()
        assert watching.wait(30) == 0
    assert first["router"] == second["router"]
    assert first["uptime_s"] < second["uptime_s"]


def test_status_of_several_routers(up: Up, nobody: str) -> None:
    """Several are an array; one that does not answer is named, and makes the exit code 1."""
    both = run_abfleet("status", "--admin", up.admin_address, "--admin", nobody, "--json", folder=up.folder)
    assert both.returncode == 1
    documents = json.loads(both.stdout)
    assert [document["admin"] for document in documents] == [up.admin_address, nobody]
    assert "config" in documents[0]
    assert nobody in documents[1]["error"]
    assert nobody in both.stderr


@pytest.mark.parametrize(("command", "flag"), [("client", "--address"), ("status", "--admin")])
def test_nobody_answers(tmp_path: Path, nobody: str, command: str, flag: str) -> None:
    """One line with the address and the flag that changes it; exit code 1."""
    done = run_abfleet(command, flag, nobody, folder=tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert nobody in done.stderr
    assert flag in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("client", "--items", "1,b"),
        ("client", "--items", "9223372036854775808"),
        ("client", "--limit", "101"),
        ("client", "--attributes", "country"),
        ("client", "--titles", "nothing.csv"),
        ("client", "--users", "5", "--user-id", "user-1"),
        ("status", "--nonsense"),
        ("up", "--transport", "pigeon"),
        ("up", "--worker-port", "70000"),
        ("up", "--replicas", "v1.2.3"),
        ("up", "--metrics-port", "-5"),
    ],
)
def test_usage_mistakes(arguments: tuple[str, ...]) -> None:
    """A flag that is wrong: exit code 2, and the flag is named."""
    done = CliRunner(env=dict.fromkeys(NO_FLAGS)).invoke(app, arguments)
    assert done.exit_code == 2
    assert arguments[1] in done.stderr


@pytest.mark.parametrize("command", ["up", "client", "status", "router", "worker"])
def test_help_has_an_example(tmp_path: Path, command: str) -> None:
    """`--help` ends well and shows an example of the command itself; for servers it is the server's own."""
    done = run_abfleet(command, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert "xample" in done.stdout
    if command in ("router", "worker"):
        assert "--drain-timeout" in done.stdout


@pytest.mark.parametrize("name", ["up", "client", "status"])
def test_every_flag_is_a_variable(name: str) -> None:
    """`--a-b` is ABFLEET_A_B, for every flag but --help."""
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    for parameter in command.params:
        if parameter.name != "help":
            flag = next(option for option in parameter.opts if option.startswith("--"))
            assert parameter.envvar == "ABFLEET_" + flag[2:].upper().replace("-", "_"), flag


def test_the_retry_policy_sends_again(tmp_path: Path) -> None:
    """A server that is UNAVAILABLE twice is asked a third time by a channel with our options, under one request id."""
    seen: list[str] = []

    class Flaky(recommender_pb2_grpc.RecommenderServicer):
        def Recommend(
            self, request: recommender_pb2.RecommendRequest, context: grpc.ServicerContext
        ) -> recommender_pb2.RecommendResponse:
            seen.append(request.request_id)
            if len(seen) < 3:
                context.abort(grpc.StatusCode.UNAVAILABLE, "going")
            return recommender_pb2.RecommendResponse(item_ids=[7], scores=[1.0], model_version="v1")

    server = grpc.server(ThreadPoolExecutor(2))
    recommender_pb2_grpc.add_RecommenderServicer_to_server(Flaky(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        done = run_abfleet("client", "--address", f"127.0.0.1:{port}", "--json", folder=tmp_path)
    finally:
        server.stop(0).wait()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["item_ids"] == [7]
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert seen[0]


def test_quantiles_are_observed_values() -> None:
    """The smallest value that a part of the values do not exceed; None of nothing."""
    assert quantile([], 0.5) is None
    assert quantile([5.0], 0.99) == 5.0
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0
    assert quantile(list(map(float, range(1, 101))), 0.99) == 99.0
