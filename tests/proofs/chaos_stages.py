"""The fleets to which faults happen: one with a network and a disk of its own, one with an alias, two with two routers.

Knows what each is made of and which faults it can have; nothing of traffic.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from abfleet_client import SERVICE_CONFIG

from tests.proofs import chaos_faults
from tests.proofs.chaos_faults import ALIAS, DEFAULT, REPLICAS, Fault
from tests.support import disks, network
from tests.support.fleet import MODELS, VERSIONS, Fleet, experiments_file
from tests.support.network import Network

DISK_BYTES = 512 * 1024 * 1024
"""More than the log of all faults takes; what is left of it is filled when the disk is to be full."""
TWO_ROUTERS: Sequence[tuple[str, Any]] = (
    ("grpc.default_authority", "router"),  # else it would be the list of addresses, which is none
)
BALANCED = {"loadBalancingConfig": [{"round_robin": {}}]}
FOLLOWED = {**BALANCED, "healthCheckConfig": {"serviceName": ""}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A fleet and what may happen to it."""

    faults: list[Fault]
    transport: str = "auto"
    networked: bool = False
    small_disk: bool = False
    alias: bool = False
    """The default is an alias, in a registry of its own."""
    routers: int = 1
    router_flags: Sequence[str] = field(default_factory=tuple)
    options: Sequence[tuple[str, Any]] = field(default_factory=tuple)
    """Of the callers' channels. They do not send again what failed, unless these say so."""

    @property
    def versions(self) -> Sequence[str]:
        return (ALIAS, *VERSIONS[1:]) if self.alias else VERSIONS

    def only(self, names: Sequence[str]) -> "Stage":
        """With these faults alone."""
        return replace(self, faults=[fault for fault in self.faults if fault.name in names])

    def address(self, fleet: Fleet) -> str:
        """What callers call; starts the other routers."""
        if self.routers == 1:
            return fleet.address
        others = [fleet.start_another_router()[0] for _ in range(self.routers - 1)]
        return f"ipv4:{','.join((fleet.address, *others))}"

    @contextmanager
    def fleet(self, folder: Path) -> Iterator[Fleet]:
        """The fleet, running."""
        experiments, registry = experiments_file(), MODELS
        if self.alias:
            experiments = experiments.replace(f'"{DEFAULT}"', f'"{ALIAS}"')
            registry = folder / "models"
            shutil.copytree(MODELS, registry, symlinks=True, ignore=shutil.ignore_patterns("abfleet_models"))
        with ExitStack() as stack:
            if self.small_disk:
                stack.enter_context(disks.small_disk(folder / "logs", DISK_BYTES))
            made = stack.enter_context(Network(REPLICAS * len(self.versions))) if self.networked else None
            yield stack.enter_context(
                Fleet(
                    folder,
                    experiments=experiments,
                    registry=registry,
                    versions=self.versions,
                    replicas=REPLICAS,
                    transport=self.transport,
                    router_flags=self.router_flags,
                    worker_flags=("--follow-interval", "0.1"),
                    bent=True,
                    network=made,
                )
            )


def stages(transport: str) -> tuple[list[Stage], list[str]]:
    """All of them, and why some faults cannot be had here."""
    no_network, no_disk = network.cannot_make(), disks.cannot_mount()
    main = chaos_faults.faults()
    if no_network is None:
        main += chaos_faults.network_faults()
    if no_disk is None:
        main += chaos_faults.disk_faults()
    retried = {**json.loads(SERVICE_CONFIG), **BALANCED}
    found = [
        Stage(faults=main, transport=transport, networked=no_network is None, small_disk=no_disk is None),
        Stage(faults=chaos_faults.alias_faults(), transport=transport, alias=True),
        Stage(
            faults=chaos_faults.router_faults("router restarted"),
            transport=transport,
            routers=2,
            options=(*TWO_ROUTERS, ("grpc.service_config", json.dumps(retried)), ("grpc.enable_retries", 1)),
        ),
        # Callers that follow health are gone before it closes, and need no retry.
        Stage(
            faults=chaos_faults.router_faults("same, grpcio, no retry"),
            transport="grpcio",
            routers=2,
            router_flags=("--drain-delay", "1"),
            options=(*TWO_ROUTERS, ("grpc.service_config", json.dumps(FOLLOWED)), ("grpc.enable_retries", 0)),
        ),
    ]
    return found, [reason for reason in (no_network, no_disk) if reason]
