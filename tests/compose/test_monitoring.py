"""Prometheus rules and Grafana dashboards: the rules by promtool, every query against a real Prometheus and fleet."""

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from abfleet_protos import recommender_pb2, recommender_pb2_grpc
from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.compose.monitoring import (
    COMPOSE,
    DASHBOARDS,
    RULE_TESTS,
    RULES,
    alerts,
    operands,
    panel_queries,
    panels,
    rule_queries,
    rules,
)
from tests.support.fleet import MODELS, ROOT, Fleet, Process, experiments_file, wait_until
from tests.support.load import SEED_HISTORY, call_all

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None, reason="prometheus is not installed"
)
SCENARIO = re.compile(r"(\w+) (fires|stays quiet\b.*)")


# --- rules -----------------------------------------------------------------------------------------------------------


@needs_prometheus
@pytest.mark.system
def test_alerts_fire_and_stay_quiet_as_their_tests_say() -> None:
    """promtool accepts the rules, and every scenario of their tests comes out as written there."""
    for command in (("check", "rules", RULES), ("test", "rules", *RULE_TESTS)):
        done = subprocess.run(
            ["promtool", *map(str, command)], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways() -> None:
    """For each alert one scenario expects that it fires, and one that nothing does; each sets the rules going."""
    fires, quiet = set(), set()
    for scenario in [one for path in RULE_TESTS for one in yaml.safe_load(path.read_text())["tests"]]:
        assert "interval" in scenario, f"{scenario['name']}: without an interval promtool runs no rule"
        match = SCENARIO.fullmatch(scenario["name"])
        assert match, scenario["name"]
        expected = [sample for test in scenario["promql_expr_test"] for sample in test.get("exp_samples", [])]
        if match[2] == "fires":
            assert any(f'alertname="{match[1]}", alertstate="firing"' in sample["labels"] for sample in expected)
            fires.add(match[1])
        else:
            assert expected == []
            quiet.add(match[1])
    assert fires == quiet == {rule["alert"] for rule in alerts()}


def test_every_alert_has_a_runbook_entry() -> None:
    """Each alert leads to a heading of the runbook that says what it means, what to check and what to do."""
    text = (ROOT / "docs" / "runbook.md").read_text()
    entries = dict(re.findall(r"^## (Abfleet\w+)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    assert set(entries) == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in {"critical", "warning"}
        for part in ("**Means**", "**Check**", "**Do**"):
            assert part in entries[rule["alert"]], f"{rule['alert']}: {part}"


def test_operands_are_what_is_compared() -> None:
    """The queries that stand for an alert in these tests are its two sides, without the comparison."""
    assert operands("a > 0.1 and on (x) sum by (x) (b) > 2 and on () c == 0") == ["a", "sum by (x) (b)", "c"]
    assert operands("up{job=~'x'} == 0") == ["up{job=~'x'}"]
    assert all(not re.search(r"[=><]\s*[\d.]+\s*$", part) for rule in alerts() for part in operands(rule["expr"]))


# --- dashboards ------------------------------------------------------------------------------------------------------

# What Grafana's dashboard schema (version 39) asks of the kinds that are used.
PANEL_KEYS = {"id", "type", "title", "description", "datasource", "gridPos", "fieldConfig", "targets", "options"}
KINDS = {"timeseries", "stat", "table"}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_have_the_shape_that_grafana_reads(path: Path) -> None:
    """Ids and titles are unique, panels lie in the grid without overlap, all name the provisioned data source."""
    document = json.loads(path.read_text())
    assert (document["uid"], document["schemaVersion"]) == (path.stem, 39)
    source = yaml.safe_load((COMPOSE / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    cells: set[tuple[int, int]] = set()
    titles = [panel["title"] for panel in document["panels"]]
    assert len(set(titles)) == len(titles)
    assert len({panel["id"] for panel in document["panels"]}) == len(titles)
    for panel in document["panels"]:
        assert panel.keys() >= PANEL_KEYS
        assert panel["type"] in KINDS
        assert panel["title"].strip()
        assert panel["description"].strip()
        assert panel["targets"]
        for target in (panel, *panel["targets"]):
            assert target["datasource"] == {"type": "prometheus", "uid": source["uid"]}
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        covered = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not covered & cells, panel["title"]
        cells |= covered


def test_the_three_well_known_metrics_come_first() -> None:
    """The fleet's dashboard begins with grpc_requests_total, the duration histogram and the calls in progress."""
    first = [panel["targets"][0]["expr"] for uid, panel in panels() if uid == "abfleet-fleet"][:3]
    names = ("grpc_requests_total", "grpc_request_duration_seconds_bucket", "grpc_requests_in_progress")
    assert all(name in query for name, query in zip(names, first, strict=True))


# --- every query, against a real Prometheus and a live fleet ---------------------------------------------------------


class Prometheus:
    """A Prometheus process with our rules, each second; `ask` gives what a query returns now."""

    def __init__(self, folder: Path, targets: dict[str, list[str]]) -> None:
        self._log = folder / "prometheus.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": addresses}]} for job, addresses in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with self._log.open("ab") as log:
            self.popen = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--web.listen-address={self.address}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                ],
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
            )

    def ready(self) -> bool:
        assert self.popen.poll() is None, self._log.read_text()[-2000:]
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            return bool(self._get("/-/ready"))
        return False

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=10) as answer:
            content: bytes = answer.read()
        return content

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series of an instant vector, those that are no number left out."""
        answer = json.loads(self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': query})}"))
        assert answer["data"]["resultType"] == "vector", query
        return [series for series in answer["data"]["result"] if not math.isnan(float(series["value"][1]))]

    def failing_rules(self) -> list[str]:
        groups = json.loads(self._get("/api/v1/rules"))["data"]["groups"]
        return [
            f"{rule['name']}: {rule['lastError']}"
            for group in groups
            for rule in group["rules"]
            if rule.get("lastError")
        ]

    def stop(self) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(timeout=30)


def metrics_address(worker: Process) -> str:
    """Where a worker serves /metrics: its log says which port it got."""
    lines = [json.loads(line) for line in worker.stderr_path.read_text().splitlines() if line.startswith("{")]
    return next(f"127.0.0.1:{line['metrics']}" for line in lines if line["event"] == "ready")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fleet, Prometheus]]:
    """A fleet of three workers, and a Prometheus that has seen it before, during and after some traffic."""
    folder = tmp_path_factory.mktemp("watched")
    flags = ("--metrics-port", "0", "--log-level", "info")
    with Fleet(folder, experiments=experiments_file(), worker_flags=flags) as fleet, ExitStack() as started:
        for version, _ in fleet.workers:
            fleet.wait_for_serving(version)
        by_alias = ("--version", "production", "--registry", str(MODELS), "--listen", "127.0.0.1:0", *flags)
        follower = Process("worker-production", "abfleet_worker", by_alias, folder)
        started.callback(follower.stop)
        follower.ready()
        workers = [metrics_address(worker) for worker in (*fleet.workers.values(), follower)]
        steered = folder / "steered.yaml"  # of its own: what it would do is not asked here
        steered.write_text(experiments_file(autopilot={}))
        acting = ("--experiments", str(steered), "--logs", str(fleet.log_dir), "--metrics-port", "0")
        autopilot = Process("autopilot", "abfleet_autopilot", acting, folder)
        started.callback(autopilot.stop)
        targets = {
            "abfleet-router": [fleet.metrics_address],
            "abfleet-worker": workers,
            "abfleet-autopilot": [autopilot.ready()[-1]],
        }
        prometheus = Prometheus(folder, targets)
        started.callback(prometheus.stop)
        wait_until(prometheus.ready, "Prometheus is ready")
        asyncio.run(traffic(fleet, prometheus))
        yield fleet, prometheus


CALLS = [RecommendRequest(item_ids=SEED_HISTORY, user_id=f"user-{n % 60}", request_id=f"r{n}") for n in range(240)]


async def traffic(fleet: Fleet, prometheus: Prometheus) -> None:
    """Calls of 60 users and their clicks, twice, each time until Prometheus has seen them."""
    for turn in (1, 2):
        await call_all(fleet.address, CALLS)
        async with grpc.aio.insecure_channel(fleet.address) as channel:
            outcome = recommender_pb2.Outcome(outcome_id=f"c{turn}", request_id="r1", user_id="user-1", type="click")
            feedback = recommender_pb2_grpc.FeedbackStub(channel)  # type: ignore[no-untyped-call]
            await feedback.Record(recommender_pb2.RecordRequest(outcomes=[outcome]), timeout=10)
        seen = f"sum(abfleet_requests_total) >= {turn * 240} and sum(abfleet_outcomes_total) >= {turn}"
        await asyncio.to_thread(wait_until, lambda: prometheus.ask(seen), "Prometheus has seen the traffic")  # noqa: B023


@needs_prometheus
@pytest.mark.system
def test_every_query_returns_data(watched: tuple[Fleet, Prometheus]) -> None:
    """No panel and no rule asks for something that a fleet with traffic does not have."""
    fleet, prometheus = watched
    queries = [*panel_queries(), *rule_queries()]
    assert len(queries) > len(rules()) + len(panels())
    unseen = set(queries)

    def all_seen() -> bool:
        # A rule over a recorded series has data one evaluation after it, and a rate has some only while calls come: on
        # a busy machine the traffic from before may be too long ago.
        asyncio.run(call_all(fleet.address, CALLS[:60]))
        unseen.difference_update({(name, query) for name, query in unseen if prometheus.ask(query)})
        return not unseen

    try:
        wait_until(all_seen, f"data for all of {len(queries)} queries", 120)
    except AssertionError as error:
        raise AssertionError(f"{error}; none for {unseen}") from None
    assert prometheus.failing_rules() == []


@needs_prometheus
@pytest.mark.system
def test_the_demo_profile_makes_traffic(watched: tuple[Fleet, Prometheus], tmp_path: Path) -> None:
    """What the compose file's profile `demo` runs, run here: people call and click, and go on until it is stopped."""
    fleet, _ = watched
    traffic = yaml.safe_load((COMPOSE / "docker-compose.yml").read_text())["services"]["traffic"]
    assert traffic["profiles"] == ["demo"]
    shell, flag, loop = traffic["entrypoint"]
    assert "router:50051" in loop

    def counted(family: str) -> float:
        page = urllib.request.urlopen(f"http://{fleet.metrics_address}/metrics", timeout=10).read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(f"{family}{{"))

    families = {"abfleet_requests_total": 300, "abfleet_outcomes_total": 10}
    before = {family: counted(family) for family in families}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (tmp_path / "said").open("w") as said:
        demo = subprocess.Popen(
            [shell, flag, loop.replace("$$", "$").replace("router:50051", fleet.address)],
            env={"PATH": path, "ABFLEET_OPEN_FEEDBACK": "on"},
            cwd=tmp_path,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            for family, more in families.items():
                wait_until(lambda f=family, n=more: counted(f) >= before[f] + n, f"{more} more of {family}", 60)
            assert demo.poll() is None
        finally:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()


@needs_prometheus
@pytest.mark.system
def test_a_dead_version_becomes_an_alert(watched: tuple[Fleet, Prometheus]) -> None:
    """When the only worker of a version is killed, its alerts go off pending, and no other version's does."""
    fleet, prometheus = watched
    version = "v1.4.0-rc1"
    fleet.workers[version, 0].kill()
    query = 'ALERTS{alertname=~"AbfleetVersionDown|AbfleetTargetDown"}'
    wait_until(lambda: len(prometheus.ask(query)) >= 2, "both alerts pend", 60)
    found = {one["metric"]["alertname"]: one["metric"] for one in prometheus.ask(query)}
    assert found["AbfleetVersionDown"]["version"] == version
    assert found["AbfleetTargetDown"]["job"] == "abfleet-worker"
    assert len(prometheus.ask(query)) == 2
