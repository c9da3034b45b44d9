"""The command `abfleet` itself: what it takes to begin."""

import subprocess
import sys

HEAVY = {"duckdb", "grpc", "ibis", "numpy", "onnxruntime", "prometheus_client", "scipy", "structlog", "yaml"}


def test_a_command_imports_what_it_needs_and_no_more() -> None:
    """Every command shares this start, `--help` and a shell's completion too, so it has no library but the parser."""
    code = "import sys, abfleet.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True).stdout
    assert "typer" in loaded.split()
    assert HEAVY & set(loaded.split()) == set()
