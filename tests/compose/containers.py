"""The compose file in real containers, from build to nothing left: `./run test-compose [--report FILE]`.

Says each step with its time; the first one that does not hold ends it with exit code 1. Grafana is started only where
its image can be had.
"""

import argparse
import asyncio
import contextlib
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import yaml
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub

from tests.compose.docker_host import CannotTest, docker, provide_base, provide_prometheus, succeeds
from tests.compose.project import (
    COMPOSE_FILE,
    DASHBOARD,
    METRICS,
    PROJECT,
    ROUTER,
    WORKERS,
    Compose,
    Journal,
    ask,
    get,
    metric,
    replicas_in,
    shown_ctr,
    states,
)
from tests.support.fleet import ROOT, wait_until
from tests.support.load import SEED_HISTORY, Load, call_all

TREATMENT, CANARY = WORKERS[1:]
RATE = 60
"""Calls a second while containers come and go; a fifth of them are the scaled version's."""
MOST_MEGABYTES_OVER_BASE = {"abfleet-router": 350, "abfleet-worker": 350, "abfleet-dashboard": 600}
"""The dashboard's has the analysis: DuckDB, Arrow, pandas and SciPy are most of it."""
LEFT_OUT = {
    "abfleet-router": ("onnxruntime", "duckdb", "numpy"),
    "abfleet-worker": ("duckdb", "ibis", "scipy", "pyarrow"),
    "abfleet-dashboard": ("onnxruntime", "onnx"),
}
"""Modules that each image does without."""
SHAPE = "{{.Config.User}} {{.Config.StopSignal}} {{if .Config.Healthcheck}}checked{{end}}"
READ_LOG = (
    "import pathlib, sys, zstandard\n"
    "for path in sorted(pathlib.Path('/logs').glob('decisions-*')):\n"
    "    data = path.read_bytes()\n"
    "    if path.suffix == '.zst': data = zstandard.ZstdDecompressor().stream_reader(data).read()\n"
    "    sys.stdout.buffer.write(data)\n"
)


# --- the steps -------------------------------------------------------------------------------------------------------


def build(compose: Compose, journal: Journal) -> None:
    """Builds the images, and holds their size and what they are."""
    base = int(compose.docker("image", "inspect", "--format", "{{.Size}}", "python:3.11-slim"))
    compose("build")
    for image, modules in LEFT_OUT.items():
        over = (int(compose.docker("image", "inspect", "--format", "{{.Size}}", image)) - base) / 1e6
        assert over <= MOST_MEGABYTES_OVER_BASE[image], f"{image} is {over:.0f} MB over its base"
        assert compose.docker("image", "inspect", "--format", SHAPE, image).split() == [
            "10001:10001",
            "SIGTERM",
            "checked",
        ]
        code = (
            "import importlib.util as u, os; assert os.getuid() == 10001;"
            f"print(*(name for name in {modules!r} if u.find_spec(name)))"
        )
        found = compose.docker("run", "--rm", "--read-only", "--entrypoint", "python", image, "-c", code).split()
        assert found == [], f"{image} has {found}"
        journal.say(f"built {image}: {over:.0f} MB over its base, user 10001, no {', '.join(modules)} in it")


def one_image_recommends(compose: Compose, journal: Journal) -> None:
    """The worker's image alone, with the two ports published, is a recommender with metrics."""
    name = f"{PROJECT}-alone"
    compose.docker(
        "run",
        "--detach",
        "--rm",
        "--name",
        name,
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--publish",
        f"{ROUTER}:50051",
        "--publish",
        f"{METRICS}:8000",
        "abfleet-worker",
    )
    try:
        answer = wait_until(call_once, "the image answers", 60)
        assert len(answer.item_ids) == 10
        assert "grpc_requests_total" in get(METRICS, "/metrics")
    finally:
        compose.docker("stop", "--time", "15", name)
    journal.say(f"docker run -p 50051:50051 -p 8000:8000 abfleet-worker answers with {list(answer.item_ids)[:3]}…")


def call_once() -> Any:
    """The plainest call there is; None while nobody answers."""
    with grpc.insecure_channel(ROUTER) as channel, contextlib.suppress(grpc.RpcError):
        stub = RecommenderStub(channel)  # type: ignore[no-untyped-call]
        return stub.Recommend(RecommendRequest(item_ids=SEED_HISTORY), timeout=2)
    return None


