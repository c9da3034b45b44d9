"""The terminal of `abfleet up` when nobody reads it any more."""

import os
import sys

import pytest
from abfleet_process.standard_output import StandardOutput

from abfleet.up.console import UpConsole


@pytest.mark.parametrize("prepared", [False, True])
def test_a_fleet_outlives_its_reader(monkeypatch: pytest.MonkeyPatch, prepared: bool) -> None:
    """After `abfleet up | head` lines go nowhere, and nothing ends for that; commands that only print would end."""
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stdout", StandardOutput(stream) if prepared else stream)
        console = UpConsole(live=False)
        console.note("ready")
        console.note("more")
        monkeypatch.undo()
        if not prepared:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is left in its buffer
