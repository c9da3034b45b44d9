"""A newcomer's first minutes: clone, empty home, plain pip, `./run up`, the plain call, Ctrl-C, and the same again.

Prints a line for each step with the seconds it took; exit code 1 when a step does not do what the README says. Needs
git, network access to a package index, and this checkout's commits: what is not committed is not in the clone.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub

ROOT = Path(__file__).resolve().parents[2]
HISTORY = (1, 2, 3, 10, 15)
FREE_PORTS = (
    *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
    *("--metrics-port", "0", "--worker-port", "0"),
)
STOP_SECONDS = 5.0


class Wrong(Exception):
    """A step did not do what it should."""


def main() -> int:
    """Runs the proof; 0 when every step held."""
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        folder = Path(name)
        clone, home = folder / "clone", folder / "home"
        home.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        try:
            for number, label in enumerate(("from nothing", "the second time")):
                visit(clone, environment(home), label)
                if number == 0:
                    shutil.rmtree(home)  # nothing outside the checkout is needed again
                    home.mkdir()
            left = leftovers(clone)
            if left:
                raise Wrong(f"left behind in the checkout: {', '.join(left)}")
        except Wrong as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
    print("held")
    return 0


def environment(home: Path) -> dict[str, str]:
    """An empty home, no settings of ours, plain pip without its cache; where packages come from stays."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("ABFLEET_", "XDG_", "VIRTUAL_ENV"))}
    # The clone makes an environment of its own: this one must not be the Python that it finds first.
    ours = str(Path(sys.executable).parent)
    path = os.pathsep.join(part for part in kept["PATH"].split(os.pathsep) if part != ours)
    return {**kept, "HOME": str(home), "PATH": path, "ABFLEET_INSTALLER": "pip", "PIP_NO_CACHE_DIR": "1"}


def visit(clone: Path, settings: dict[str, str], label: str) -> None:
    """`./run up` until ready, one call, and Ctrl-C."""
    began = time.monotonic()
    process = subprocess.Popen(
        [str(clone / "run"), "up", *FREE_PORTS],
        cwd=clone,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("ready "):
                break
        else:
            raise Wrong(f"./run up ended with {process.wait()}:\n{''.join(said[-20:])}")
        print(f"{label}: ready after {time.monotonic() - began:.1f} s")
        call(line.split()[1])
        began = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does: to all in the foreground
        process.stdout.read()
        code, took = process.wait(), time.monotonic() - began
        print(f"{label}: stopped after {took:.1f} s with exit code {code}")
        if code != 0 or took > STOP_SECONDS:
            raise Wrong(
                f"Ctrl-C took {took:.1f} s and gave exit code {code}; at most {STOP_SECONDS:g} s and 0 are right"
            )
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def call(address: str) -> None:
    """The README's call, with a stock client."""
    with grpc.insecure_channel(address) as channel:
        answer = RecommenderStub(channel).Recommend(RecommendRequest(item_ids=HISTORY), timeout=10)
    if len(answer.item_ids) != 10 or set(answer.item_ids) & set(HISTORY):
        raise Wrong(f"the plain call got {list(answer.item_ids)}; ten items that are not in its history are right")
    print(f"the plain call: {list(answer.item_ids)} from {answer.model_version}")


def leftovers(clone: Path) -> list[str]:
    """What git sees in the checkout that was not there, and processes that still run from it."""
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [*status, *(line for line in processes if str(clone) in line)]


if __name__ == "__main__":
    sys.exit(main())