def comes_up(compose: Compose, journal: Journal) -> None:
    """All services, three versions behind the router, every target of Prometheus up."""
    compose.up()
    answer = wait_until(call_once, "the router answers", 90)
    assert answer.model_version == "v1.2.3"
    wait_until(lambda: all(replicas_in(v) == 1 for v in ("v1.2.3", "v1.3.0-beta", "v1.4.0-rc1")), "all versions in", 60)
    journal.say("up: a call from outside is answered by v1.2.3, and all three versions are in")
    wait_until(lambda: len(ask('up{job=~"abfleet-.+"} == 1')) == 4, "Prometheus sees router and workers", 60)
    journal.say("Prometheus found the router and three workers by DNS, all up")
    ours = [found for service in ("router", *WORKERS, "dashboard") for found in compose.containers(service)]
    wait_until(lambda: states(compose, ours) == {"healthy read-only"}, "all healthy, on read-only roots", 90)
    journal.say(f"all {len(ours)} of our containers are healthy, each on a read-only root")


def demo_shows_on_the_dashboard(compose: Compose, journal: Journal) -> None:
    """The demo's people call and click, and the dashboard, which only reads the log's volume, has them."""
    compose("up", "--detach", "--no-recreate", "traffic")
    begun = time.monotonic()
    ctr = wait_until(shown_ctr, "clicks on the dashboard", 120)
    journal.say(f"--profile demo: people call and click; the dashboard has them after {time.monotonic() - begun:.0f} s")
    assert 0 < ctr < 1
    page = get(DASHBOARD, "/experiments/homepage-ranking")
    assert "Which version wins?" in page
    compose("rm", "--stop", "--force", "traffic")


async def scales_under_load(compose: Compose, journal: Journal, experiments: Path) -> Load:
    """1 → 3 → 1 replicas, a kill of one and of a whole version, and an edit of the file: no call fails."""
    load = Load(ROUTER, RATE, "compose")
    await load.until(asyncio.to_thread(story, compose, journal, experiments))
    assert load.errors == [], Counter(str(error.code()) for error in load.errors)
    journal.say(f"{len(load.answers)} calls at {RATE}/s all the while, 0 failed")
    return load


def story(compose: Compose, journal: Journal, experiments: Path) -> None:
    """What happens while the load runs."""
    begun = time.monotonic()
    compose.up(worker_v1_3_0_beta=3)
    started = time.monotonic()
    wait_until(lambda: replicas_in("v1.3.0-beta") == 3, "three replicas in", 60)
    seconds = time.monotonic() - started
    journal.say(f"--scale {TREATMENT}=3 took {started - begun:.1f} s, all three in {seconds:.1f} s later")
    assert seconds <= 5.0
    served = 'sum by (instance) (abfleet_worker_items_total{status="OK"} * on (instance) group_left (version) '
    served += 'abfleet_worker_model_info{version="v1.3.0-beta"}) > 0'
    shares = wait_until(lambda: found if len(found := ask(served)) == 3 else None, "calls on all three", 60)
    journal.say(f"all three serve: {sorted(int(float(one['value'][1])) for one in shares)} calls so far")

    compose.docker("kill", compose.containers(TREATMENT)[0])
    wait_until(lambda: replicas_in("v1.3.0-beta") == 2, "the killed replica out", 60)
    journal.say("killed one of the three with SIGKILL: two in")
    compose.up(worker_v1_3_0_beta=1)
    wait_until(lambda: replicas_in("v1.3.0-beta") == 1, "one replica in", 60)
    journal.say("scaled back to one")

    fallbacks = metric("abfleet_fallbacks_total")
    compose.docker("kill", *compose.containers(CANARY))
    wait_until(lambda: metric("abfleet_fallbacks_total") > fallbacks + 5, "fallbacks", 60)
    journal.say("killed the only worker of v1.4.0-rc1: its users are served by the default version")
    compose.up(worker_v1_3_0_beta=1)
    wait_until(lambda: replicas_in("v1.4.0-rc1") == 1, "the canary back", 60)
    journal.say("started it again: in")

    path = experiments / "recommender.yaml"
    text = path.read_text()
    assert text.count("weight: 70}") == text.count("weight: 20}") == 1
    generation, saved = metric("abfleet_config_generation"), time.monotonic()
    new = path.with_suffix(".new")
    new.write_text(text.replace("weight: 70}", "weight: 60}").replace("weight: 20}", "weight: 30}"))
    new.replace(path)
    wait_until(lambda: metric("abfleet_config_generation") == generation + 1, "the edit in force", 30)
    journal.say(f"edited the mounted file to 60/30/10: in force after {time.monotonic() - saved:.1f} s")


