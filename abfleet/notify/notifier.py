"""Notifies receivers of changed verdicts, at least once each: which there are since what was told."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from abfleet_process.notify.outbox import Outbox, broken, out_message
from abfleet_process.notify.receivers import Receiver

from abfleet.notify.verdict_changes import Conclusion, changes


class Notifier:
    """Sends changes to receivers; a context manager that keeps the state file locked."""

    def __init__(self, path: Path, receivers: Sequence[Receiver]) -> None:
        self._path = path
        self._outbox = Outbox(path, receivers)
        self._notified: dict[str, Conclusion] = {}

    def __enter__(self) -> Self:
        """Locks and reads the state file. Raises NotifyError if another process holds it or it is damaged."""
        self._outbox.__enter__()
        try:
            self._notified = {name: Conclusion(**told) for name, told in (self._outbox.told or {}).items()}
        except TypeError as error:
            self._outbox.__exit__(None, None, None)
            raise broken(self._path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outbox.__exit__(kind, error, trace)

    @property
    def pending(self) -> int:
        """Messages that a receiver of this run has not accepted yet."""
        return self._outbox.pending

    def note(self, document: Mapping[str, Any]) -> None:
        """Takes what is new in a report, to be sent by `send`. Raises NotifyError when it cannot be kept."""
        found = changes(self._notified, document)
        if found:
            self._notified |= {change.experiment: change.now for change in found}
            told = {name: asdict(conclusion) for name, conclusion in self._notified.items()}
            self._outbox.put(told, [out_message(change.message()) for change in found])

    def send(self, now: float) -> list[str]:
        """Sends what is due, in order for each receiver; returns the errors. `now`: seconds of a monotonic clock."""
        return self._outbox.send(now)

    def next_due(self) -> float | None:
        """When something is to be sent again; None where nothing waits."""
        return self._outbox.next_due()

    def described(self, document: Mapping[str, Any]) -> list[str]:
        """What would be sent for a report, with what still waits; nothing is sent or kept."""
        return self._outbox.described([out_message(one.message()) for one in changes(self._notified, document)])
