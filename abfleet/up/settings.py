"""The settings of `abfleet up`, and the exception that ends it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

EXIT_FAILURE, EXIT_USAGE = 1, 2


class CannotStart(Exception):
    """`up` cannot start; `lines` say why, `code` is the exit code."""

    def __init__(self, lines: Iterable[str], code: int = EXIT_FAILURE) -> None:
        self.lines = tuple(lines)
        self.code = code
        super().__init__("\n".join(self.lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """The flags of `abfleet up`, parsed; `log_flags` and `router_flags` go to the router unchanged."""

    experiments: Path
    fleet: Path | None
    registry: Path
    log_dir: Path
    listen: str
    admin_listen: str
    metrics_port: str
    worker_port: int
    replicas: Mapping[str, int]
    transport: str
    run_dir: Path
    log_flags: Mapping[str, str | None]
    """Of the router, by name with underscores; None where it keeps its default."""
    dashboard_port: int | None
    """0: any free one; None: no dashboard."""
    router_flags: tuple[str, ...]
    """Further flags of the router, as they were given."""

    def router_command(self, fleet_file: Path, **bound: str) -> tuple[str, ...]:
        """Flags of the router process; `bound` replaces an address by the one that a first start was given."""
        flags = {
            "experiments": str(self.experiments),
            "fleet": str(fleet_file),
            "listen": self.listen,
            "admin_listen": self.admin_listen,
            "metrics_port": self.metrics_port,
            "transport": self.transport,
            "log_dir": str(self.log_dir),
            **self.log_flags,
        } | bound
        given = {f"--{name.replace('_', '-')}": value for name, value in flags.items() if value is not None}
        words = [word for pair in given.items() for word in pair]
        return (*words, *self.router_flags)
