"""Shows a router's status: tables for a terminal, lines for a pipe."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from abfleet_process.counting import counted
from abfleet_protos.admin_pb2 import PoolStatus, StatusResponse
from abfleet_transport.client.rates import NOBODY, GroupRate, Rates, between

if TYPE_CHECKING:  # lines for a pipe need no Rich, which takes longer to import than a router to answer
    from rich.console import RenderableType
    from rich.table import Table

WINDOW_SECONDS = 10.0
"""The span of the rates: short enough to see an edit, long enough that a percent means something."""


class StatusWindow:
    """The statuses of the last seconds, oldest first; changed only by `add`."""

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window_seconds = window_seconds
        self._statuses: deque[StatusResponse] = deque()

    def add(self, status: StatusResponse) -> None:
        """Keeps one more, and lets go of those that are older than the window."""
        kept = self._statuses
        if kept and kept[-1].uptime_s >= status.uptime_s:
            kept.clear()  # the router was started again
        kept.append(status)
        while len(kept) > 2 and kept[1].uptime_s <= status.uptime_s - self._window_seconds:
            kept.popleft()

    def rates(self) -> Rates | None:
        """Over the window; since the router's start when there is one status."""
        if not self._statuses:
            return None
        return between(self._statuses[0] if len(self._statuses) > 1 else None, self._statuses[-1])


def screen(status: StatusResponse, rates: Rates, notes: Iterable[str] = ()) -> "RenderableType":
    """Everything that fits on a terminal: configuration, groups, versions, what is wrong."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(headline(status))]
    parts += [Text(build_line(status), style="dim")] if status.HasField("build") else []
    parts += [Text(f"  {error}", style="red") for error in status.config.errors]
    parts += [groups_table(rates), pools_table(status)]
    parts += [Text(note, style="yellow") for note in notes]
    return Group(*parts)


def headline(status: StatusResponse) -> str:
    """Configuration, log and what was refused, in one line."""
    config, log = status.config, status.decision_log
    state = "serving" if status.serving else "not serving"
    text = (
        f"{status.router}: {state}, up {status.uptime_s:.0f} s, config {config.revision or 'none'} "
        f"(generation {config.generation}), {counted(log.lines, 'log line')}"
    )
    extras = {
        "lost": log.lost,
        "waiting": status.waiting.calls,
        "shed": status.shed,
        "rejected": status.rejected,
        "retries": status.retries,
    }
    text += "".join(f", {count} {name}" for name, count in extras.items() if count)
    return text + ("; the newest configuration is not in force:" if config.errors else "")


def build_line(status: StatusResponse) -> str:
    """Which build the router is of."""
    build = status.build
    form = f" {build.form}" if build.form else ""
    return f"abfleet {build.version} ({build.revision}){form}, Python {build.python}, grpcio {build.grpcio}"


GROUP_COLUMNS = ("experiment", "group", "version", "calls/s", "share", "p50 ms", "p99 ms", "errors", "fallbacks")


def group_cells(rate: GroupRate) -> tuple[str, ...]:
    """A row of the table of groups."""
    return (
        rate.experiment or NOBODY,
        rate.group or "–",
        rate.model_version,
        *_numbers(rate),
    )


def groups_table(rates: Rates) -> "Table":
    """Calls by group over the window."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for index, name in enumerate(GROUP_COLUMNS):
        table.add_column(name, justify="left" if index < 3 else "right", overflow="fold")
    shown = [rate for rate in rates.groups if rate.experiment or rate.calls]
    for rate in shown:
        table.add_row(*map(escape, group_cells(rate)))
    if len(shown) != 1:
        table.add_row("all", "", "", *_numbers(rates.total), style="bold")
    return table


POOL_COLUMNS = ("version", "in", "of", "ejections", "replicas")


def pool_cells(pool: PoolStatus) -> tuple[str, ...]:
    """A row of the table of versions."""
    replicas = [f"{replica.address} {'in' if replica.gets_calls else replica.health}" for replica in pool.replicas]
    return (
        pool.version,
        str(pool.available),
        str(len(replicas)),
        str(pool.ejections),
        ", ".join(replicas),
    )


def pools_table(status: StatusResponse) -> "Table":
    """A row for each version: replicas in and out, ejections; red where a replica is out."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in POOL_COLUMNS:
        table.add_column(name, justify="right" if name in ("in", "of", "ejections") else "left", overflow="fold")
    for pool in status.pools:
        low = pool.available < len(pool.replicas) or not pool.replicas
        table.add_row(*map(escape, pool_cells(pool)), style="red" if low else None)
    return table


def plain(status: StatusResponse, rates: Rates) -> str:
    """The same as lines of cells separated by tabs, for a pipe."""
    lines = [headline(status), *([build_line(status)] if status.HasField("build") else [])]
    lines += [*(f"error\t{error}" for error in status.config.errors)]
    lines.append("\t".join(GROUP_COLUMNS))
    lines += ["\t".join(group_cells(rate)) for rate in rates.groups]
    lines.append("\t".join(POOL_COLUMNS))
    lines += ["\t".join(pool_cells(pool)) for pool in status.pools]
    return "\n".join(lines)


def one_line(rates: Rates) -> str:
    """Traffic in a line: what `up` prints now and then where there is no terminal."""
    total = rates.total
    parts = [
        f"{total.calls_per_s:.1f} calls/s",
        f"p50 {_ms(total.p50_ms)} ms",
        f"p99 {_ms(total.p99_ms)} ms",
        f"errors {total.errors}",
        f"fallbacks {total.fallbacks}",
    ]
    split = [f"{rate.group or NOBODY} {_percent(rate.share)}" for rate in rates.groups if rate.calls]
    return "  ".join([*parts, ", ".join(split)])


def _numbers(rate: GroupRate) -> Sequence[str]:
    return (
        f"{rate.calls_per_s:.1f}",
        _percent(rate.share),
        _ms(rate.p50_ms),
        _ms(rate.p99_ms),
        str(rate.errors),
        str(rate.fallbacks),
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.1f} %"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}" if value < 10 else f"{value:.0f}"
