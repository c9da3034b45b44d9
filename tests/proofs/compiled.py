"""The compiled wheel does what the sources do: the same tests, the same simulated runs, and each call answered once.

`./run prove compiled [--seeds N] [--fuzz SECONDS] [--environment FOLDER]` builds the wheel, installs it into an
environment of its own and runs all of this there. It needs a C compiler. A change of a compiled module is tried so.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from tests.support import compiled
from tests.support.compiled import ROOT

ROOMS = ("tests/transport", "tests/router", "tests/worker", "tests/simulation")
SYSTEM = (
    "tests/system/test_exactly_once.py",
    "tests/system/test_killed_worker.py",
)
"""Real processes: callers that hang up, workers and routers that are killed."""
WHICH = "from abfleet_process.build_info import build_info; print(build_info())"
REPLACES = "it replaces a constant or a function of a compiled module, which compiled code does not look up again"
RAISES = "it makes a fault by a value of a type that compiled code refuses earlier, or does not have"
_HTTP2 = "tests/transport/http2"
LEFT_OUT = {
    f"{_HTTP2}/test_allowance.py::test_suspects_are_read_from_in_small_parts_and_a_few_at_a_time": REPLACES,
    f"{_HTTP2}/test_allowance.py::test_addresses_are_forgotten": REPLACES,
    f"{_HTTP2}/test_call_queue.py::test_what_cannot_have_its_turn_is_refused_at_once": REPLACES,
    f"{_HTTP2}/test_connection.py::test_messages_that_are_not_whole_are_bounded": REPLACES,
    f"{_HTTP2}/test_connection.py::test_who_does_not_greet_or_take_our_settings_is_cut": REPLACES,
    f"{_HTTP2}/test_connection.py::test_who_does_not_read_is_not_read_from_and_then_cut": REPLACES,
    f"{_HTTP2}/test_connection.py::test_a_mistake_costs_one_connection": RAISES,
    f"{_HTTP2}/test_sender.py::test_a_client_that_answers_no_ping_or_does_not_close": REPLACES,
    "tests/simulation/test_simulation.py::test_old_faults_are_found": REPLACES,
    "tests/simulation/test_simulation.py::test_a_failing_script_is_cut_down": REPLACES,
}
"""Tests that say nothing of the compiled form, and why."""


def main() -> int:
    """All of it; 1 where anything differs or fails."""
    parser = argparse.ArgumentParser(prog="./run prove compiled", description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=200, help="simulated runs that both forms do (200)")
    parser.add_argument("--fuzz", type=float, default=180.0, help="seconds for each target of the codec's fuzz (180)")
    parser.add_argument("--environment", type=Path, help="folder of the environment, which then stays")
    got = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        try:
            python = compiled.environment(got.environment or Path(name) / "compiled")
        except compiled.NotBuilt as error:
            print(error)
            return 1
        print(said(python, "-c", WHICH, environment=compiled.variables()), flush=True)
        failed = [
            what
            for what, holds in (
                ("simulation", same_runs(python, got.seeds)),
                ("tests", passes(python, "-m", "pytest", "-q", *_deselected(), *ROOMS, *SYSTEM)),
                ("codec fuzz", passes(python, "-m", "tests.proofs", "codec_fuzz", str(got.fuzz))),
                ("exactly once", passes(python, "-m", "tests.proofs", "exactly_once")),
            )
            if not holds
        ]
    print(f"failed: {', '.join(failed)}" if failed else "the compiled form does what the plain one does")
    return 1 if failed else 0


def same_runs(python: Path, seeds: int) -> bool:
    """Whether each seed is the same run in both forms, message for message."""
    words = ("-m", "tests.proofs", "simulation", "--digests", "--seeds", str(seeds))
    plain, machine = (
        [line for line in said(one, *words, environment=its).splitlines() if "digest" in line]
        for one, its in ((Path(sys.executable), os.environ), (python, compiled.variables()))
    )
    differ = [pair for pair in zip_longest(plain, machine) if pair[0] != pair[1]]
    print(f"simulation: {len(plain)} seeds, {len(differ)} of them another run than the plain form's", flush=True)
    for pair in differ[:5]:
        print(f"  {pair[0]}; compiled: {pair[1]}")
    return len(plain) == seeds and not differ


def passes(*command: str | Path) -> bool:
    """Runs a program of the environment, which prints what it finds."""
    print("$", *command[1:], flush=True)
    return (
        subprocess.run([str(word) for word in command], cwd=ROOT, env=compiled.variables(), check=False).returncode == 0
    )


def said(*command: str | Path, environment: Mapping[str, str]) -> str:
    """What a program prints, whatever becomes of it."""
    done = subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment, check=False, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


def _deselected() -> Sequence[str]:
    return [word for test in LEFT_OUT for word in ("--deselect", test)]


if __name__ == "__main__":
    raise SystemExit(main())
