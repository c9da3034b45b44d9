"""Every flag of the dashboard, with its default."""

import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from abfleet_process import server_flags
from abfleet_process.addresses import ADMIN_ADDRESS
from abfleet_process.flags import Flags, SettingsError, real, text, whole
from abfleet_process.log_levels import LogFormat

from abfleet_dashboard.views.links_view import PLACE, OutsideLink

LEAST_MEMORY = 64 * 1024 * 1024
MAX_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardSettings:
    """The flags of one dashboard process, parsed."""

    host: str
    port: int
    """0: any free one."""
    logs: tuple[Path, ...]
    actions: tuple[Path, ...]
    """Folders in which the autopilot writes what it does."""
    experiments: Path
    fleet: Path | None
    router_admins: tuple[str, ...]
    """`HOST:PORT` of each router whose state is shown; none: no fleet is shown."""
    registry: Path
    refresh_seconds: float
    memory_limit_bytes: int
    tokens: Path | None
    """The hashed tokens of those who may see it; None: whoever reaches the port."""
    token_file: Path | None
    """The token with which routers are asked."""
    links: tuple[OutsideLink, ...]
    """To Grafana and traces, of those that were given."""
    allowed_hosts: tuple[str, ...]
    log_level: str
    log_format: LogFormat


def declared(environment: Mapping[str, str] = os.environ) -> Flags:
    """All flags, with the defaults that the environment gives. Raises SettingsError."""
    flags = Flags(
        "abfleet dashboard",
        "Show what the log says of each experiment, and how the fleet is, as pages in a browser.",
        "abfleet dashboard --logs logs --experiments experiments/recommender.yaml",
        environment,
    )
    add = flags.add
    flags.group("What it shows, and where")
    add("listen", host_and_port, "127.0.0.1:8080", "HOST:PORT", "where to serve; port 0: any free one")
    add("logs", paths, "logs", "PATH[,PATH]", "folders and files of the decision log")
    add("actions", str, "", "DIR", "folder of what the autopilot has done; empty: those of the log")
    server_flags.add_fleet(flags, "the experiments file, followed while it runs")
    add("router-admin", addresses, ADMIN_ADDRESS, "HOST:PORT[,…]", "admin ports of the routers; off: none")
    add("registry", Path, "models", "DIR", "the model registry, for offline metrics")
    add("refresh", real(0.2, 3600), "2", "SECONDS", "least time between polls of log and routers")
    add(
        "memory-limit", whole(LEAST_MEMORY, 2**50), f"{2**30}", "BYTES", "of the analysis; what needs more goes to disk"
    )
    flags.group("Links to other pages")
    add("grafana", address, "", "URL", f"where Grafana is; {PLACE} in it is the experiment's name")
    add("traces", address, "", "URL", f"where traces are shown; {PLACE} in it is the experiment's name")
    flags.group("Access")
    add("tokens", str, "", "FILE", "hashed tokens of those who may see it; scope dashboard")
    add("token-file", str, "", "FILE", "the token with which routers are asked")
    add("allowed-hosts", names, "", "NAME[,NAME]", "names under which browsers may ask, beside localhost and addresses")
    flags.switch("open-dashboard", "off loopback, show everything to anybody")
    flags.group("Operational log")
    server_flags.add_logging(flags)
    return flags


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> DashboardSettings:
    """Reads flags and environment. Raises SettingsError; `--help` raises SystemExit(0) as argparse does."""
    got = declared(environment).parse(arguments)
    host, port = got.listen
    if not (is_loopback(host) or got.tokens or got.open_dashboard):
        raise SettingsError(
            f"--listen (ABFLEET_LISTEN): {host[:64]!r} is not loopback, so that others may look; "
            "allowed with --tokens FILE, or with --open-dashboard"
        )
    return DashboardSettings(
        host=host,
        port=port,
        logs=got.logs,
        actions=(Path(got.actions),) if got.actions else tuple(path for path in got.logs if not path.is_file()),
        experiments=got.experiments,
        fleet=Path(got.fleet) if got.fleet else None,
        router_admins=got.router_admin,
        registry=got.registry,
        refresh_seconds=got.refresh,
        memory_limit_bytes=got.memory_limit,
        tokens=Path(got.tokens) if got.tokens else None,
        token_file=Path(got.token_file) if got.token_file else None,
        links=tuple(OutsideLink(name, to) for name, to in (("Grafana", got.grafana), ("Traces", got.traces)) if to),
        allowed_hosts=got.allowed_hosts,
        log_level=got.log_level,
        log_format=cast(LogFormat, got.log_format),
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it; a name other than `localhost` may be anybody's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_and_port(value: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, IPv6 in brackets. Raises ValueError with what is allowed."""
    host, separator, port = value.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host == f"[{bare}]"
    if not separator or not bare or (":" in bare) != bracketed or not port.isdecimal() or int(port) > MAX_PORT:
        raise ValueError(f"allowed is HOST:PORT with a port from 0 to {MAX_PORT}, IPv6 in brackets")
    return bare, int(port)


def paths(value: str) -> tuple[Path, ...]:
    """One path or more, separated by commas."""
    return tuple(Path(text(word)) for word in value.split(","))


def addresses(value: str) -> tuple[str, ...]:
    """`HOST:PORT` once or more, separated by commas; none for `off`."""
    if value == "off":
        return ()
    found = tuple(word.strip() for word in value.split(","))
    for word in found:
        if not word.startswith("unix:"):
            host_and_port(word)
    return found


def address(value: str) -> str:
    """An address of a page; may be empty."""
    host = value.partition("://")[2].partition("/")[0]
    if value and (not value.startswith(("http://", "https://")) or not host or not value.isprintable() or " " in value):
        raise ValueError("allowed is an address that begins with http:// or https://")
    return value


def names(value: str) -> tuple[str, ...]:
    """Names of hosts, separated by commas; may be empty."""
    found = tuple(word.strip().lower() for word in value.split(",") if word.strip())
    for word in found:
        if not all(part and part.replace("-", "").isalnum() for part in word.split(".")):
            raise ValueError("allowed are host names without a port, separated by commas")
    return found
