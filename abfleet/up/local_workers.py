"""The workers that this machine runs for an experiments file, and the fleet file with their addresses.

Knows versions, ports and processes; reads no experiments file and asks no router.
"""

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml
from abfleet_experiments.config import Config, ModelTarget
from abfleet_models.registry import Registry, RegistryError
from abfleet_process.atomic_file import replace_file

from abfleet.up.fleet_plan import PortBase, ReplicaId, fixed_addresses, is_own, replica_ids, slots
from abfleet.up.ports import WantedAddress, bind_problem, problems
from abfleet.up.supervisor import Child, ChildSpec, last_log_line

SLOT_TRIES = 64
"""Slots that are tried for a version that appears later: others may have taken ports in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEndpoint:
    """Where the worker of a replica listens."""

    replica_id: ReplicaId
    listen: str
    """Port 0: any free one."""
    metrics_port: int | None

    def wanted(self, metrics_host: str) -> list[WantedAddress]:
        """The addresses it needs, with the flags that change them."""
        wanted = [WantedAddress(self.listen, "--worker-port", self.replica_id.name)]
        if self.metrics_port is not None:
            flag = "--metrics-port (workers take the ports after it)"
            wanted.append(
                WantedAddress(f"{metrics_host}:{self.metrics_port}", flag, f"metrics of {self.replica_id.name}")
            )
        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalWorkerSettings:
    """The settings that all workers on this machine share."""

    registry: Path
    transport: str
    metrics_host: str
    ports: PortBase
    replicas: Mapping[str, int]
    run_dir: Path


class LocalWorkers:
    """Changed only on the event loop. A version's endpoints are decided when it appears, and stay until it goes."""

    def __init__(self, settings: LocalWorkerSettings, say: Callable[[str], None]) -> None:
        self.children: dict[ReplicaId, Child] = {}
        self.missing: dict[str, str] = {}
        """Version to why the registry cannot give it."""
        self._settings = settings
        self._say = say
        self._slots: dict[ReplicaId, int] = {}
        self._addresses: dict[ReplicaId, str] = {}  # as bound; missing until the worker has printed its port
        self._external: dict[str, tuple[str, ...]] = {}
        self._foreign: dict[str, ModelTarget] = {}  # servers of the Open Inference Protocol, which are used as they are
        self._written: str | None = None

    @property
    def fleet_file(self) -> Path:
        """The fleet file that the router reads, with the workers' addresses."""
        return self._settings.run_dir / "fleet.yaml"

    @property
    def versions(self) -> set[str]:
        """Those that have a worker here."""
        return {replica_id.version for replica_id in self.children}

    def of(self, version: str) -> list[Child]:
        """The processes of a version's workers on this machine."""
        return [child for replica_id, child in self.children.items() if replica_id.version == version]

    def address(self, replica_id: ReplicaId) -> str:
        """Where a worker listens, or is going to; empty while its port is not known."""
        return self._addresses.get(replica_id, "")

    def plan(self, config: Config, *, avoid_taken: bool) -> list[WorkerEndpoint]:
        """Endpoints for the workers that a configuration needs and that are not there yet; starts nothing.

        Versions that the registry does not have are in `missing` afterwards. `avoid_taken`: pass over slots whose ports
        somebody else has, instead of leaving them to be refused.
        """
        self._follow_foreign(config)
        known = {*self.versions, *self._external, *self._foreign}
        new = [version for version in config.models if version not in known]
        fixed: dict[ReplicaId, str] = {}
        for version in new:
            addresses = fixed_addresses(config, version)
            own = [address for address in addresses if is_own(address) and bind_problem(address) is None]
            fixed |= {ReplicaId(version, index): address for index, address in enumerate(own)}
            if others := tuple(address for address in addresses if address not in own):
                self._external[version] = others
        local = [version for version in new if version not in self._external]
        self.missing = self._missing({*local, *(replica_id.version for replica_id in fixed)})
        free = replica_ids([v for v in local if not fixed_addresses(config, v)], self._settings.replicas)
        wanted = [replica_id for replica_id in (*free, *fixed) if replica_id.version not in self.missing]
        return self._give_slots(wanted, fixed, avoid_taken=avoid_taken)

    def _follow_foreign(self, config: Config) -> None:
        self._foreign = {version: model for version, model in config.models.items() if model.oip is not None}

    def _missing(self, versions: Iterable[str]) -> dict[str, str]:
        """Version to what is wrong with it in the registry, for those that cannot be served."""
        registry = Registry(self._settings.registry)
        problems = {}
        for version in sorted(versions):
            try:
                registry.resolve(version)
            except RegistryError as error:
                problems[version] = str(error)
        return problems

    def _give_slots(
        self, wanted: list[ReplicaId], fixed: Mapping[ReplicaId, str], *, avoid_taken: bool
    ) -> list[WorkerEndpoint]:
        unusable: set[int] = set()
        for _ in range(SLOT_TRIES):
            given = slots(wanted, self._slots, unusable)
            endpoints = [self._endpoint(replica_id, given[replica_id], fixed.get(replica_id)) for replica_id in wanted]
            taken = {given[endpoint.replica_id] for endpoint in endpoints if avoid_taken and self._is_taken(endpoint)}
            if not taken:
                break
            unusable |= taken
        self._slots |= given
        return endpoints

    def _endpoint(self, replica_id: ReplicaId, slot: int, fixed: str | None) -> WorkerEndpoint:
        ports = self._settings.ports
        return WorkerEndpoint(
            replica_id=replica_id, listen=fixed or ports.listen(slot), metrics_port=ports.metrics(slot)
        )

    def _is_taken(self, endpoint: WorkerEndpoint) -> bool:
        return any(
            bind_problem(one.address) is not None
            for one in endpoint.wanted(self._settings.metrics_host)
            if not one.address.endswith(":0")
        )

    def start(self, endpoints: Iterable[WorkerEndpoint]) -> list[Child]:
        """Starts a worker at each endpoint."""
        started = []
        for endpoint in endpoints:
            child = Child(
                self._spec(endpoint),
                say=self._say,
                on_ready=partial(self._bound, endpoint),
                explain=partial(self._explain, endpoint),
            )
            self.children[endpoint.replica_id] = child
            if not endpoint.listen.endswith(":0"):
                self._addresses[endpoint.replica_id] = endpoint.listen
            child.start()
            started.append(child)
        return started

    def _spec(self, endpoint: WorkerEndpoint) -> ChildSpec:
        settings = self._settings
        flags = {
            "--registry": str(settings.registry),
            "--version": endpoint.replica_id.version,
            "--listen": endpoint.listen,
            "--metrics-host": settings.metrics_host,
            "--metrics-port": "off" if endpoint.metrics_port is None else str(endpoint.metrics_port),
            "--transport": settings.transport,
        }
        words = [word for pair in flags.items() for word in pair]
        return ChildSpec(
            name=endpoint.replica_id.name,
            command=(sys.executable, "-m", "abfleet_worker", *words),
            log_path=settings.run_dir / f"{endpoint.replica_id.name}.log",
        )

    def _bound(self, endpoint: WorkerEndpoint, child: Child) -> None:
        """Keeps the address that a worker has printed for its restarts, so that the router finds it there."""
        address = child.ready_line.split()[1]
        if self._addresses.get(endpoint.replica_id) != address:
            self._addresses[endpoint.replica_id] = address
            child.spec = self._spec(replace(endpoint, listen=address))

    def _explain(self, endpoint: WorkerEndpoint, child: Child) -> str:
        """Why a worker ended: the flag to change if another process took its port, else the last line of its log."""
        now = replace(endpoint, listen=self._addresses.get(endpoint.replica_id, endpoint.listen))
        found = problems(now.wanted(self._settings.metrics_host))
        return found[0] if found else last_log_line(child.spec.log_path)

    def write_fleet_file(self) -> None:
        """Writes the workers' addresses for the router; nothing is written when nothing has changed."""
        targets: dict[str, list[str]] = {}
        for replica_id in sorted(self._addresses):
            targets.setdefault(replica_id.version, []).append(self._addresses[replica_id])
        for version, addresses in self._external.items():
            if addresses:
                targets.setdefault(version, []).extend(addresses)
        models: dict[str, dict[str, object]] = {version: {"target": found} for version, found in targets.items()}
        models |= {version: _foreign_entry(model) for version, model in self._foreign.items()}
        text = yaml.safe_dump({"version": 1, "models": models}, sort_keys=False)
        if not models or text == self._written:
            return
        replace_file(self.fleet_file, text.encode())
        self._written = text

    async def remove(self, version: str, grace_seconds: float) -> None:
        """Stops the workers of a version and forgets their endpoints."""
        await asyncio.gather(*(child.stop(grace_seconds) for child in self.of(version)))
        for replica_id in [replica_id for replica_id in self.children if replica_id.version == version]:
            del self.children[replica_id]
            self._slots.pop(replica_id, None)
            self._addresses.pop(replica_id, None)
        self._external.pop(version, None)

    def follow_external(self, config: Config) -> None:
        """Takes over changed addresses of versions that have no worker on this machine."""
        self._follow_foreign(config)
        for version in self._external.keys() - self.versions:
            addresses = fixed_addresses(config, version) if version in config.models else ()
            if addresses:
                self._external[version] = addresses
            else:
                del self._external[version]


def _foreign_entry(model: ModelTarget) -> dict[str, object]:
    """What a fleet file says of a version that servers of the Open Inference Protocol have."""
    assert model.oip is not None
    version = {"version": model.oip.version} if model.oip.version else {}
    return {"target": list(model.target), "protocol": "oip", "model": model.oip.model, **version}
