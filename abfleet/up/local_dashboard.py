"""The dashboard of one `up`: whether it can be started, its command and its address.

It is started when the fleet is ready, and nothing waits for it: calls are answered with or without it.
"""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from abfleet.up.ports import bind_problem
from abfleet.up.settings import UpSettings
from abfleet.up.supervisor import BackOff, Child, ChildSpec

HOST = "127.0.0.1"
NEEDS = ("starlette", "uvicorn", "jinja2", "ibis", "duckdb", "pyarrow", "scipy")
"""What the extra `dashboard` brings, by the names under which it is imported."""
BACK_OFF = BackOff(first_seconds=0.5, most_seconds=60.0)


class LocalDashboard:
    """The process, or the reason why there is none; changed only on the event loop."""

    def __init__(self, settings: UpSettings, run_dir: Path, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._run_dir = run_dir
        self._say = say
        self._admin = ""
        self._wanted = False
        self.child: Child | None = None

    def prepare(self) -> None:
        """Checks whether it can be started, and says why not. A taken port must not keep the fleet from serving."""
        port = self._settings.dashboard_port
        if port is None:
            return
        missing = [name for name in NEEDS if find_spec(name) is None]
        reason = bind_problem(f"{HOST}:{port}") if port else None
        if missing:
            self._say(
                f"the dashboard is not started: it needs {', '.join(missing)}; run pip install 'abfleet[dashboard]'"
            )
        elif reason is not None:
            self._say(
                f"the dashboard is not started: {HOST}:{port} {reason}; choose another port with --dashboard-port"
            )
        self._wanted = not missing and reason is None

    def address(self) -> str:
        """Its address, also before it listens; empty while its port is not known, and where there is no dashboard."""
        if self.child is not None and self.child.ready_line:
            return self.child.ready_line.split()[1]
        return f"{HOST}:{self._settings.dashboard_port}" if self._wanted and self._settings.dashboard_port else ""

    def start(self, admin: str) -> None:
        """Starts it and keeps it running, if one is wanted; `admin` is the router's admin address."""
        if not self._wanted:
            return
        self._admin = admin
        listen = f"{HOST}:{self._settings.dashboard_port}"
        self.child = Child(self._spec(listen), say=self._say, on_ready=self._on_ready, back_off=BACK_OFF)
        self.child.start()

    def _spec(self, listen: str) -> ChildSpec:
        settings = self._settings
        flags = {
            "--listen": listen,
            "--logs": settings.log_dir,
            "--experiments": settings.experiments,
            "--fleet": self._run_dir / "fleet.yaml",
            "--registry": settings.registry,
            "--router-admin": self._admin,
        }
        words = [str(word) for pair in flags.items() for word in pair]
        return ChildSpec(
            name="dashboard",
            command=(sys.executable, "-m", "abfleet_dashboard", *words),
            log_path=self._run_dir / "dashboard.log",
        )

    def _on_ready(self, child: Child) -> None:
        """Prints the address at each start; a restarted dashboard keeps its address for open browsers."""
        self._say(f"dashboard ready http://{self.address()}/")
        child.spec = self._spec(self.address())

    async def stop(self, grace_seconds: float) -> bool:
        """Stops it; returns whether it had to be killed."""
        return False if self.child is None else await self.child.stop(grace_seconds)
