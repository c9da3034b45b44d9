"""A proof that is told to end ends what it has started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.fleet import ROOT, VERSIONS, wait_until


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_proof_leaves_nothing_behind(ending: signal.Signals, tmp_path: Path) -> None:
    """Neither processes nor files, also where a shell has it in the background and SIGINT is ignored.

    A shell ignores it: a `preexec_fn` would fork this process, which may hang where threads of gRPC run in it.
    """
    command = [sys.executable, "-m", "tests.proofs", "soak", "--minutes", "5", "--rate", "20"]
    proof = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command],
        cwd=ROOT,
        env=dict(os.environ, TMPDIR=str(tmp_path)),
        stdout=subprocess.DEVNULL,
    )
    try:
        fleet = wait_until(lambda: _fleet(proof.pid), "router and workers run", 60)
        proof.send_signal(ending)
        assert proof.wait(timeout=30) == 128 + ending
        end = time.monotonic() + 15
        while any(child.is_running() for child in fleet) and time.monotonic() < end:
            time.sleep(0.05)
        assert [child for child in fleet if child.is_running()] == []
        assert list(tmp_path.iterdir()) == []
    finally:
        if proof.poll() is None:
            proof.kill()
            proof.wait()


def _fleet(pid: int) -> list[psutil.Process]:
    """Router and workers, once all of them are there."""
    children = psutil.Process(pid).children(recursive=True)
    return children if len(children) > len(VERSIONS) else []
