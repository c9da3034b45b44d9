"""SIGKILL before each system call of an act: it is made once, whole, and nobody's edit is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.process import ROOT

PROGRAM = Path(__file__).with_name("killed_act.py")


@pytest.mark.parametrize(
    ("action", "edited"),
    [(action, "never") for action in ("halt", "off", "climb", "conclude")]
    + [("halt", "between"), ("off", "between"), ("climb", "between"), ("halt", "during"), ("climb", "during")],
)
def test_an_act_that_is_killed_is_made_once(action: str, edited: str, tmp_path: Path) -> None:
    """Whatever the point: the file is whole then, and after the next autopilot's start it is done, once."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.autopilot.acting.killed_act", str(tmp_path), action, edited],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(points) > 15
    assert {"exchange", "os.fsync", "os.rename", "os.remove"} <= {point["before"] for point in points}
    for point in points:
        assert point["whole"], point
        assert point["done"], point
        assert point["left"] == [], point
        made = [outcome for outcome in point["outcomes"] if outcome != "given_up"]
        assert len(made) == 1, point
        assert "" not in point["outcomes"], point
        words = 0 if edited == "never" else 1
        # During the act nobody edits where the kill comes before that.
        assert point["words"] == words or (edited == "during" and point["words"] <= 1), point
    assert edited != "during" or points[-1]["words"] == 1
