"""The command `abfleet` itself: what it takes to begin, its groups, its versions, and what it writes to."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from abfleet.cli import GROUPS, app
from abfleet_log.writer.sinks import FileSink  # noqa: F401

HEAVY = {
    "duckdb", "grpc", "ibis", "numpy", "onnxruntime", "pandas", "prometheus_client", "pyarrow", "rich", "scipy", "structlog", "yaml"
}
FLEET_LIBRARIES = HEAVY - {"grpc"}
"""What a command that calls a router has no use for either."""
ROOT = Path(__file__).resolve().parents[2]


def loaded_by(code: str) -> set[str]:
    """The top-level packages that a fresh Python has loaded after the code."""
    code += "\nprint('loaded', *sorted({name.partition('.')[0] for name in sys.modules}))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ABFLEET_")}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True, env=environment
    )
    return set(done.stdout.splitlines()[-1].split())
