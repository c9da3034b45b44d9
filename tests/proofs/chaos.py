"""Faults under traffic: replicas die, stop, fail, lie or are cut off, names and disks go; calls do not, and are logged.

Open-loop traffic with different histories goes on all the time, and each answer is compared with what the model that
served says of that very history. `./run prove chaos [--rate R] [--hold SECONDS] [--times N] [--seed N] [--transport T]
[FAULT…]` prints a line for each fault; the suite a few of them, shortly. Without root those that need a network or a
disk of their own are left out, and that is said.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.proofs.chaos_faults import REPLICAS, Fault, is_in, restart_router
from tests.proofs.chaos_stages import Stage, stages
from tests.proofs.exactly_once import expected, histories
from tests.support.fleet import VERSIONS, Fleet
from tests.support.log_books import read_books
from tests.support.open_load import OpenLoad, Outcome

PATIENCE_SECONDS = 15.0
"""For what should take one second; a busy machine is no failure, the measured time may be."""
LOOK_SECONDS = 0.02
BACK_SECONDS = 10.0
HEAD = f"{'fault':<22}" + "".join(
    f"{name:>9}" for name in ("calls", "failed", "fallback", "p99 ms", "out s", "back s", "share", "missing")
)


@dataclass(slots=True)
class Row:
    """What was seen of one fault; times in seconds."""

    fault: Fault
    begun: float = 0.0
    out_at: float = 0.0
    """When the router was seen to have it out, or where it need not, when the fault was there, which takes a moment."""
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
    pool: str = ""
    """What the router said of the pool when its replicas did not come back."""

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


# --- the story --------------------------------------------------------------------------------------------------------


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
    row.out_at = time.monotonic()
    if fault.goes_out:
        row.out = await seconds_until(lambda: not any(is_in(fleet, fault.version, one) for one in fault.replicas))
        row.out_at = time.monotonic()
    await asyncio.sleep(hold_seconds)
    if fault.counts_share:
        seen = [fleet.requests_to(fault.version, number) - came[number] for number in range(REPLICAS)]
        row.share = seen[0] / max(1, sum(seen))
    row.mended = time.monotonic()
    for number in fault.replicas:
        await asyncio.to_thread(fault.end, fleet, fault.version, number)
    row.back = await seconds_until(lambda: all(fault.is_whole(fleet, fault.version, one) for one in fault.replicas))
    if row.back == float("inf"):
        pools = (await asyncio.to_thread(fleet.status)).pools
        told = [line for line in fleet.router_text().splitlines() if fault.version in line]
        row.pool = "\n".join((*(str(pool) for pool in pools if pool.version == fault.version), *told[-30:]))
    await asyncio.sleep(0.5)
    row.ended = time.monotonic()
    return row


def run(folder: Path, stage: Stage, *, rate: float, hold_seconds: float, seed: int, times: int = 1) -> list[Row]:
    """Lets the faults of a stage happen one after another, all of them so many times; checks every answer against its
    model, and the log against the answers."""
    rows = histories(seed)
    right = {version: expected(version, rows) for version in VERSIONS}
    told: list[Row] = []
    with stage.fleet(folder) as fleet:
        for version in stage.versions:
            fleet.wait_for_serving(version, REPLICAS)
        address = stage.address(fleet)
        load = OpenLoad(address, rows, rate=rate, prefix=f"chaos-{seed}", seed=seed, options=stage.options)

        async def story() -> None:
            await asyncio.sleep(1)
            for fault in stage.faults * times:
                told.append(await happens(fleet, fault, hold_seconds))

        try:
            load.run(story())
        finally:
            for worker in fleet.workers.values():
                worker.popen.send_signal(signal.SIGCONT)  # what is stopped does not hear SIGTERM
        fleet.stop()
        for one in load.outcomes:
            assert one.status != "OK" or one.item_ids == right[one.version][one.history], one
        account(told, load.outcomes, fleet.log_dir)
    return [together([row for row in told if row.fault is fault]) for fault in stage.faults]


def together(rows: Sequence[Row]) -> Row:
    """What was seen of one fault that happened more than once: all of its calls, and the worst of its times."""

    def worst(values: Sequence[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    return Row(
        rows[0].fault,
        out=worst([row.out for row in rows]),
        back=worst([row.back for row in rows]),
        share=worst([row.share for row in rows]),
        outcomes=[one for row in rows for one in row.outcomes],
        fallbacks=sum(row.fallbacks for row in rows),
        unassigned_served=sum(row.unassigned_served for row in rows),
        missing=sum(row.missing for row in rows),
        pool="".join(row.pool for row in rows),
    )


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
            row.missing += not found or (len(found) > 1 and row.fault.begin is not restart_router)
            if not found:
                continue
            ended = [line for line in found if line["status"] == one.status]
            # A call that failed may have ended differently here and there: too late for its caller, or cut on its way.
            assert ended or one.status != "OK", (one, found)
            line = (ended or found)[-1]
            row.fallbacks += line["fallback"] is not None
            if one.status == "OK":
                assert any(line["served_version"] == one.version for line in ended), (one, found)
                if line["model_version"] in VERSIONS:  # else it is an alias
                    assert (line["fallback"] is None) == (line["model_version"] == line["served_version"]), found
            if row.out_at < one.due < row.mended - 1 and line["model_version"] == row.fault.version:
                row.unassigned_served += one.version == row.fault.version


def check(row: Row) -> None:
    """What is promised of a fault."""
    fault = row.fault
    assert row.outcomes
    assert row.out is None or row.out < PATIENCE_SECONDS, f"{fault.name}: it was never taken out"
    assert row.back is not None
    assert row.back < PATIENCE_SECONDS, f"{fault.name}: it never came back\n{row.pool}"
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
    parser.add_argument("--hold", type=float, default=12.0, metavar="SECONDS", help="how long each fault lasts (12)")
    parser.add_argument("--times", type=int, default=1, metavar="N", help="how often each happens (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--transport", choices=("native", "grpcio", "auto"), default="auto")
    parser.add_argument("fault", nargs="*", help="names of faults (all)")
    got = parser.parse_args()
    known, missing = stages(got.transport)
    names = {fault.name for stage in known for fault in stage.faults}
    if unknown := set(got.fault) - names:
        parser.error(f"fault: {sorted(unknown)} not known; there are {sorted(names)}")
    for reason in missing:
        print(f"left out: {reason}", file=sys.stderr)
    print(HEAD, flush=True)
    calls = broken = 0
    for stage in known:
        chosen = stage.only(got.fault) if got.fault else stage
        if not chosen.faults:
            continue
        with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
            rows = run(Path(name), chosen, rate=got.rate, hold_seconds=got.hold, seed=got.seed, times=max(1, got.times))
        for row in rows:
            calls += len(row.outcomes)
            print(row.text(), flush=True)
            try:
                check(row)
                check_times(row)
            except AssertionError as error:
                broken += 1
                print(f"  BROKEN: {error}", flush=True)
    print(f"{calls} calls, {broken} promises broken")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
