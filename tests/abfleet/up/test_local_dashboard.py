"""The dashboard of `abfleet up`: where it is, that traffic shows on an open page, and that its death harms nobody."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psutil
import pytest

from abfleet.up import local_dashboard
from abfleet.up.local_dashboard import LocalDashboard
from abfleet.up.settings import UpSettings
from tests.support.browser import chromium, opened, shows
from tests.support.fleet import wait_until
from tests.support.up import ANY_PORTS, Up, run_abfleet, tiny_models

FRESH_SECONDS = 3 * 10.0
"""Three times what is promised: machines that run tests are busy."""


@contextmanager
def a_port() -> Iterator[int]:
    """One that nobody has, and that is let go of at the end of the `with`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        probe.listen()
        yield probe.getsockname()[1]


def local(port: int | None, said: list[str], folder: Path) -> LocalDashboard:
    return LocalDashboard(cast(UpSettings, SimpleNamespace(dashboard_port=port)), folder, said.append)


def test_a_taken_port_is_said_and_the_fleet_goes_on(tmp_path: Path) -> None:
    """No dashboard and no address, and what to change; nothing is said of one that nobody wants."""
    said: list[str] = []
    with a_port() as port:
        found = local(port, said, tmp_path)
        found.prepare()
        assert said == [
            f"the dashboard is not started: 127.0.0.1:{port} is taken; choose another port with --dashboard-port"
        ]
        assert found.address() == ""
        found.start("127.0.0.1:1")
        assert found.child is None
    nobody = local(None, said, tmp_path)
    nobody.prepare()
    assert len(said) == 1
    assert nobody.address() == ""


def test_a_missing_extra_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the analysis is not installed there is no dashboard, and the way to it is named."""
    monkeypatch.setattr(local_dashboard, "NEEDS", ("starlette", "no_such_library"))
    said: list[str] = []
    found = local(0, said, tmp_path)
    found.prepare()
    assert said == ["the dashboard is not started: it needs no_such_library; run pip install 'abfleet[dashboard]'"]


def test_a_wrong_port_is_refused(tmp_path: Path) -> None:
    """Before anything is started."""
    done = run_abfleet("up", "--dashboard-port", "70000", folder=tmp_path)
    assert done.returncode == 2
    assert "--dashboard-port" in done.stderr


@pytest.mark.system
def test_traffic_shows_on_an_open_page_and_a_dead_dashboard_comes_back(tmp_path: Path) -> None:
    """`ready` says the address and does not wait; calls are on the page within seconds; a kill harms no call."""
    with a_port() as port:
        pass
    ports = [*ANY_PORTS[: ANY_PORTS.index("--dashboard-port")], "--dashboard-port", str(port)]
    with chromium() as browser, Up(tmp_path, tiny_models(tmp_path / "models"), ports=ports) as up:
        up.ready()
        assert f" dashboard http://127.0.0.1:{port}/" in up.wait_for("^ready .*").group()
        assert not any(line.startswith("dashboard ready") for line in up.lines), "ready does not wait for it"
        up.wait_for(rf"^dashboard ready http://127.0.0.1:{port}/", 90)
        with opened(browser) as (page, complaints):
            page.goto(f"http://127.0.0.1:{port}/experiments/homepage-ranking")
            call(up, tmp_path, users=300)
            shows(page, "300")
            began = time.monotonic()
            call(up, tmp_path, users=457)
            shows(page, "457")
            assert time.monotonic() - began < FRESH_SECONDS + 10, "10 s are for the calls themselves"
            page.goto(f"http://127.0.0.1:{port}/fleet")
            shows(page, "v1.4.0-rc1")
            assert complaints == []
            up.child("abfleet_dashboard").kill()
            up.wait_for(r"dashboard was ended by SIGKILL; restarting it in 0.5 s")
            call(up, tmp_path, users=10)
            wait_until(lambda: sum(line.startswith("dashboard ready") for line in up.lines) == 2, "ready again", 90)
            page.reload()
            shows(page, "v1.4.0-rc1")
        children = up.children()
        up.interrupt()
        assert up.ended() == 0
        left = psutil.wait_procs(children, timeout=0)[1]
        # What the killed dashboard had started is nobody's child: a zombie until process 1 takes it.
        assert [child for child in left if child.status() != psutil.STATUS_ZOMBIE] == []


def call(up: Up, folder: Path, users: int) -> None:
    """One call for each of user-1 to user-N, which all have to be answered."""
    done = run_abfleet("client", "--address", up.address, "--users", str(users), "--as-real", folder=folder)
    assert done.returncode == 0, done.stderr
