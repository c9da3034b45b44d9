"""What happens to a fleet in `./run prove chaos`, and how it is mended: real faults of real processes, networks, disks.

Knows how to make each, and how to tell that it is over; not what is promised of it.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import grpc
from abfleet_models.registry import Registry
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub
from typer.testing import CliRunner

from abfleet.cli import app
from tests.support.fleet import VERSIONS, Fleet, experiments_file, wait_until

DEFAULT, TREATMENT, CANARY = VERSIONS
REPLICAS = 2
Act = Callable[[Fleet, str, int], None]
"""Does something to a replica of a version, or to what is around it."""


def is_in(fleet: Fleet, version: str, number: int) -> bool:
    """Whether the router may send it calls."""
    address = fleet.worker_addresses[version, number]
    pool = next(pool for pool in fleet.status().pools if pool.version == version)
    return any(one.address == address and one.gets_calls for one in pool.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that happens to a fleet and is mended again."""

    name: str
    version: str = DEFAULT
    whole_pool: bool = False
    """Every replica of the version has it; else the first."""
    begin: Act
    end: Act
    is_whole: Callable[[Fleet, str, int], bool] = is_in
    """Whether it is over, for a replica."""
    goes_out: bool = True
    """The router must take the replica out; else it may go on using it."""
    out_seconds: float = 1.0
    """In which it must."""
    counts_share: bool = True
    """The replica is there and should get no more calls than its share."""

    @property
    def replicas(self) -> range:
        return range(REPLICAS if self.whole_pool else 1)


# --- processes --------------------------------------------------------------------------------------------------------


def kill(fleet: Fleet, version: str, number: int) -> None:
    fleet.workers[version, number].kill()


def restart(fleet: Fleet, version: str, number: int) -> None:
    fleet.restart_worker(version, number)


def stop(fleet: Fleet, version: str, number: int) -> None:
    fleet.workers[version, number].popen.send_signal(SIGSTOP)


def go_on(fleet: Fleet, version: str, number: int) -> None:
    fleet.workers[version, number].popen.send_signal(SIGCONT)


def bent(**how: object) -> Act:
    """Begins to misbehave as `tests.support.bent_worker` knows."""
    return lambda fleet, version, number: fleet.bend(version, number, **how)


def straight(fleet: Fleet, version: str, number: int) -> None:
    fleet.bend(version, number)


def restart_each(fleet: Fleet, version: str, number: int) -> None:
    """SIGTERM to one after the other, each back before the next goes: as a rollout does it."""
    for one in range(REPLICAS):
        assert fleet.workers[version, one].stop() == 0
        fleet.restart_worker(version, one)
        wait_until(lambda one=one: is_in(fleet, version, one), "the worker is back", 60)  # type: ignore[misc]


def restart_router(fleet: Fleet, version: str, number: int) -> None:
    """SIGTERM, and another at the same address; callers know a second one."""
    assert fleet.router is not None
    assert fleet.router.stop() == 0
    fleet.start_router()


def nothing(fleet: Fleet, version: str, number: int) -> None:
    """Mended already."""


# --- files ------------------------------------------------------------------------------------------------------------


def leave(fleet: Fleet, version: str, number: int) -> None:
    """The fleet file does not name it any more."""
    gone = fleet.worker_addresses[version, number]
    fleet.write_fleet({v: [a for a in fleet.addresses(v) if a != gone] for v in VERSIONS})


def come_back(fleet: Fleet, version: str, number: int) -> None:
    fleet.write_fleet()


def edit(fleet: Fleet, version: str, number: int) -> None:
    """Other weights are in force."""
    fleet.edit(experiments_file(40, 35, 25))


def edit_back(fleet: Fleet, version: str, number: int) -> None:
    fleet.edit(experiments_file())


def filler(fleet: Fleet) -> Path:
    """What takes all the room that there is."""
    return fleet.log_dir / "filler"


