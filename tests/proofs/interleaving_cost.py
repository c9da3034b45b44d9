"""What an interleaved call costs: processor time of router and workers beside that of a plain call, in turn.

`./run prove interleaving_cost [--rounds N] [--calls N] [--at-once N] [--beside VERSION]` sends calls of users whose
lists are out of two versions, and as many of users who get one version (`--beside`; where it is not given, half of them
each), by turns over the same fleet. Printed are microseconds a call, and the median ratio with its interval (bootstrap
over rounds). It must be at most 2.2.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from abfleet_experiments.assign import Assigner
from abfleet_experiments.file.load import load_text
from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.support.fleet import Fleet, experiments_file, wait_until

VERSIONS = ("v1.2.3", "v1.4.0-rc1")
BOUND = 2.2
DRAWS = 4_000


def file_of(beside: str) -> str:
    """A third of the users get both versions' lists as one, the others one version."""
    shares = {"": (50, 50), VERSIONS[0]: (100, 0), VERSIONS[1]: (0, 100)}[beside]
    groups = [
        {"name": name, "model": version, "weight": share}
        for name, version, share in zip(("control", "treatment"), VERSIONS, shares, strict=True)
    ]
    experiments = [
        {"name": "duel", "interleave": VERSIONS, "traffic": 34},
        {"name": "plain", "groups": groups, "traffic": 66},
    ]
    return json.dumps(json.loads(experiments_file()) | {"experiments": experiments})


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of processor a call."""

    router: float
    workers: float

    @property
    def both(self) -> float:
        return self.router + self.workers


class Caller:
    """Sends calls of one kind of users, so many at once."""

    def __init__(self, fleet: Fleet, stub: Any, text: str, at_once: int) -> None:
        assigner = Assigner(load_text(text), datetime.now(UTC))
        users = [f"user-{number}" for number in range(400)]
        self._users = {
            group: [user for user in users if (assigner.assign(user, {})[0].interleave is not None) is group]
            for group in (True, False)
        }
        assert fleet.router is not None
        self._processes = [psutil.Process(fleet.router.popen.pid)]
        self._processes += [psutil.Process(worker.popen.pid) for worker in fleet.workers.values()]
        self._fleet, self._stub, self._at_once = fleet, stub, at_once
        self._number = 0

    def cost(self, calls: int, *, interleaved: bool) -> Cost:
        """Of so many calls, until their lines are written."""
        before, users = self._spent(), self._users[interleaved]
        under_way: deque[Any] = deque()
        for number in range(calls):
            if len(under_way) >= self._at_once:
                under_way.popleft().result()
            self._number += 1
            call = RecommendRequest(
                item_ids=[1, 2, 50 + number % 900],
                user_id=users[number % len(users)],
                request_id=f"q-{self._number}",
                limit=10,
            )
            under_way.append(self._stub.Recommend.future(call, timeout=30))
        for one in under_way:
            one.result()
        wait_until(lambda: not self._fleet.status().decision_log.buffered, "an empty buffer")
        spent = [(after - begun) / calls * 1e6 for begun, after in zip(before, self._spent(), strict=True)]
        return Cost(spent[0], sum(spent[1:]))

    def _spent(self) -> list[float]:
        """Seconds of each process."""
        return [sum(process.cpu_times()[:2]) for process in self._processes]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures; 1 if the bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--calls", type=int, default=1500)
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--beside", choices=VERSIONS, default="")
    got = parser.parse_args(arguments)
    text = file_of(got.beside)
    with (
        tempfile.TemporaryDirectory() as folder,
        Fleet(Path(folder), experiments=text, versions=VERSIONS) as fleet,
        fleet.stub() as stub,
    ):
        for version in VERSIONS:
            fleet.wait_for_serving(version)
        caller = Caller(fleet, stub, text, got.at_once)
        rounds: list[dict[bool, Cost]] = []
        for number in range(got.rounds + 1):
            kinds = (True, False) if number % 2 else (False, True)
            rounds.append({kind: caller.cost(got.calls, interleaved=kind) for kind in kinds})
    rounds = rounds[1:]  # the first one warms up
    ratios = [one[True].both / one[False].both for one in rounds]
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(DRAWS))
    for kind, name in ((False, "plain"), (True, "interleaved")):
        router = statistics.median(one[kind].router for one in rounds)
        workers = statistics.median(one[kind].workers for one in rounds)
        print(f"{name}: router {router:.0f} µs, workers {workers:.0f} µs a call")
    low, high = medians[DRAWS // 40], medians[-DRAWS // 40]
    ratio = statistics.median(ratios)
    print(f"ratio {ratio:.2f} ({low:.2f} to {high:.2f}), at most {BOUND}, {len(ratios)} rounds")
    return int(ratio > BOUND)


if __name__ == "__main__":
    sys.exit(main())
