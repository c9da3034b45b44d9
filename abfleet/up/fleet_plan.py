"""Which workers this machine is to run, and on which ports. Pure: knows a configuration and flags, opens nothing."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from abfleet_experiments.config import Config

DNS = "dns:"


@dataclass(frozen=True, slots=True, order=True)
class ReplicaId:
    """Identifies one worker of the fleet: the n-th replica of a version, counted from 0."""

    version: str
    replica: int

    @property
    def name(self) -> str:
        """For people and for file names: `worker-v1.2.3`, `worker-v1.2.3-2`."""
        return f"worker-{self.version}" + (f"-{self.replica + 1}" if self.replica else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class PortBase:
    """Where the ports of the workers begin; slot n has `worker_port + n` and `metrics_port + 1 + n`."""

    host: str = "127.0.0.1"
    worker_port: int = 50061
    """0: any free port for each."""
    metrics_port: int | None = 8000
    """The router's own; 0: any free port for each, None: no metrics."""

    def listen(self, slot: int) -> str:
        """Where the worker of a slot serves."""
        return f"{self.host}:{self.worker_port + slot if self.worker_port else 0}"

    def metrics(self, slot: int) -> int | None:
        """The metrics port of the worker of a slot; None if metrics are off, 0 for any free port."""
        return self.metrics_port + 1 + slot if self.metrics_port else self.metrics_port


def fixed_addresses(config: Config, version: str) -> tuple[str, ...]:
    """The addresses that the file names for a version; a DNS name is for other deployments and is left out."""
    return tuple(target for target in config.models[version].target if is_address(target))


def is_address(target: str) -> bool:
    """`10.0.0.7:50061`, `[::1]:50061` or `unix:/run/worker.sock`; not a name that has to be looked up."""
    if target.startswith("unix:"):
        return True
    return not target.startswith(DNS) and _is_ip(target.rpartition(":")[0].strip("[]"))


def is_own(address: str) -> bool:
    """Whether a worker at this address would be a process of this machine's loopback interface."""
    host = address.rpartition(":")[0].strip("[]")
    return not address.startswith("unix:") and (host == "::1" or (_is_ip(host) and host.startswith("127.")))


def _is_ip(host: str) -> bool:
    return ":" in host or all(part.isdecimal() for part in host.split("."))


def replica_ids(versions: Sequence[str], replicas: Mapping[str, int]) -> list[ReplicaId]:
    """The first worker of every version in file order, then the further ones: more replicas move nobody's port."""
    first = [ReplicaId(version, 0) for version in versions]
    return first + [ReplicaId(version, index) for version in versions for index in range(1, replicas.get(version, 1))]


def slots(
    wanted: Iterable[ReplicaId], held: Mapping[ReplicaId, int], unusable: Collection[int] = ()
) -> dict[ReplicaId, int]:
    """A slot for each replica: the one it has, else the lowest that is free."""
    wanted = list(wanted)
    given = {replica_id: held[replica_id] for replica_id in wanted if replica_id in held}
    taken = {*held.values(), *unusable}
    candidate = 0
    for replica_id in wanted:
        if replica_id not in given:
            while candidate in taken:
                candidate += 1
            taken.add(candidate)
            given[replica_id] = candidate
    return given
