"""A real fleet for tests: router and workers as processes, random ports, a folder of its own. It can be broken too.

Everything is started from the installed packages with the interpreter that runs the tests; nothing outlives the `with`.
"""

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from abfleet_protos import admin_pb2_grpc, recommender_pb2_grpc
from abfleet_protos.admin_pb2 import StatusRequest, StatusResponse

from tests.support.network import PORT, Network
from tests.support.process import ROOT, Process

MODELS = ROOT / "models"
VERSIONS = ("v1.2.3", "v1.3.0-beta", "v1.4.0-rc1")


def wait_until(condition: Callable[[], object], what: str, seconds: float = 30.0) -> Any:
    """The first true value of `condition`; AssertionError that says what did not happen.

    It is asked less often with time: asking takes CPU from those who are to make it true.
    """
    end, pause = time.monotonic() + seconds, 0.01
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(pause)
        pause = min(1.1 * pause, 0.1)
    raise AssertionError(f"not within {seconds:g} s: {what}")


def status_of(admin_address: str) -> StatusResponse:
    """What a running router says of itself on its admin port."""
    with grpc.insecure_channel(admin_address) as channel:
        answer: StatusResponse = admin_pb2_grpc.AdminStub(channel).Status(StatusRequest(), timeout=10)
    return answer


