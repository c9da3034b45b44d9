"""Faults under traffic: replicas die, stop, slow down, fail, talk garbage or lie; no call is lost, each is logged.

Open-loop traffic with different histories goes on all the time, and each answer is compared with what the model that
served says of that very history. `./run prove chaos [--rate R] [--hold SECONDS] [--seed N] [--transport T] [FAULT…]`
prints a line for each fault; the suite a few of them, shortly.
"""

import argparse
import asyncio
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from abfleet.client import SERVICE_CONFIG
from tests.proofs.exactly_once import expected, histories
from tests.support.fleet import VERSIONS, Fleet, experiments_file
from tests.support.log_books import read_books
from tests.support.open_load import OpenLoad, Outcome

DEFAULT, TREATMENT, CANARY = VERSIONS
REPLICAS = 2
PATIENCE_SECONDS = 15.0
"""For what should take one second; a busy machine is no failure, the measured time may be."""
LOOK_SECONDS = 0.02
BACK_SECONDS = 10.0
RESILIENT = (
    ("grpc.service_config", json.dumps({**json.loads(SERVICE_CONFIG), "loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.enable_retries", 1),
    ("grpc.default_authority", "router"),  # else it would be the list of addresses, which is none
)
"""Options of a channel over several routers."""
HEAD = f"{'fault':<22}" + "".join(
    f"{name:>9}" for name in ("calls", "failed", "fallback", "p99 ms", "out s", "back s", "share", "missing")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that happens to a fleet and is mended again."""

    name: str
    version: str
    whole_pool: bool = False
    """Every replica of the version has it; else the first."""
    begin: Callable[[Fleet, str, int], None]
    end: Callable[[Fleet, str, int], None]
    goes_out: bool = True
    """The router must take the replica out; else it may go on using it."""
    out_seconds: float = 1.0
    """In which it must."""

    @property
    def replicas(self) -> range:
        return range(REPLICAS if self.whole_pool else 1)


@dataclass(slots=True)
class Row:
    """What was seen of one fault; times in seconds."""

    fault: Fault
    begun: float = 0.0
    out_at: float = 0.0
    """When the router was seen to have it out; later than `begun` and `out` together: a fault takes time to begin."""
    mended: float = 0.0
    ended: float = 0.0
    out: float | None = None
    """From the fault until nobody is sent there."""
    back: float | None = None
    """From the mending until it may get calls again."""
    share: float | None = None
    """Of the pool's requests that came to the faulty replica while it was faulty; half would be its due."""
    outcomes: list[Outcome] = field(default_factory=list)
    fallbacks: int = 0
    unassigned_served: int = 0
    """Calls of the version in question that were due while its pool was out, and that the version served."""
    missing: int = 0

    @property
    def failed(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.status != "OK"]

    def text(self) -> str:
        """A line of the table."""

        def shown(value: float | None) -> str:
            return "-" if value is None else f"{value:.2f}"

        cells = (
            *(str(count) for count in (len(self.outcomes), len(self.failed), self.fallbacks)),
            f"{worst_p99(self.outcomes) * 1000:.0f}",
            *(shown(value) for value in (self.out, self.back, self.share)),
            str(self.missing),
        )
        return f"{self.fault.name:<22}" + "".join(f"{cell:>9}" for cell in cells)


def worst_p99(outcomes: Sequence[Outcome]) -> float:
    """The largest 99th percentile of any second of calls that were answered."""
    seconds: dict[int, list[float]] = {}
    for one in outcomes:
        if one.status == "OK":
            seconds.setdefault(int(one.due), []).append(one.seconds)
    return max((sorted(of)[len(of) * 99 // 100] for of in seconds.values() if len(of) >= 50), default=0.0)


# --- the faults -------------------------------------------------------------------------------------------------------


def kill(fleet: Fleet, version: str, number: int) -> None:
    fleet.workers[version, number].kill()


def restart(fleet: Fleet, version: str, number: int) -> None:
    fleet.restart_worker(version, number)


def stop(fleet: Fleet, version: str, number: int) -> None:
    fleet.workers[version, number].popen.send_signal(signal.SIGSTOP)


def go_on(fleet: Fleet, version: str, number: int) -> None:
    fleet.workers[version, number].popen.send_signal(signal.SIGCONT)


def bent(**how: object) -> Callable[[Fleet, str, int], None]:
    """Begins to misbehave as `tests.support.bent_worker` knows."""
    return lambda fleet, version, number: fleet.bend(version, number, **how)


def straight(fleet: Fleet, version: str, number: int) -> None:
    fleet.bend(version, number)


def leave(fleet: Fleet, version: str, number: int) -> None:
    """The fleet file does not name it any more."""
    gone = fleet.worker_addresses[version, number]
    fleet.write_fleet(
        {v: [a for (of, _), a in fleet.worker_addresses.items() if of == v and a != gone] for v in VERSIONS}
    )


def come_back(fleet: Fleet, version: str, number: int) -> None:
    fleet.write_fleet()


def edit(fleet: Fleet, version: str, number: int) -> None:
    """Other weights are in force."""
    fleet.edit(experiments_file(40, 35, 25))


def edit_back(fleet: Fleet, version: str, number: int) -> None:
    fleet.edit(experiments_file())


def restart_router(fleet: Fleet, version: str, number: int) -> None:
    """SIGTERM, and another at the same address; callers know a second one."""
    assert fleet.router is not None
    assert fleet.router.stop() == 0
    fleet.start_router()


def nothing(fleet: Fleet, version: str, number: int) -> None:
    """Mended already."""


ROUTER_RESTARTED = Fault(name="router restarted", version=DEFAULT, begin=restart_router, end=nothing, goes_out=False)


def faults() -> list[Fault]:
    """All of them; the default's pool is first, because nothing stands behind it."""
    one = [
        Fault(name="killed", version=DEFAULT, begin=kill, end=restart),
        Fault(name="stopped", version=DEFAULT, begin=stop, end=go_on, out_seconds=2),
        Fault(name="hangs", version=DEFAULT, begin=bent(hang=True), end=straight),
        Fault(name="slow by 200 ms", version=DEFAULT, begin=bent(delay_s=0.2), end=straight, goes_out=False),
        Fault(name="fails 30 %", version=DEFAULT, begin=bent(fail_share=0.3), end=straight, goes_out=False),
        Fault(name="fails every request", version=DEFAULT, begin=bent(fail_share=1.0), end=straight),
        Fault(name="refuses every batch", version=DEFAULT, begin=bent(fail_calls=True), end=straight),
        Fault(name="garbage", version=DEFAULT, begin=bent(garbage=True), end=straight),
        Fault(name="wrong version", version=DEFAULT, begin=bent(says="v9"), end=straight),
        Fault(name="leaves the fleet file", version=DEFAULT, begin=leave, end=come_back, out_seconds=2),
        Fault(name="weights edited", version=DEFAULT, begin=edit, end=edit_back, goes_out=False),
    ]
    whole = [
        Fault(name="pool killed", version=TREATMENT, begin=kill, end=restart, whole_pool=True),
        Fault(name="pool stopped", version=TREATMENT, begin=stop, end=go_on, whole_pool=True, out_seconds=2),
        Fault(name="pool hangs", version=TREATMENT, begin=bent(hang=True), end=straight, whole_pool=True,
              goes_out=False),
        Fault(name="pool fails", version=TREATMENT, begin=bent(fail_share=1.0), end=straight, whole_pool=True,
              goes_out=False),
        Fault(name="pool of garbage", version=TREATMENT, begin=bent(garbage=True), end=straight, whole_pool=True,
              goes_out=False),
    ]  # fmt: skip
    return one + whole


# --- the story --------------------------------------------------------------------------------------------------------


def is_in(fleet: Fleet, version: str, number: int) -> bool:
    """Whether the router may send it calls."""
    address = fleet.worker_addresses[version, number]
    pool = next(pool for pool in fleet.status()["pools"] if pool["version"] == version)
    return any(one["address"] == address and one["in"] for one in pool["replicas"])


async def seconds_until(condition: Callable[[], bool]) -> float:
    """How long it took; infinity when it did not come true."""
    begun = time.monotonic()
    while not await asyncio.to_thread(condition):
        if time.monotonic() - begun > PATIENCE_SECONDS:
            return float("inf")
        await asyncio.sleep(LOOK_SECONDS)
    return time.monotonic() - begun


async def happens(fleet: Fleet, fault: Fault, hold_seconds: float) -> Row:
    """One fault from its beginning until the fleet is whole again."""
    row = Row(fault)
    came = [fleet.requests_to(fault.version, number) for number in range(REPLICAS)]
    row.begun = time.monotonic()
    for number in fault.replicas:
        await asyncio.to_thread(fault.begin, fleet, fault.version, number)
    if fault.goes_out:
        row.out = await seconds_until(lambda: not any(is_in(fleet, fault.version, one) for one in fault.replicas))
        row.out_at = time.monotonic()
    await asyncio.sleep(hold_seconds)
    if fault.begin not in (kill, edit, restart_router) and not fault.whole_pool:
        seen = [fleet.requests_to(fault.version, number) - came[number] for number in range(REPLICAS)]
        row.share = seen[0] / max(1, sum(seen))
    row.mended = time.monotonic()
    for number in fault.replicas:
        await asyncio.to_thread(fault.end, fleet, fault.version, number)
    row.back = await seconds_until(lambda: all(is_in(fleet, fault.version, one) for one in fault.replicas))
    await asyncio.sleep(0.5)
    row.ended = time.monotonic()
    return row


def run(
    folder: Path,
    chosen: Sequence[Fault],
    *,
    rate: float,
    hold_seconds: float,
    seed: int,
    transport: str = "auto",
    two_routers: bool = False,
) -> list[Row]:
    """Lets them happen one after another; checks every answer against its model, and the log against the answers.

    Callers do not send again what failed, unless there are `two_routers`: then they have the retry policy that ships.
    """
    rows = histories(seed)
    right = {version: expected(version, rows) for version in VERSIONS}
    told: list[Row] = []
    with Fleet(folder, experiments=experiments_file(), replicas=REPLICAS, transport=transport, bent=True) as fleet:
        for version in VERSIONS:
            fleet.wait_for_serving(version, REPLICAS)
        address, options = fleet.address, ()
        if two_routers:
            address, options = f"ipv4:{address},{fleet.start_another_router()[0]}", RESILIENT
        load = OpenLoad(address, rows, rate=rate, prefix=f"chaos-{seed}", seed=seed, options=options)

        async def story() -> None:
            await asyncio.sleep(1)
            for fault in chosen:
                told.append(await happens(fleet, fault, hold_seconds))

        try:
            load.run(story())
        finally:
            for worker in fleet.workers.values():
                worker.popen.send_signal(signal.SIGCONT)  # what is stopped does not hear SIGTERM
    for one in load.outcomes:
        assert one.status != "OK" or one.item_ids == right[one.version][one.history], one
    account(told, load.outcomes, folder / "logs")
    return told


def account(told: Sequence[Row], outcomes: Sequence[Outcome], log_dir: Path) -> None:
    """Gives each fault its calls and what the log says of them."""
    lines: dict[str, list[dict[str, object]]] = {}
    for line in read_books(log_dir).lines:
        if line["event"] == "exposure":
            lines.setdefault(line["request_id"], []).append(line)
    for row in told:
        row.outcomes = [one for one in outcomes if row.begun <= one.due < row.ended]
        for one in row.outcomes:
            found = lines.get(one.request_id, [])
            # A call that was sent again to another router may have a line of each, under the same id.
            row.missing += not found or (len(found) > 1 and row.fault is not ROUTER_RESTARTED)
            if not found:
                continue
            ended = [line for line in found if line["status"] == one.status]
            assert ended or one.status == "DEADLINE_EXCEEDED", (one, found)  # the last answer may have come too late
            line = (ended or found)[-1]
            row.fallbacks += line["fallback"] is not None
            if one.status == "OK":
                assert any(line["served_version"] == one.version for line in ended), (one, found)
                assert (line["fallback"] is None) == (line["model_version"] == line["served_version"]), found
            out_since = row.out_at or row.begun
            if out_since < one.due < row.mended - 1 and line["model_version"] == row.fault.version:
                row.unassigned_served += one.version == row.fault.version


def check(row: Row) -> None:
    """What is promised of a fault."""
    fault = row.fault
    assert row.outcomes
    assert row.out is None or row.out < PATIENCE_SECONDS, f"{fault.name}: it was never taken out"
    assert row.back is not None
    assert row.back < PATIENCE_SECONDS, f"{fault.name}: it never came back"
    assert not row.failed, (fault.name, Counter((one.status, one.details) for one in row.failed))
    assert row.missing == 0, fault.name
    if fault.whole_pool:
        assert row.fallbacks
        assert row.unassigned_served == 0, f"{fault.name}: its pool was out, and all is fallback"
    if row.share is not None:
        assert row.share < 0.55, f"{fault.name}: more than its share"


def check_times(row: Row) -> None:
    """What is promised of a machine that is not busy with anything else."""
    assert row.out is None or row.out <= row.fault.out_seconds, f"out after {row.out:.2f} s"
    assert row.back is not None
    assert row.back <= BACK_SECONDS, f"back after {row.back:.2f} s"


def main() -> int:
    """All faults at full length, or those that are named, on one transport."""
    parser = argparse.ArgumentParser(prog="./run prove chaos", description=__doc__.partition("\n")[0])
    parser.add_argument("--rate", type=float, default=400.0, metavar="CALLS", help="calls a second (400)")
    parser.add_argument("--hold", type=float, default=15.0, metavar="SECONDS", help="how long each fault lasts (15)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transport", choices=("native", "grpcio", "auto"), default="auto")
    parser.add_argument("fault", nargs="*", help="names of faults (all)")
    got = parser.parse_args()
    chosen = [fault for fault in faults() if not got.fault or fault.name in got.fault]
    more = [ROUTER_RESTARTED] if not got.fault or ROUTER_RESTARTED.name in got.fault else []
    told: list[Row] = []
    for some in filter(None, (chosen, more)):
        with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
            told += run(
                Path(name), some, rate=got.rate, hold_seconds=got.hold, seed=got.seed, transport=got.transport,
                two_routers=some is more,
            )  # fmt: skip
    print(HEAD)
    broken = 0
    for row in told:
        print(row.text(), flush=True)
        try:
            check(row)
            check_times(row)
        except AssertionError as error:
            broken += 1
            print(f"  BROKEN: {error}", flush=True)
    print(f"{sum(len(row.outcomes) for row in told)} calls, {broken} promises broken")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
