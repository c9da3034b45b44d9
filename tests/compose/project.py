"""The compose file as a project that a test drives and looks at from outside. Knows its commands, ports and metrics."""

import contextlib
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from tests.compose.docker_host import compose_command, run
from tests.support.fleet import ROOT

COMPOSE_FILE = ROOT / "compose" / "docker-compose.yml"
PROJECT = "abfleet-test"
ROUTER, METRICS, PROMETHEUS = "127.0.0.1:50051", "127.0.0.1:8000", "127.0.0.1:9090"
DASHBOARD = "127.0.0.1:8080"
WORKERS = ("worker-v1-2-3", "worker-v1-3-0-beta", "worker-v1-4-0-rc1")
RUNNING = "{{.State.Health.Status}} {{if .HostConfig.ReadonlyRootfs}}read-only{{end}}"


class Journal:
    """Says what was done and when, and keeps it for the report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        line = f"{self._clock() - self._begun:6.1f} s  {text}"
        self.lines.append(line)
        print(line, flush=True)


class Compose:
    """docker-compose over the file that ships, in a project and with an experiments folder of its own."""

    def __init__(self, environment: dict[str, str], experiments: Path) -> None:
        own = {"ABFLEET_EXPERIMENTS_DIR": str(experiments), "ABFLEET_OPEN_FEEDBACK": "on"}
        self.environment = {**environment, **own}
        self.services: tuple[str, ...] = ("router", *WORKERS, "dashboard", "prometheus")

    def __call__(self, *words: str) -> str:
        # The profile is named always, so that what it starts is seen, and ends, with the rest.
        command = (*compose_command(), "--file", str(COMPOSE_FILE), "--project-name", PROJECT, "--profile", "demo")
        return run(*command, *words, environment=self.environment)

    def up(self, **replicas: int) -> None:
        """Brings every service up, the named ones (with `_` for `-`) in so many replicas."""
        scale = [word for name, n in replicas.items() for word in ("--scale", f"{name.replace('_', '-')}={n}")]
        self("up", "--detach", "--no-recreate", *scale, *self.services)

    def containers(self, service: str) -> list[str]:
        """Ids of the running containers of a service."""
        return self("ps", "--quiet", service).split()

    def docker(self, *words: str) -> str:
        return run("docker", *words, environment=self.environment)

    def left(self) -> list[str]:
        """Containers, networks and volumes of the project."""
        label = f"label=com.docker.compose.project={PROJECT}"
        kinds = (("ps", "--all"), ("network", "ls"), ("volume", "ls"))
        return [found for kind in kinds for found in self.docker(*kind, "--quiet", "--filter", label).split()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self("down", "--volumes", "--remove-orphans", "--timeout", "15")


def get(address: str, path: str) -> str:
    """A page over HTTP; empty while nobody answers."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
        content: bytes = answer.read()
        return content.decode()
    return ""


def ask(query: str) -> list[dict[str, Any]]:
    """What a query of the containers' Prometheus returns."""
    page = get(PROMETHEUS, f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    found: list[dict[str, Any]] = json.loads(page)["data"]["result"] if page else []
    return found


def replicas_in(version: str) -> int:
    """Replicas of a version that the router sends calls to, by its own metrics."""
    lines = get(METRICS, "/metrics").splitlines()
    return sum(
        line.endswith(" 1.0") for line in lines if line.startswith("abfleet_replica_in{") and f'"{version}"' in line
    )


def metric(name: str) -> float:
    """The sum of a family of the router."""
    lines = [line for line in get(METRICS, "/metrics").splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def states(compose: Compose, containers: Sequence[str]) -> set[str]:
    """What Docker says of containers: healthy or not, and whether their root can be written to."""
    return set(compose.docker("inspect", "--format", RUNNING, *containers).splitlines())


def shown_ctr() -> float | None:
    """Control's CTR in the dashboard's report; None while there is none."""
    page = get(DASHBOARD, "/api/report.json")
    experiments = json.loads(page).get("experiments", []) if page else []
    metrics = [one for experiment in experiments for one in experiment["metrics"]]
    values = [one["baseline_value"] for one in metrics if one["name"] == "ctr" and one["baseline_value"]]
    return float(values[0]) if values else None
