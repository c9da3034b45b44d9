"""Which changes of a router's status `abfleet up` prints, and when."""

from abfleet_protos.admin_pb2 import StatusResponse

from abfleet.commands.fitting import fitted
from abfleet.up.console import UpConsole
from abfleet.up.status_view import StatusWindow, one_line, screen

TRAFFIC_LINE_SECONDS = 10.0
WAITING_SHOWN_AFTER_SECONDS = 5.0
"""A new configuration may wait this long for a worker that is starting before that is printed."""


class StatusNews:
    """Prints each change once; on a terminal it also keeps the table up to date."""

    def __init__(self, console: UpConsole) -> None:
        self._console = console
        self._revision = ""
        self._shown_errors: tuple[str, ...] = ()
        self._waiting_since: float | None = None
        self._traffic_since = 0.0
        self._calls = 0

    def update(self, status: StatusResponse, window: StatusWindow) -> None:
        """Takes the newest status: shows the table, or prints lines for what has changed."""
        self._update_configuration(status)
        rates = window.rates()
        if rates is None:
            return
        if self._console.is_live:
            self._console.show(fitted(screen(status, rates)))
            return
        uptime = status.uptime_s
        calls = sum(group.calls for group in status.groups)
        if uptime < self._traffic_since or calls < self._calls:  # the router was started again
            self._traffic_since, self._calls = uptime, 0
        if uptime - self._traffic_since >= TRAFFIC_LINE_SECONDS:
            if calls != self._calls:
                self._console.note(one_line(rates))
            self._traffic_since, self._calls = uptime, calls

    def _update_configuration(self, status: StatusResponse) -> None:
        config, uptime = status.config, status.uptime_s
        changed = config.revision != self._revision
        if changed:
            if self._revision:
                self._console.note(f"configuration {config.revision} is now in force")
            self._revision = config.revision
        errors = tuple(config.errors)
        waits = bool(errors) and config.seen_revision != config.revision
        if not waits or self._waiting_since is None or uptime < self._waiting_since:
            self._waiting_since = uptime if waits else None
        if errors == self._shown_errors:
            return
        if waits and uptime - (self._waiting_since or 0.0) < WAITING_SHOWN_AFTER_SECONDS:
            return
        for error in errors:
            self._console.note(f"the new configuration is not in force: {error}")
        if not errors and not changed:
            self._console.note(f"the file again matches the configuration in force, {self._revision}")
        self._shown_errors = errors
