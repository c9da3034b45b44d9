"""The flags of `abfleet up` as values: what an offset moves, and what the router gets of it."""

from pathlib import Path

import pytest

from abfleet.up.settings import EXIT_USAGE, CannotStart, UpSettings


def test_an_offset_moves_every_fixed_port() -> None:
    """Router, admin, metrics, workers and dashboard, given or by default; those that are any, off or no port stay."""
    moved = UpSettings(port_offset=100).shifted()
    assert (moved.listen, moved.admin_listen) == ("127.0.0.1:50151", "127.0.0.1:50152")
    assert (moved.metrics_port, moved.worker_port, moved.dashboard_port) == ("8100", 50161, 8180)
    assert moved.shifted() == moved, "once"
    assert "127.0.0.1:50151" in moved.router_command(Path("fleet.yaml"))
    given = UpSettings(
        port_offset=100,
        listen="[::1]:1",
        admin_listen="unix:/run/admin:7",
        metrics_port="off",
        worker_port=0,
        dashboard_port=None,
    ).shifted()
    assert (given.listen, given.admin_listen) == ("[::1]:101", "unix:/run/admin:7")
    assert (given.metrics_port, given.worker_port, given.dashboard_port) == ("off", 0, None)
    assert UpSettings(port_offset=100, metrics_port="0", dashboard_port=0).shifted().metrics_port == "0"
    assert UpSettings() == UpSettings().shifted()


def test_an_offset_beyond_the_last_port_is_named() -> None:
    """With every flag that it makes wrong, and exit code 2."""
    with pytest.raises(CannotStart) as refused:
        UpSettings(port_offset=15_000, listen="127.0.0.1:60000", worker_port=65_000).shifted()
    assert refused.value.code == EXIT_USAGE
    assert refused.value.lines == (
        "--port-offset: 15000 makes --listen 75000; allowed: ports up to 65535",
        "--port-offset: 15000 makes --worker-port 80000; allowed: ports up to 65535",
    )
