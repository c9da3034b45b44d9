"""A service that has the client's wheel and nothing else of abfleet loses nothing while its router is restarted.

The wheel is built and put into an environment of its own, beside grpcio and protobuf alone. In it a service calls a
router from threads and from an event loop, and records an outcome after each answer. Meanwhile the one router that
there is gets SIGTERM, is away for a while, and is started again on the same port; again and again. No call may fail,
every outcome is in the log, and none is there twice. `./run prove client --seconds N` does so for N seconds on each
transport; the suite for a few restarts.
"""

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.fleet import VERSIONS, Fleet, experiments_file
from tests.support.process import ROOT

SERVICE = ROOT / "tests" / "support" / "client_service.py"
LONGEST_GAP_SECONDS = 2.0
"""Between a router's end and the start of the next."""


def main() -> int:
    """Runs it on both transports."""
    parser = argparse.ArgumentParser(prog="./run prove client", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="for each transport")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        python = environment(Path(name))
        for transport in ("native", "grpcio"):
            folder = Path(name) / transport
            folder.mkdir()
            with restartable(folder, transport) as fleet:
                end = time.monotonic() + options.seconds
                said = nothing_is_lost(fleet, python, lambda _, end=end: time.monotonic() < end)
                print(f"{transport}: {said}", flush=True)
    return 0


def restartable(folder: Path, transport: str) -> Fleet:
    """A fleet whose log stays readable however often a router closes it, and whose port nobody takes meanwhile."""
    flags = ("--log-compress", "none")
    fleet = Fleet(folder, experiments=experiments_file(), transport=transport, router_flags=flags)
    fleet.address = f"127.0.0.1:{lasting_port()}"
    return fleet


def lasting_port() -> int:
    """A free port below those that systems give to whoever asks for any: such a one may be gone in the gap."""
    for _ in range(1000):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port from 20000 to 31999")


def environment(folder: Path) -> Path:
    """An environment with the client's wheel, grpcio, protobuf and what these need; its interpreter."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "dist")]
    for command in (build, [sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")]):
        subprocess.run(command, cwd=ROOT / "protos", check=True, capture_output=True, timeout=120)
    python = folder / "venv" / "bin" / "python"
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    here, there = (
        Path(subprocess.run([one, "-c", purelib], check=True, capture_output=True, text=True).stdout.strip())
        for one in (sys.executable, python)
    )
    for name in ("grpc", "google", "typing_extensions.py"):
        (there / name).symlink_to(here / name)
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:  # which is how a wheel without compiled parts is installed
        archive.extractall(there)
    return python


@contextlib.contextmanager
def service(fleet: Fleet, python: Path) -> Iterator["subprocess.Popen[str]"]:
    """The service, once each of its callers has been answered."""
    with (fleet.folder / "service.stderr").open("w") as errors:
        process = subprocess.Popen(
            [python, SERVICE, fleet.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=fleet.folder,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        )
        try:
            assert process.stdout is not None
            begun = process.stdout.readline()
            assert begun == "begun\n", (fleet.folder / "service.stderr").read_text()[-2000:]
            yield process
        finally:
            process.kill()
            process.communicate()


def nothing_is_lost(
    fleet: Fleet,
    python: Path,
    goes_on: Callable[[int], bool],
    *,
    longest_gap_seconds: float = LONGEST_GAP_SECONDS,
    calls_between: int = 500,
) -> str:
    """See the module's first words; says what was seen. `goes_on`: whether there is another restart, after so many;
    `calls_between`: calls that are answered before it."""
    draw = random.Random(1)
    for version in VERSIONS:
        fleet.wait_for_serving(version)
    restarts, gaps = 0, 0.0
    with service(fleet, python) as process:
        while goes_on(restarts):
            assert fleet.router is not None
            assert fleet.router.stop() == 0
            begun = time.monotonic()
            time.sleep(draw.uniform(0, longest_gap_seconds))
            fleet.start_router()
            gaps = max(gaps, time.monotonic() - begun)
            restarts += 1
            fleet.exposures(len(exposed(fleet)) + calls_between, seconds=60)
        out, _ = process.communicate("stop\n", timeout=180)
        assert process.returncode == 0, (fleet.folder / "service.stderr").read_text()[-2000:]
    return _judged(fleet, json.loads(out), f"{restarts} restarts, at most {gaps:.1f} s without a router")


def exposed(fleet: Fleet) -> list[dict[str, Any]]:
    """The log's exposures so far."""
    return [line for line in fleet.log() if line["event"] == "exposure"]


def _judged(fleet: Fleet, found: dict[str, Any], restarts: str) -> str:
    callers, tallies = found["callers"], found["tallies"]
    failed = [error for one in callers for error in one["failed"]]
    assert failed == [], failed[:5]
    wanted = {f"{one['name']}-{number}" for one in callers for number in range(one["answered"])}
    outcomes = Counter(line["outcome_id"] for line in fleet.log() if line["event"] == "outcome")
    assert outcomes.keys() == wanted, (len(outcomes), len(wanted))
    assert set(outcomes.values()) == {1}, outcomes.most_common(3)
    totals = {name: sum(tally[name] for tally in tallies) for name in tallies[0]}
    assert (totals["rejected"], totals["lost"]) == (0, 0), totals
    assert totals["accepted"] + totals["duplicate"] == len(wanted), totals
    exposures = Counter(line["request_id"] for line in exposed(fleet) if line["status"] == "OK")
    assert exposures.keys() == wanted
    slowest = max(one["slowest_seconds"] for one in callers)
    return (
        f"{restarts}; {len(wanted)} calls, 0 failed, the slowest {slowest:.1f} s; {len(outcomes)} outcomes in the log, "
        f"0 lost, 0 doubled ({totals['retries']} batches sent again); "
        f"{exposures.total() - len(exposures)} answered calls have a second line under their request id"
    )


if __name__ == "__main__":
    raise SystemExit(main())
