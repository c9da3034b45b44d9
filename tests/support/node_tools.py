"""Foreign gRPC clients that npm fetched: where they are, or why a test that needs them is skipped."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / ".cache" / "node" / "node_modules"
SECONDS = 60


def buf(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs `buf`, whose `buf curl` stands in for grpcurl, in the repository's folder."""
    program = MODULES / ".bin" / "buf"
    if not program.exists():
        pytest.skip("buf is not here: it comes with ./run node-tools, which needs npm")
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)


def node(script: Path, text: str) -> str:
    """Runs a script of ours with the fetched packages and `text` on stdin; returns what it printed."""
    program = shutil.which("node")
    if program is None or not (MODULES / "@grpc" / "grpc-js").exists():
        pytest.skip("@grpc/grpc-js is not here: it comes with ./run node-tools, which needs npm and node")
    done = subprocess.run(
        [program, str(script)],
        input=text,
        env={**os.environ, "NODE_PATH": str(MODULES)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
