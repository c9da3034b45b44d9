"""Secrets in files, read again when they change; a wrong file keeps the right one. Knows files, not what is in them."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from abfleet_process.errors import TransportError
from abfleet_process.file_state import FileState, file_state

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from structlog.typing import FilteringBoundLogger

Value = TypeVar("Value", covariant=True)
SETTLE_SECONDS = 0.5
"""Several files change one after the other: what does not fit together is called wrong only when it stays so."""
CHECK_SECONDS = 1.0


class CredentialError(TransportError):
    """A certificate, key or token file is not what it must be; the message names the flag and the file."""


class WatchedCredential(Generic[Value]):
    """A value that is read from files, and again when they change.

    `check` may be called from any thread: gRPC asks for certificates from its own.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        read: Callable[[], Value],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`name`: in the log and as a label, as `tls`; `read` raises CredentialError. Reads at once, or raises that."""
        self.name = name
        self.reloads = 0
        self.failures = 0
        """Changes that were not taken; both are changed only by `check`."""
        self._paths = tuple(paths)
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._states = self._states_now()
        self._doubted: object = None
        self._doubted_at = 0.0
        self._value = read()

    @property
    def value(self) -> Value:
        """The value of the last files that were right."""
        return self._value

    def check(self) -> Value:
        """The value now: that of the changed files if they are right, else the one before."""
        with self._lock:
            states = self._states_now()
            if states != self._states:
                self._take(states)
            return self._value

    def _take(self, states: list[FileState]) -> None:
        try:
            value = self._read()
        except CredentialError as error:
            self._doubt(states, str(error))
            return
        if self._states_now() == states:  # else it is being changed just now, and the next check sees more
            self._value, self._states = value, states
            self.reloads += 1
            _log().info("changed file is in use", credential=self.name)

    def _doubt(self, states: list[FileState], problem: str) -> None:
        if states != self._doubted:
            self._doubted, self._doubted_at = states, self._clock()
        elif self._clock() >= self._doubted_at + SETTLE_SECONDS:
            self._states = states
            self.failures += 1
            _log().error("changed file was refused; the one before stays in use", credential=self.name, error=problem)

    def _states_now(self) -> list[FileState]:
        return [file_state(path) for path in self._paths]


async def keep_checking(watched: Sequence[WatchedCredential[object]]) -> None:
    """Checks every second until it is cancelled, so that a wrong file is logged before anybody needs it."""
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        for one in watched:
            one.check()


def families(watched: Iterable[WatchedCredential[object]], expiries: Iterable[tuple[str, float]]) -> Iterator["Metric"]:
    """Reloads and expiry times, read at each scrape. `expiries`: name and seconds since the epoch."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    reloads = CounterMetricFamily(
        "abfleet_credential_reloads",
        "Changed certificate and token files, by result: taken or refused.",
        labels=["credential", "result"],
    )
    for one in watched:
        reloads.add_metric([one.name, "taken"], one.reloads)
        reloads.add_metric([one.name, "refused"], one.failures)
    ends = GaugeMetricFamily(
        "abfleet_certificate_expiry_timestamp_seconds",
        "Time when the certificate in use expires, in seconds since 1970.",
        labels=["credential"],
    )
    for name, end in expiries:
        ends.add_metric([name], end)
    yield from (reloads, ends)


def _log() -> "FilteringBoundLogger":
    """The logger, which is imported when there is something to say: commands that only call a router have nothing."""
    import structlog

    found: FilteringBoundLogger = structlog.get_logger("abfleet.transport.followed")
    return found


def read_file(flag: str, path: Path) -> bytes:
    """The file's content. Raises CredentialError with the flag, the path and the system's reason."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CredentialError(f"{flag}: {path} cannot be read: {error.strerror or error}") from error