def fill(fleet: Fleet, version: str, number: int) -> None:
    """Not a byte is left on the disk of the decision log, and the router has noticed."""
    with filler(fleet).open("wb", buffering=0) as file:
        for size in (2**20, 2**10, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    wait_until(lambda: fleet.status().decision_log.failing, "the log cannot be written")


def make_room(fleet: Fleet, version: str, number: int) -> None:
    filler(fleet).unlink()


def log_is_written(fleet: Fleet, version: str, number: int) -> bool:
    return not fleet.status().decision_log.failing


def move_alias(*words: str) -> Act:
    """`abfleet models …` in the registry of the fleet; its workers follow."""

    def act(fleet: Fleet, version: str, number: int) -> None:
        done = CliRunner().invoke(app, ["models", *words, "--registry", str(fleet.registry)])
        assert done.exit_code == 0, done.output
        wait_until(lambda: has_moved(fleet, version, number), "the workers have followed", 60)

    return act


def has_moved(fleet: Fleet, version: str, number: int) -> bool:
    """Every worker of the alias answers with the version that it leads to now."""
    leads_to = Registry(fleet.registry).resolve(version).version
    return all(version_at(address) == leads_to for address in fleet.addresses(version))


def version_at(address: str) -> str:
    """What a worker that is asked itself says that it serves."""
    with grpc.insecure_channel(address) as channel:
        return str(RecommenderStub(channel).Recommend(RecommendRequest(item_ids=[1, 2, 3]), timeout=30).model_version)


# --- the network ------------------------------------------------------------------------------------------------------


def host_of(fleet: Fleet, version: str, number: int) -> str:
    return fleet.worker_addresses[version, number].rpartition(":")[0]


def part(fleet: Fleet, version: str, number: int) -> None:
    """Packets to and from it are dropped without a word."""
    assert fleet.network is not None
    fleet.network.part(host_of(fleet, version, number))


def join(fleet: Fleet, version: str, number: int) -> None:
    assert fleet.network is not None
    fleet.network.join(host_of(fleet, version, number))


def empty_names(fleet: Fleet, version: str, number: int) -> None:
    """DNS knows no name of the fleet any more, and the router has asked."""
    assert fleet.network is not None
    fleet.network.names.known = {}
    asked = fleet.network.names.asked
    wait_until(lambda: fleet.network is not None and fleet.network.names.asked >= asked + 6, "names are asked for")


def silence_names(fleet: Fleet, version: str, number: int) -> None:
    """DNS does not answer."""
    assert fleet.network is not None
    fleet.network.names.silent = True


def restore_names(fleet: Fleet, version: str, number: int) -> None:
    assert fleet.network is not None
    fleet.network.names.silent = False
    fleet.tell_names()


def leave_names(fleet: Fleet, version: str, number: int) -> None:
    """The name of its version does not lead to it any more."""
    fleet.tell_names(but=(fleet.worker_addresses[version, number],))


# --- all of them ------------------------------------------------------------------------------------------------------

ALIAS = "production"


def faults() -> list[Fault]:
    """Those that happen to one fleet; the default's pool is first, because nothing stands behind it."""
    one = [
        Fault(name="killed", begin=kill, end=restart, counts_share=False),
        Fault(name="stopped", begin=stop, end=go_on, out_seconds=2),
        Fault(name="hangs", begin=bent(hang=True), end=straight),
        Fault(name="slow by 200 ms", begin=bent(delay_s=0.2), end=straight, goes_out=False),
        Fault(name="fails 30 %", begin=bent(fail_share=0.3), end=straight, goes_out=False),
        Fault(name="fails every request", begin=bent(fail_share=1.0), end=straight),
        Fault(name="refuses every batch", begin=bent(fail_calls=True), end=straight),
        Fault(name="garbage", begin=bent(garbage=True), end=straight),
        Fault(name="wrong version", begin=bent(says="v9"), end=straight),
        Fault(name="workers restarted", begin=restart_each, end=nothing, goes_out=False, counts_share=False),
        Fault(name="leaves the fleet file", begin=leave, end=come_back, out_seconds=2),
        Fault(name="weights edited", begin=edit, end=edit_back, goes_out=False, counts_share=False),
    ]
    whole = [
        Fault(name="pool killed", begin=kill, end=restart),
        Fault(name="pool stopped", begin=stop, end=go_on, out_seconds=2),
        Fault(name="pool hangs", begin=bent(hang=True), end=straight, goes_out=False),
        Fault(name="pool fails", begin=bent(fail_share=1.0), end=straight, goes_out=False),
        Fault(name="pool of garbage", begin=bent(garbage=True), end=straight, goes_out=False),
    ]
    return one + [of_pool(fault) for fault in whole]


def of_pool(fault: Fault) -> Fault:
    """The same for every replica of a treatment."""
    return replace(fault, version=TREATMENT, whole_pool=True, counts_share=False)


def network_faults() -> list[Fault]:
    """Those that need a network of their own."""
    parted = Fault(name="partitioned", begin=part, end=join, out_seconds=2)
    return [
        parted,
        of_pool(replace(parted, name="pool partitioned")),
        Fault(name="DNS emptied", begin=empty_names, end=restore_names, goes_out=False, counts_share=False),
        Fault(name="DNS silent", begin=silence_names, end=restore_names, goes_out=False, counts_share=False),
        # A name is asked for every 3 s.
        Fault(name="leaves DNS", begin=leave_names, end=restore_names, out_seconds=5),
    ]


def disk_faults() -> list[Fault]:
    """Those that need a small disk under the decision log."""
    return [
        Fault(name="disk full", begin=fill, end=make_room, is_whole=log_is_written, goes_out=False, counts_share=False)
    ]


def alias_faults() -> list[Fault]:
    """Those of a fleet whose default is an alias."""
    return [
        Fault(
            name="model swapped",
            version=ALIAS,
            begin=move_alias("promote", CANARY),
            end=move_alias("rollback"),
            is_whole=has_moved,
            goes_out=False,
            counts_share=False,
        )
    ]


def router_faults(name: str) -> list[Fault]:
    """Those of a fleet with two routers."""
    return [Fault(name=name, begin=restart_router, end=nothing, goes_out=False, counts_share=False)]
