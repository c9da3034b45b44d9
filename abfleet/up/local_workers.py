"""The workers that this machine runs for an experiments file, and the fleet file that tells the router where they are.

Knows versions, ports and processes; reads no experiments file and asks no router.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import yaml
from abfleet_experiments.config import Config
from abfleet_models.registry import Registry, RegistryError

from abfleet.up.fleet_plan import PortBase, Seat, fixed_addresses, is_own, seats, slots
from abfleet.up.ports import Wanted, problems, why_not
from abfleet.up.supervisor import Child, ChildSpec, last_words

SLOT_TRIES = 64
"""Slots that are tried for a version that appears later: others may have taken ports in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the worker of a seat listens."""

    seat: Seat
    listen: str
    """Port 0: any free one."""
    metrics_port: int | None

    def wanted(self, metrics_host: str) -> list[Wanted]:
        """The addresses it needs, with the flags that change them."""
        wanted = [Wanted(self.listen, "--worker-port", self.seat.name)]
        if self.metrics_port is not None:
            flag = "--metrics-port (workers take the ports after it)"
            wanted.append(Wanted(f"{metrics_host}:{self.metrics_port}", flag, f"metrics of {self.seat.name}"))
        return wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What all workers share."""

    registry: Path
    transport: str
    metrics_host: str
    ports: PortBase
    replicas: Mapping[str, int]
    run_dir: Path


class LocalWorkers:
    """Changed only on the event loop. A version's places are decided when it appears, and stay until it goes."""

    def __init__(self, settings: WorkerSettings, say: Callable[[str], None]) -> None:
        self.children: dict[Seat, Child] = {}
        self.missing: dict[str, str] = {}
        """Version to why the registry cannot give it."""
        self._settings = settings
        self._say = say
        self._slots: dict[Seat, int] = {}
        self._addresses: dict[Seat, str] = {}  # as bound; none for a worker that has yet to tell its port
        self._external: dict[str, tuple[str, ...]] = {}
        self._written: str | None = None

    @property
    def fleet_file(self) -> Path:
        """What the router follows."""
        return self._settings.run_dir / "fleet.yaml"

    @property
    def versions(self) -> set[str]:
        """Those that have a worker here."""
        return {seat.version for seat in self.children}

    def of(self, version: str) -> list[Child]:
        """The workers of a version."""
        return [child for seat, child in self.children.items() if seat.version == version]

    def address(self, seat: Seat) -> str:
        """Where a worker listens, or is going to; empty while its port is not known."""
        return self._addresses.get(seat, "")

    def plan(self, config: Config, *, avoid_taken: bool) -> list[Place]:
        """Places for the workers that a configuration needs and that are not there yet; starts nothing.

        Versions that the registry does not have are in `missing` afterwards. `avoid_taken`: pass over slots whose ports
        somebody else has, instead of leaving them to be refused.
        """
        new = [v for v in config.models if v not in self.versions and v not in self._external]
        fixed: dict[Seat, str] = {}
        for version in new:
            addresses = fixed_addresses(config, version)
            own = [address for address in addresses if is_own(address) and why_not(address) is None]
            fixed |= {Seat(version, index): address for index, address in enumerate(own)}
            if others := tuple(address for address in addresses if address not in own):
                self._external[version] = others
        local = [version for version in new if version not in self._external]
        self.missing = self._missing({*local, *(seat.version for seat in fixed)})
        free = seats([v for v in local if not fixed_addresses(config, v)], self._settings.replicas)
        wanted = [seat for seat in (*free, *fixed) if seat.version not in self.missing]
        return self._give_slots(wanted, fixed, avoid_taken=avoid_taken)

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

    def _give_slots(self, wanted: list[Seat], fixed: Mapping[Seat, str], *, avoid_taken: bool) -> list[Place]:
        unusable: set[int] = set()
        for _ in range(SLOT_TRIES):
            given = slots(wanted, self._slots, unusable)
            places = [self._place(seat, given[seat], fixed.get(seat)) for seat in wanted]
            taken = {given[place.seat] for place in places if avoid_taken and self._is_taken(place)}
            if not taken:
                break
            unusable |= taken
        self._slots |= given
        return places

    def _place(self, seat: Seat, slot: int, fixed: str | None) -> Place:
        ports = self._settings.ports
        return Place(seat=seat, listen=fixed or ports.listen(slot), metrics_port=ports.metrics(slot))

    def _is_taken(self, place: Place) -> bool:
        return any(
            why_not(one.address) is not None
            for one in place.wanted(self._settings.metrics_host)
            if not one.address.endswith(":0")
        )

    def start(self, places: Iterable[Place]) -> list[Child]:
        """Starts a worker at each place."""
        started = []
        for place in places:
            child = Child(
                self._spec(place),
                say=self._say,
                on_ready=partial(self._bound, place),
                explain=partial(self._explain, place),
            )
            self.children[place.seat] = child
            if not place.listen.endswith(":0"):
                self._addresses[place.seat] = place.listen
            child.start()
            started.append(child)
        return started

    def _spec(self, place: Place) -> ChildSpec:
        settings = self._settings
        flags = {
            "--registry": str(settings.registry),
            "--version": place.seat.version,
            "--listen": place.listen,
            "--metrics-host": settings.metrics_host,
            "--metrics-port": "off" if place.metrics_port is None else str(place.metrics_port),
            "--transport": settings.transport,
        }
        words = [word for pair in flags.items() for word in pair]
        return ChildSpec(
            name=place.seat.name,
            command=(sys.executable, "-m", "abfleet_worker", *words),
            log_path=settings.run_dir / f"{place.seat.name}.log",
        )

    def _bound(self, place: Place, child: Child) -> None:
        """A worker has told its address: it keeps it when it is started again, so that the router need not search."""
        address = child.ready_line.split()[1]
        if self._addresses.get(place.seat) != address:
            self._addresses[place.seat] = address
            child.spec = self._spec(replace(place, listen=address))

    def _explain(self, place: Place, child: Child) -> str:
        """A port that another process took names the flag; for the rest the worker's own log speaks."""
        now = replace(place, listen=self._addresses.get(place.seat, place.listen))
        found = problems(now.wanted(self._settings.metrics_host))
        return found[0] if found else last_words(child.spec.log_path)

    def write_fleet_file(self) -> None:
        """Tells the router where the workers are; nothing is written when nothing has changed."""
        targets: dict[str, list[str]] = {}
        for seat in sorted(self._addresses):
            targets.setdefault(seat.version, []).append(self._addresses[seat])
        for version, addresses in self._external.items():
            if addresses:
                targets.setdefault(version, []).extend(addresses)
        models = {version: {"target": addresses} for version, addresses in targets.items()}
        text = yaml.safe_dump({"version": 1, "models": models}, sort_keys=False)
        if not models or text == self._written:
            return
        fresh = self.fleet_file.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, self.fleet_file)  # the router never sees half of it
        self._written = text

    async def remove(self, version: str, grace_seconds: float) -> None:
        """Stops the workers of a version and forgets their places."""
        await asyncio.gather(*(child.stop(grace_seconds) for child in self.of(version)))
        for seat in [seat for seat in self.children if seat.version == version]:
            del self.children[seat]
            self._slots.pop(seat, None)
            self._addresses.pop(seat, None)
        self._external.pop(version, None)

    def follow_external(self, config: Config) -> None:
        """Takes over changed addresses of versions whose workers are all somebody else's."""
        for version in self._external.keys() - self.versions:
            addresses = fixed_addresses(config, version) if version in config.models else ()
            if addresses:
                self._external[version] = addresses
            else:
                del self._external[version]