class Fleet:
    """One router over one worker (or more) for each version; a context manager."""

    def __init__(
        self,
        folder: Path,
        *,
        experiments: str,
        registry: Path = MODELS,
        versions: Sequence[str] = VERSIONS,
        replicas: int = 1,
        transport: str = "auto",
        router_flags: Sequence[str] = (),
        worker_flags: Sequence[str] = (),
        bent: bool = False,
        network: Network | None = None,
    ) -> None:
        """`bent`: the workers are real ones that `bend` can make misbehave; `network`: they are in it, and the router
        finds them by name."""
        self.folder = folder
        self.experiments_path = folder / "experiments.yaml"
        self.experiments_path.write_text(experiments)
        self.fleet_path = folder / "fleet.yaml"
        self.log_dir = folder / "logs"
        self.registry = registry
        self._versions = versions
        self._replicas = replicas
        self._transport = transport
        self._router_flags = router_flags
        self._worker_flags = worker_flags
        self._bent = bent
        self.network = network
        self.workers: dict[tuple[str, int], Process] = {}
        self.worker_addresses: dict[tuple[str, int], str] = {}
        self.router: Process | None = None
        self.more_routers: list[Process] = []
        self.address = ""
        self.admin_address = ""
        self.metrics_address = ""
        self._starts = 0

    def __enter__(self) -> Self:
        try:
            names = [(version, number) for version in self._versions for number in range(self._replicas)]
            hosts = ["127.0.0.1:0"] * len(names) if self.network is None else map(at_port, self.network.hosts)
            for (version, number), listen in zip(names, hosts, strict=True):
                self.workers[version, number] = self._spawn_worker(version, number, listen)
            for name in names:
                self.worker_addresses[name] = self.workers[name].ready()[1]
            self.write_fleet()
            self.start_router()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends everything; more than once does no harm."""
        processes = [*([self.router] if self.router else []), *self.more_routers, *self.workers.values()]
        for process in processes:
            if process.popen.poll() is None:
                process.popen.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.popen.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()

    def _spawn_worker(self, version: str, number: int, listen: str) -> Process:
        self._starts += 1
        arguments = [
            *("--registry", str(self.registry), "--version", version, "--listen", listen, "--metrics-port", "off"),
            *("--transport", self._transport, "--log-level", "warning", *self._worker_flags),
        ]
        name = f"worker-{version}-{number}-{self._starts}"
        before = () if self.network is None else self.network.inside
        if self._bent:
            arguments = ["--bend", str(self._bend_path(version, number)), *arguments]
            return Process(name, "tests.support.bent_worker", arguments, self.folder, before=before)
        return Process(name, "abfleet_worker", arguments, self.folder, before=before)

    def _bend_path(self, version: str, number: int) -> Path:
        return self.folder / f"bend-{version}-{number}.json"

    def bend(self, version: str, number: int = 0, **how: Any) -> None:
        """From its next batch on, a worker misbehaves as `tests.support.bent_worker` knows; without `how`, no more."""
        replace(self._bend_path(version, number), json.dumps(how))

    def requests_to(self, version: str, number: int = 0) -> int:
        """How many requests have come to a worker that can be bent, since it was started."""
        try:
            return int(self._bend_path(version, number).with_suffix(".came").read_text() or 0)
        except FileNotFoundError:
            return 0

    def add_worker(self, version: str) -> None:
        """Starts the first worker of a version and tells the routers of it."""
        name = (version, 0)
        self._versions = (*self._versions, version)
        self.workers[name] = self._spawn_worker(version, 0, "127.0.0.1:0")
        self.worker_addresses[name] = self.workers[name].ready()[1]
        self.write_fleet()

    def restart_worker(self, version: str, number: int = 0) -> None:
        """Starts a worker that was killed, at the address it had."""
        name = (version, number)
        self.workers[name] = self._spawn_worker(version, number, self.worker_addresses[name])
        self.workers[name].ready()

    def write_fleet(self, targets: Mapping[str, Sequence[str]] | None = None) -> None:
        """Writes the fleet file: the workers that run, or other targets. In a network the workers are names, which are
        made to lead to them."""
        if targets is None and self.network is not None:
            self.tell_names()
            targets = {version: [f"dns:///{host_name(version)}:{PORT}"] for version in self._versions}
        elif targets is None:
            targets = {version: self.addresses(version) for version in self._versions}
        document = {"version": 1, "models": {version: {"target": list(t)} for version, t in targets.items()}}
        replace(self.fleet_path, json.dumps(document))

    def addresses(self, version: str) -> list[str]:
        """Where its workers are."""
        return [address for (of, _), address in self.worker_addresses.items() if of == version]

    def tell_names(self, *, but: Sequence[str] = ()) -> None:
        """Every name leads to its workers again; but not to these addresses."""
        assert self.network is not None
        self.network.names.known = {
            host_name(version): [one.rpartition(":")[0] for one in self.addresses(version) if one not in but]
            for version in self._versions
        }

    def _before_router(self) -> Sequence[str]:
        return () if self.network is None else self.network.with_names(self.folder)

    def start_router(self) -> None:
        """Starts the router, or starts it again at the address it had."""
        self._starts += 1
        arguments = [
            *("--experiments", str(self.experiments_path), "--fleet", str(self.fleet_path)),
            *("--listen", self.address or "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "0"),
            *("--log-dir", str(self.log_dir), "--transport", self._transport, *self._router_flags),
        ]
        before = self._before_router()
        self.router = Process(f"router-{self._starts}", "abfleet_router", arguments, self.folder, before=before)
        _, self.address, _, self.admin_address, _, self.metrics_address = self.router.ready()

    def start_another_router(self) -> tuple[str, str]:
        """Starts one more router over the same files and workers; gives its address and its admin address."""
        self._starts += 1
        arguments = [
            *("--experiments", str(self.experiments_path), "--fleet", str(self.fleet_path)),
            *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "off"),
            *("--log-dir", str(self.log_dir), "--transport", self._transport, *self._router_flags),
        ]
        before = self._before_router()
        router = Process(f"router-{self._starts}", "abfleet_router", arguments, self.folder, before=before)
        self.more_routers.append(router)
        _, address, _, admin_address, *_ = router.ready()
        return address, admin_address

    def edit(self, experiments: str) -> None:
        """Replaces the experiments file the way editors do: a new file takes the name."""
        replace(self.experiments_path, experiments)

    @contextlib.contextmanager
    def stub(self) -> Iterator[recommender_pb2_grpc.RecommenderStub]:
        """A stock client on a connection of its own."""
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            yield recommender_pb2_grpc.RecommenderStub(channel)

    def status(self, admin_address: str | None = None) -> StatusResponse:
        """The router's status, or that of another one."""
        return status_of(admin_address or self.admin_address)

    def wait_for_serving(self, version: str, replicas: int = 1) -> None:
        """Waits until the router has that many replicas of a version in."""
        wait_until(
            lambda: any(p.version == version and p.available >= replicas for p in self.status().pools),
            f"{replicas} replicas of {version} in",
        )

    def router_text(self) -> str:
        """What the router has told its operator so far."""
        return self.router.stderr_path.read_text() if self.router is not None else ""

    def log(self) -> list[dict[str, Any]]:
        """Every line of the decision log so far; what a caller has been told is written within the flush interval."""
        lines = []
        for path in sorted(self.log_dir.glob("decisions-*.jsonl")):
            text = path.read_text()
            lines += [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return lines

    def exposures(self, count: int, seconds: float = 30.0) -> list[dict[str, Any]]:
        """The exposures, once there are at least `count`."""

        def enough() -> list[dict[str, Any]]:
            found = [line for line in self.log() if line["event"] == "exposure"]
            return found if len(found) >= count else []

        found: list[dict[str, Any]] = wait_until(enough, f"{count} exposures in the log", seconds)
        return found


def at_port(host: str) -> str:
    """Where the worker of a host in a network listens."""
    return f"{host}:{PORT}"


def host_name(version: str) -> str:
    """The name of a version's workers in a network."""
    return f"{version.replace('.', '-')}.abfleet.test"


def replace(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def experiments_file(control: float = 70, experiment: float = 20, canary: float = 10, **extra: Any) -> str:
    """The file that ships, with other weights; `extra` goes into the experiment."""
    weights = {"control": control, "experiment": experiment, "canary": canary}
    groups = [
        {"name": name, "model": version, "weight": weight}
        for (name, weight), version in zip(weights.items(), VERSIONS, strict=True)
    ]
    ranking = {"name": "homepage-ranking", "salt": "recommender-2026-11", "groups": groups, **extra}
    models = {version: {"target": f"dns:///{version.replace('.', '-')}.invalid:50061"} for version in VERSIONS}
    return json.dumps({"version": 1, "default": "v1.2.3", "models": models, "experiments": [ranking]}, indent=1)
