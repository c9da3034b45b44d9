"""What honest callers feel while many connections flood a router from their own address, and that these are cut.

`./run prove floods [--seconds S] [--rounds N] [--connections N…] [FLOOD…]` prints a line for each; the suite has a
short form. It holds where 95 % of the honest calls are answered, the flood was cut, and p99 is at most five times the
undisturbed one, which is measured in turn with it. The flood gives way to all else on the machine: attackers would be
on other ones, and what is measured is what the router makes of them.
"""

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from tests.proofs.exactly_once import histories
from tests.support.fleet import ROOT, Fleet, experiments_file
from tests.support.flooder import FLOODS
from tests.support.open_load import OpenLoad, Outcome

VERSION = "v1.2.3"
RATE = 200.0
LEAST_ANSWERED = 0.95
MOST_SLOWER = 5.0
HEAD = f"{'flood':<24}" + "".join(
    f"{name:>10}" for name in ("conns", "calls", "answered", "p50 ms", "p99 ms", "cut", "CPU %", "MB")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Felt:
    """What the honest callers felt."""

    flood: str
    connections: int
    outcomes: Sequence[Outcome]
    cut: int
    """Connections that the router counts as cut for a flood."""
    cpu_share: float
    resident_mb: float

    @property
    def answered(self) -> float:
        """Part of the calls, 0 to 1."""
        return sum(one.status == "OK" for one in self.outcomes) / len(self.outcomes)

    def milliseconds(self, share: float) -> float:
        """A quantile of all calls."""
        found = sorted(one.seconds for one in self.outcomes)
        return 1000 * found[int(len(found) * share)]

    def text(self) -> str:
        """A line of the table."""
        cells = (
            str(self.connections),
            str(len(self.outcomes)),
            f"{100 * self.answered:.1f}%",
            f"{self.milliseconds(0.5):.1f}",
            f"{self.milliseconds(0.99):.0f}",
            str(self.cut),
            f"{100 * self.cpu_share:.0f}",
            f"{self.resident_mb:.0f}",
        )
        return f"{self.flood:<24}" + "".join(f"{cell:>10}" for cell in cells)


def together(parts: Sequence[Felt]) -> Felt:
    """Rounds of the same, as one."""
    return replace(
        parts[0],
        outcomes=[outcome for part in parts for outcome in part.outcomes],
        cut=sum(part.cut for part in parts),
        cpu_share=sum(part.cpu_share for part in parts) / len(parts),
        resident_mb=max(part.resident_mb for part in parts),
    )


def floods_cut(fleet: Fleet) -> int:
    """The router's own count of connections that it has cut for a flood."""
    text = urllib.request.urlopen(f"http://{fleet.metrics_address}/metrics", timeout=20).read().decode()
    found = re.search(r'^abfleet_connections_cut_total\{reason="flood"\} (\S+)', text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def serving(folder: Path) -> Fleet:
    """A router of one version, to be entered."""
    return Fleet(
        folder,
        experiments=experiments_file(),
        versions=(VERSION,),
        transport="native",
        router_flags=("--log-level", "error"),
    )


def run(fleet: Fleet, flood: str | None, connections: int, *, seconds: float, rate: float = RATE) -> Felt:
    """Steady traffic for so long, and the flood beside it from before its first call to after its last."""
    assert fleet.router is not None
    process = psutil.Process(fleet.router.popen.pid)
    before, cpu = floods_cut(fleet), sum(process.cpu_times()[:2])
    command = [
        "nice",
        "-n",
        "19",
        sys.executable,
        "-m",
        "tests.support.flooder",
        str(flood),
        fleet.address,
        str(connections),
    ]
    flooder = subprocess.Popen([*command, str(seconds + 2)], cwd=ROOT, stdout=subprocess.PIPE) if flood else None
    begun = time.monotonic()
    time.sleep(1.0 if flood else 0.0)
    load = OpenLoad(fleet.address, histories(1), rate=rate, prefix=f"flood-{begun}", seed=1)
    try:
        load.run(asyncio.sleep(seconds))
    finally:
        if flooder is not None:
            flooder.communicate(timeout=60)
    return Felt(
        flood=flood or "nothing",
        connections=connections,
        outcomes=load.outcomes,
        cut=floods_cut(fleet) - before,
        cpu_share=(sum(process.cpu_times()[:2]) - cpu) / (time.monotonic() - begun),
        resident_mb=process.memory_info().rss / 1e6,
    )


def main() -> int:
    """All of them, or those that are named."""
    parser = argparse.ArgumentParser(prog="./run prove floods", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of honest calls beside each flood, in each round (2)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of quiet and flood in turn (3)")
    parser.add_argument("--connections", type=int, nargs="+", default=[12, 100], help="that flood together (12, 100)")
    parser.add_argument("flood", nargs="*", help="names of floods (all)")
    got = parser.parse_args()
    if unknown := set(got.flood) - FLOODS.keys():
        parser.error(f"flood: {sorted(unknown)} not known; there are {list(FLOODS)}")
    broken = 0
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name, serving(Path(name)) as fleet:
        fleet.wait_for_serving(VERSION)
        print(HEAD, flush=True)
        for flood in got.flood or FLOODS:
            for connections in got.connections:
                rounds = [
                    (run(fleet, None, 0, seconds=got.seconds), run(fleet, flood, connections, seconds=got.seconds))
                    for _ in range(got.rounds)
                ]
                undisturbed, felt = (together(parts) for parts in zip(*rounds, strict=True))
                slower = felt.milliseconds(0.99) / undisturbed.milliseconds(0.99)
                holds = felt.answered >= LEAST_ANSWERED and felt.cut > 0 and slower <= MOST_SLOWER
                statuses = "" if felt.answered == 1 else str(dict(Counter(one.status for one in felt.outcomes)))
                print(undisturbed.text(), flush=True)
                print(felt.text(), f"  p99 x {slower:.1f}", "" if holds else f"BROKEN {statuses}", flush=True)
                broken += not holds
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
