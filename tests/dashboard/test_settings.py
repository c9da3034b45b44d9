"""The dashboard's flags: what is allowed, and what off loopback needs more."""

from pathlib import Path

import pytest
from abfleet_dashboard.settings import is_loopback, parse
from abfleet_process.flags import SettingsError


def test_defaults_are_for_one_machine() -> None:
    """Loopback, the folders of `up`, no token."""
    settings = parse([], {})
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.logs == (Path("logs"),)
    assert settings.router_admins == ("127.0.0.1:50052",)
    assert settings.tokens is None


def test_every_flag_is_a_variable_and_the_flag_wins() -> None:
    """`--a-b` is ABFLEET_A_B."""
    environment = {"ABFLEET_LOGS": "a,b", "ABFLEET_ROUTER_ADMIN": "off", "ABFLEET_REFRESH": "5"}
    settings = parse(["--refresh", "7"], environment)
    assert settings.logs == (Path("a"), Path("b"))
    assert settings.router_admins == ()
    assert settings.refresh_seconds == 7


def test_links_are_those_that_were_given() -> None:
    """In their order, with their place for a name."""
    settings = parse(["--traces", "http://t:3200/?q={experiment}"], {"ABFLEET_GRAFANA": "https://g.example.com/d/x"})
    assert [(link.name, link.address) for link in settings.links] == [
        ("Grafana", "https://g.example.com/d/x"),
        ("Traces", "http://t:3200/?q={experiment}"),
    ]
    assert parse([], {}).links == ()


@pytest.mark.parametrize("listen", ["0.0.0.0:8080", "10.1.2.3:80", "[::]:8080", "example.com:80"])
def test_off_loopback_needs_a_decision(listen: str) -> None:
    """Tokens, or the word that anybody may look."""
    with pytest.raises(SettingsError, match=r"not loopback.*--tokens.*--open-dashboard"):
        parse(["--listen", listen], {})
    assert parse(["--listen", listen, "--tokens", "tokens"], {}).tokens == Path("tokens")
    assert parse(["--listen", listen, "--open-dashboard"], {}).tokens is None
    assert parse(["--listen", listen], {"ABFLEET_OPEN_DASHBOARD": "on"}).host in listen


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--listen", "8080"),
        ("--listen", "127.0.0.1:65536"),
        ("--listen", "::1:8080"),
        ("--listen", "unix:/x"),
        ("--logs", "a,,b"),
        ("--router-admin", "nowhere"),
        ("--refresh", "0"),
        ("--memory-limit", "1"),
        ("--allowed-hosts", "a b"),
        ("--allowed-hosts", "example.com:80"),
        ("--log-level", "loud"),
        ("--grafana", "javascript:alert(1)"),
        ("--grafana", "grafana.example.com"),
        ("--traces", "https://"),
        ("--traces", "https://a b"),
    ],
)
def test_wrong_values_are_named(flag: str, value: str) -> None:
    """The flag, the value, and what is allowed."""
    with pytest.raises(SettingsError) as caught:
        parse([flag, value], {})
    assert flag in str(caught.value)
    assert "allowed" in str(caught.value) or "must not" in str(caught.value)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("localhost.example", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    """Addresses of this machine alone, and its one name."""
    assert is_loopback(host) is expected


def test_actions_are_looked_for_beside_the_log(tmp_path: Path) -> None:
    """In the folders of the log, there or not yet, whatever their names, and in none of its files; or where told."""
    folder, file, later = tmp_path / "logs.d", tmp_path / "one.jsonl", tmp_path / "later"
    folder.mkdir()
    file.touch()
    assert parse(["--logs", f"{folder},{file},{later}"], {}).actions == (folder, later)
    assert parse(["--logs", str(folder), "--actions", str(later)], {}).actions == (later,)
