"""Runs a proof by name, `python -m tests.proofs NAME [ARGUMENTS]`, so that however it is ended nothing stays behind.

SIGTERM and SIGINT leave it through its `with` blocks, which stop what it has started; a shell that runs it in the
background has SIGINT ignored.
"""

import runpy
import signal
import sys
from types import FrameType


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, _stop)
    module = f"tests.proofs.{sys.argv.pop(1)}"
    runpy.run_module(module, run_name="__main__", alter_sys=True)
