"""Foreign clients of the Open Inference Protocol: where they are, or why a test that needs them is skipped."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".cache" / "oip" / "bin" / "python"


def triton_python() -> Path:
    """The interpreter that has tritonclient, which needs an older protobuf than ours."""
    if not PYTHON.exists():
        pytest.skip("tritonclient is not here: ./run oip-tools fetches it")
    return PYTHON
