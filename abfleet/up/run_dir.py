"""The private folder of one `up`: its fleet file and the logs of its processes."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

KEPT_SECONDS = 24 * 3600.0
"""What an `up` that failed has left is of use for a day."""


@dataclass(slots=True)
class RunDir:
    """The folder of one run, from `open` to the end of its `with`."""

    path: Path
    keep_logs: bool = False
    """Changed by whoever starts processes; else, and once they have ended well, nothing is left behind."""

    @staticmethod
    @contextmanager
    def open(parent: Path) -> "Iterator[RunDir]":
        """Makes `parent/run-PID`, and clears away what earlier runs have left there."""
        _clear(parent, time.time())
        folder = RunDir(parent / f"run-{os.getpid()}")
        shutil.rmtree(folder.path, ignore_errors=True)  # of an earlier process with this number
        folder.path.mkdir(parents=True, mode=0o700)
        try:
            yield folder
        finally:
            if folder.keep_logs:
                for name in ("fleet.yaml", "fleet.new"):
                    (folder.path / name).unlink(missing_ok=True)
            else:
                shutil.rmtree(folder.path, ignore_errors=True)
                with suppress(OSError):
                    parent.rmdir()  # only if it is empty


def _clear(parent: Path, now: float) -> None:
    """Removes folders of processes that have ended a while ago."""
    with suppress(OSError):
        for folder in parent.glob("run-*"):
            number = folder.name.removeprefix("run-")
            if number.isdecimal() and not _runs(int(number)) and now - folder.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _runs(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
