"""The autopilot of one `up`: runs as long as an experiment of the file asks for one.

Nothing waits for it: calls are answered with or without it, and without the key `autopilot` nothing is started.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from abfleet_experiments.config import Config

from abfleet.up.settings import UpSettings
from abfleet.up.supervisor import BackOff, Child, ChildSpec

NEEDS = ("ibis", "duckdb", "pyarrow", "scipy")
"""What the extra `autopilot` brings, by the names under which it is imported."""
BACK_OFF = BackOff(first_seconds=0.5, most_seconds=60.0)


class LocalAutopilot:
    """The process, while one is wanted; changed only on the event loop."""

    def __init__(self, settings: UpSettings, run_dir: Path, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._say = say
        self._told = False
        self.child: Child | None = None

    def follow(self, config: Config) -> None:
        """Starts it once an experiment of the file has the key. Then it stays: without the key it does nothing."""
        if self.child is not None or all(one.autopilot is None for one in config.experiments):
            return
        if missing := [name for name in NEEDS if find_spec(name) is None]:
            if not self._told:
                self._say(
                    f"no autopilot is started: it needs {', '.join(missing)}; run pip install 'abfleet[autopilot]'"
                )
            self._told = True
            return
        self.child = Child(self._spec(), say=self._say, on_line=self._say, back_off=BACK_OFF)
        self.child.start()
        names = ", ".join(one.name for one in config.experiments if one.autopilot is not None)
        self._say(f"the autopilot watches {names}")

    def _spec(self) -> ChildSpec:
        settings = self._settings
        flags = {
            "--logs": settings.log_dir,
            "--experiments": settings.experiments,
            "--fleet": self._run_dir / "fleet.yaml",
            "--metrics-port": "off",
        }
        words = [str(word) for pair in flags.items() for word in pair]
        return ChildSpec(
            name="autopilot",
            command=(sys.executable, "-m", "abfleet_autopilot", *words),
            log_path=self._run_dir / "autopilot.log",
        )

    async def stop(self, grace_seconds: float) -> bool:
        """Stops it; returns whether it had to be killed."""
        return False if self.child is None else await self.child.stop(grace_seconds)