def groups_are_the_files(compose: Compose, journal: Journal) -> None:
    """After the edit every user gets what `abfleet assign`, in the router's container, computes from the file."""
    users = [f"user-{number}" for number in range(300)]
    command = "abfleet assign <<'END'\n" + "\n".join(users) + "\nEND"
    rows = csv.DictReader(io.StringIO(compose("exec", "-T", "router", "sh", "-c", command)))
    expected = {row["user_id"]: (row["group"], row["model_version"]) for row in rows}
    requests = [RecommendRequest(item_ids=SEED_HISTORY, user_id=user, request_id=f"after-{user}") for user in users]
    answers = asyncio.run(call_all(ROUTER, requests))
    assert {user: (a.group, a.model_version) for user, a in zip(users, answers, strict=True)} == expected
    journal.say(
        f"300 users get the groups that the file gives: {dict(Counter(group for group, _ in expected.values()))}"
    )


def log_is_whole(compose: Compose, journal: Journal, load: Load) -> None:
    """Stops the router and reads the log's volume: each answered call is there once."""
    compose("stop", "--timeout", "15", "router")
    text = compose.docker(
        "run",
        "--rm",
        "--volume",
        f"{PROJECT}_logs:/logs:ro",
        "--entrypoint",
        "python",
        "abfleet-router",
        "-c",
        READ_LOG,
    )
    lines = [json.loads(line) for line in text.splitlines()]
    ids = Counter(line["request_id"] for line in lines if line["event"] == "exposure")
    answered = [answer.request_id for _, _, answer in load.answers]
    assert all(ids[request_id] == 1 for request_id in answered)
    assert sum(line["event"] == "allocation" for line in lines) >= 2
    journal.say(f"the log's volume has each of the {len(answered)} calls once, and both allocations")


@contextlib.contextmanager
def copied_experiments() -> Iterator[Path]:
    """The experiments folder's file in a folder that may be edited, readable by the containers' user."""
    with tempfile.TemporaryDirectory(prefix="abfleet-compose-") as folder:
        Path(folder).chmod(0o755)
        shutil.copy(ROOT / "experiments" / "recommender.yaml", folder)
        yield Path(folder)


def go_through(journal: Journal) -> None:
    """All steps, from an empty store where no daemon runs. Raises AssertionError, CannotTest, CalledProcessError."""
    with docker(journal.say) as environment, copied_experiments() as experiments:
        services = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
        provide_base(environment, journal.say)
        provide_prometheus(services["prometheus"]["image"], environment, journal.say)
        compose = Compose(environment, experiments)
        grafana = services["grafana"]["image"]
        if succeeds("docker", "pull", "--quiet", grafana, environment=environment):
            compose.services += ("grafana",)
        else:
            journal.say(f"{grafana} cannot be pulled: left out")
        with compose:
            build(compose, journal)
            one_image_recommends(compose, journal)
            comes_up(compose, journal)
            load = asyncio.run(scales_under_load(compose, journal, experiments))
            groups_are_the_files(compose, journal)
            demo_shows_on_the_dashboard(compose, journal)
            log_is_whole(compose, journal, load)
        assert compose.left() == []
        journal.say("down: no container, network or volume is left")
        journal.say(f"load of this machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main(arguments: Sequence[str]) -> int:
    """0: all of it holds; 1: something does not; 2: it cannot be tested here."""
    parser = argparse.ArgumentParser(prog="./run test-compose", description=__doc__)
    parser.add_argument("--report", type=Path, help="write what was done into this Markdown page")
    report = parser.parse_args(arguments).report
    journal = Journal()
    try:
        go_through(journal)
    except CannotTest as error:
        print(f"test-compose: {error}", file=sys.stderr)
        return 2
    except (AssertionError, subprocess.CalledProcessError) as error:
        print(f"test-compose: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    if report is not None:
        report.write_text(PAGE.format(lines="\n".join(journal.lines)))
    return 0


PAGE = """# The compose file in real containers

What `./run test-compose --report docs/compose-test.md` did, step by step, on a machine with two cores without access to
an image registry. Every step is an assertion; the command ends at the first that does not hold.

```
{lines}
```
"""

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
