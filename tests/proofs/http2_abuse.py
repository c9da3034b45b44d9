"""What other callers feel while one abuses HTTP/2: their calls, and the router's memory and CPU, on both transports.

`./run prove http2-abuse [--seconds S] [--transport T] [ABUSE…]` prints a line for each; the suite has a short form.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.proofs.exactly_once import histories
from tests.support.abuser import ABUSES
from tests.support.fleet import ROOT, Fleet, experiments_file
from tests.support.open_load import OpenLoad, Outcome

VERSION = "v1.2.3"
NONE = "nothing"
RATE = 200.0
SAMPLE_SECONDS = 0.1
HEAD = f"{'abuse':<20}" + "".join(
    f"{name:>10}" for name in ("calls", "failed", "p50 ms", "p99 ms", "peak MB", "after MB", "CPU %")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Felt:
    """What the others felt."""

    abuse: str
    transport: str
    outcomes: Sequence[Outcome]
    peak_mb: float
    after_mb: float
    cpu_share: float
    answers_after: bool
    """Calls after the abuse were answered."""

    @property
    def failed(self) -> int:
        return sum(one.status != "OK" for one in self.outcomes)

    def statuses(self) -> Counter[str]:
        """How the calls ended."""
        return Counter(one.status for one in self.outcomes)

    def milliseconds(self, share: float) -> float:
        """A quantile of the calls that were answered."""
        found = sorted(one.seconds for one in self.outcomes if one.status == "OK")
        return 1000 * found[int(len(found) * share)] if found else float("nan")

    def text(self) -> str:
        """A line of the table."""
        numbers = (self.peak_mb, self.after_mb, 100 * self.cpu_share)
        cells = (
            *(str(count) for count in (len(self.outcomes), self.failed)),
            f"{self.milliseconds(0.5):.1f}",
            *(f"{number:.0f}" for number in (self.milliseconds(0.99), *numbers)),
        )
        return f"{self.abuse:<20}" + "".join(f"{cell:>10}" for cell in cells)


def run(
    folder: Path,
    abuse: str,
    *,
    transport: str,
    seconds: float,
    flags: Sequence[str] = (),
    rate: float = RATE,
    timeout_seconds: float = 2.0,
) -> Felt:
    """A router of its own, steady traffic of `rate` calls a second, and the abuse beside it for so long."""
    rows = histories(1)
    with Fleet(
        folder,
        experiments=experiments_file(),
        versions=(VERSION,),
        transport=transport,
        router_flags=("--log-level", "error", *flags),
    ) as fleet:
        fleet.wait_for_serving(VERSION)
        assert fleet.router is not None
        process = psutil.Process(fleet.router.popen.pid)
        load = OpenLoad(fleet.address, rows, rate=rate, prefix="abuse", seed=1, timeout_seconds=timeout_seconds)
        marks: list[float] = []
        resident: list[float] = []
        cpu: list[float] = []

        async def story() -> None:
            await asyncio.sleep(1)
            abuser = None
            if abuse != NONE:
                command = [sys.executable, "-m", "tests.support.abuser", abuse, fleet.address, str(seconds)]
                abuser = subprocess.Popen(command, cwd=ROOT)
                await asyncio.sleep(0.5)  # until it runs
            marks.append(time.monotonic())
            cpu.append(sum(process.cpu_times()[:2]))
            while time.monotonic() < marks[0] + seconds:
                resident.append(process.memory_info().rss / 1e6)
                await asyncio.sleep(SAMPLE_SECONDS)
            cpu.append(sum(process.cpu_times()[:2]))
            if abuser is not None:
                await asyncio.to_thread(abuser.wait)
            marks.append(time.monotonic())
            await asyncio.sleep(2)
            resident.append(process.memory_info().rss / 1e6)

        load.run(story())
        during = [one for one in load.outcomes if marks[0] <= one.due < marks[0] + seconds]
        after = [one for one in load.outcomes if one.due >= marks[1] + 1]
        return Felt(
            abuse=abuse,
            transport=transport,
            outcomes=during,
            peak_mb=max(resident),
            after_mb=resident[-1],
            cpu_share=(cpu[1] - cpu[0]) / seconds,
            answers_after=bool(after) and all(one.status == "OK" for one in after),
        )


def main() -> int:
    """All of them on both transports, or those that are named."""
    parser = argparse.ArgumentParser(prog="./run prove http2-abuse", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each abuse (8)")
    parser.add_argument("--transport", choices=("native", "grpcio"), action="append", help="both by default")
    parser.add_argument("abuse", nargs="*", help="names of abuses (all)")
    got = parser.parse_args()
    if unknown := set(got.abuse) - ABUSES.keys():
        parser.error(f"abuse: {sorted(unknown)} not known; there are {list(ABUSES)}")
    broken = 0
    for transport in got.transport or ("native", "grpcio"):
        print(f"{transport}\n{HEAD}", flush=True)
        for abuse in (NONE, *(got.abuse or ABUSES)):
            with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
                felt = run(Path(name), abuse, transport=transport, seconds=got.seconds)
            print(felt.text(), flush=True)
            if felt.failed:
                print(f"  {dict(felt.statuses())}", flush=True)
            if not felt.answers_after:
                broken += 1
                print("  BROKEN: calls fail after the abuse has ended", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
