"""The data path on simulated machines: seeds, the same again each time, and faults of the past that they must find."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.old_faults import OLD_FAULTS, put_back
from tests.simulation.script import FINAL, Fault, Phase, Script, loads, script_of
from tests.simulation.shrink import kind_of, shorter_ones, shrink
from tests.simulation.simulation import run

ROOT = Path(__file__).resolve().parents[2]
SEEDS, SECONDS = range(1000), 6.0
"""As many of the seeds as the processor does in so many seconds; `./run prove simulation` does more."""
FLAGS = ("--max-batch", "4", "--max-in-flight", "1", "--log-policy", "keep_serving", "--log-rotate-bytes", "20000")


def script(*faults: Fault, replicas: tuple[int, ...] = (1, 2, 2), phases: tuple[Phase, ...] = ()) -> Script:
    """One router, models of 40 ms, a few calls all the time, and many of them around each fault."""
    around = tuple(Phase(fault.at - 0.1, 1.0, 40) for fault in faults)
    return Script("told", 1, replicas, (40.0, 40.0, 40.0), FLAGS, faults, (Phase(3.0, FINAL, 200), *around, *phases))


def test_seeds() -> None:
    """Whatever goes wrong: one answer and one line a call, its own items, one group a user, nothing refused when
    nothing waits, no call lost that somebody could answer, and everything well again soon after."""
    begun = time.process_time()
    for seed in SEEDS:
        outcome = run(script_of(seed))
        assert outcome.broken == [], f"./run prove simulation --seeds 1 --from {seed}"
        if time.process_time() - begun > SECONDS:
            break


def test_scripts_are_what_they_should_be() -> None:
    """Each has at least a minute, 200 calls and three faults."""
    for seed in range(300):
        made = script_of(seed)
        assert made.end >= 60
        assert len(made.faults) >= 3
        assert sum(phase.calls for phase in made.phases) >= 200
        assert loads(made.dumps()) == made


def test_the_same_seed_is_the_same_run() -> None:
    """Byte for byte: twice in a process, and in another one, with other hashes."""
    code = "from tests.simulation.script import *; from tests.simulation.simulation import run; "
    code += "print(run(script_of(14)).digest)"
    ours = [run(script_of(seed)).digest for seed in (14, 8, 14)]
    assert ours[0] == ours[2] != ours[1]
    said = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.split() == ours[:1]


TELLING = {
    "an idle router goes on refusing after an overload": script(
        Fault(9.5, "slow_model", 5.0, 0, 5.0), Fault(10.0, "flood", 1.0, 0, 500.0)
    ),
    "a batch that is given up stays in flight": script(),
    "the bytes of a call that leaves the queue stay counted": script(Fault(10.0, "stop_worker", 2.0, 0)),
    "a health watch that ends is not begun again": script(Fault(10.0, "end_watch", 0.0, 1)),
    "a worker is out when its health watch ends": script(Fault(10.0, "end_watch", 0.0, 0)),
    "a worker is out when it resets a stream": script(Fault(10.0, "reset_stream", 0.0, 0, 8.0)),
    "a worker is out when it says goodbye to a connection": script(
        Fault(10.0, "goaway", 0.0, 0), phases=(Phase(9.99, 0.03, 30),)
    ),
    "a caller who leaves is logged twice": script(),
    "lines that a full disk did not take are lost uncounted": script(Fault(10.0, "disk_full", 1.0)),
    "a server that drains says nothing to its clients": script(Fault(10.0, "end_router", 1.0)),
    "a failed call never goes to another replica": script(Fault(10.0, "fail_model", 2.0, 0, 1.0), replicas=(2, 2, 2)),
}
"""For each old fault a script that meets it, so that no seeds need to be searched."""


@pytest.mark.parametrize("name", sorted(OLD_FAULTS))
def test_old_faults_are_found(name: str) -> None:
    """With its mend taken out, an invariant is broken; with it, none."""
    telling = TELLING[name]
    assert run(telling).broken == []
    with put_back(name):
        assert run(telling).broken != []


def test_a_failing_script_is_cut_down() -> None:
    """To the one fault that matters and few calls, and it can be written down and run again."""
    long = script(Fault(8.0, "clock", 0.0, 0, 60.0), Fault(14.0, "disk_full", 0.1), Fault(20.0, "end_watch", 0.0, 2))
    with put_back("lines that a full disk did not take are lost uncounted"):
        broken = run(long).broken
        short = shrink(long, broken[0], lambda shorter: run(shorter).broken)
        assert [kind_of(one) for one in run(loads(short.dumps())).broken] == [kind_of(broken[0])]
    assert [fault.kind for fault in short.faults] == ["disk_full"]
    assert sum(phase.calls for phase in short.phases) <= 10


def test_a_shorter_script_of_one_router_has_no_fault_of_another() -> None:
    """What was done to the second of two is then done to the first; a worker keeps its number."""
    faults = (Fault(8.0, "flood", 0.3, 1, 100.0), Fault(9.0, "kill_worker", 0.3, 3))
    two = replace(script(*faults), routers=2)
    (one,) = (shorter for shorter in shorter_ones(two) if shorter.routers == 1)
    assert [fault.target for fault in one.faults] == [0, 3]
