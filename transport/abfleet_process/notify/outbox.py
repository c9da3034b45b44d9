"""Messages that receivers are to get, at least once each, also over restarts.

A message is written to the state file together with all that was told before, and only then sent; it leaves the file
when its receiver has accepted it. So a restart neither forgets nor repeats one, and a crash between the two repeats it
with the same id and the same bytes.
"""

import fcntl
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from abfleet_process.atomic_file import WriteError, write_whole
from abfleet_process.backoff import backoff_seconds
from abfleet_process.notify.receivers import LONGEST_RETRY_SECONDS, NotDelivered, NotifyError, Receiver

FIRST_RETRY_SECONDS = 1.0


class InUse(NotifyError):
    """Another process holds the state file."""


@dataclass(frozen=True, slots=True)
class OutMessage:
    """The JSON text of a message; the same news always has the same `id`."""

    id: str
    body: str


def out_message(document: Mapping[str, Any]) -> OutMessage:
    """A document with the key `id` as it is sent."""
    return OutMessage(document["id"], json.dumps(document, ensure_ascii=False, separators=(",", ":")))


@dataclass(slots=True)
class OutboxState:
    """The content of the state file. Changed only by its Outbox.

    Attributes:
        told: What was told, by keys of the owner: JSON values. None where there is no file yet.
        pending: Receiver, id and body of each message that its receiver has not accepted yet, oldest first.
    """

    told: Mapping[str, Any] | None = None
    pending: list[tuple[str, str, str]] = field(default_factory=list)

    def text(self) -> str:
        """The JSON text of the file."""
        document = {"version": 1, "told": self.told or {}, "pending": self.pending}
        return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def read_outbox_state(path: Path) -> OutboxState:
    """An empty one where there is no file. Raises NotifyError: a damaged file must not cause repeats."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != 1:
            raise ValueError(f"version {document['version']!r}")
        told = {str(key): value for key, value in document["told"].items()}
        pending = [(str(receiver), str(delivery), str(body)) for receiver, delivery, body in document["pending"]]
    except FileNotFoundError:
        return OutboxState()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise broken(path, error) from error
    return OutboxState(told, pending)


def broken(path: Path, error: Exception) -> NotifyError:
    """A state file that cannot be read."""
    return NotifyError(f"--notify-state: {path} is not a state file of notifications: {error}")


class Outbox:
    """Sends messages to receivers; a context manager that keeps the state file locked."""

    def __init__(self, path: Path, receivers: Sequence[Receiver]) -> None:
        self._path = path
        self._receivers = {receiver.name: receiver for receiver in receivers}
        self._state = OutboxState()
        self._lock: IO[str] | None = None
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def __enter__(self) -> Self:
        """Locks and reads the state file. Raises InUse if another process holds it, NotifyError if it is damaged."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._path.with_name(self._path.name + ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._unlock()
            raise InUse(
                f"--notify-state: {self._path} is in use by another process; each needs its own file"
            ) from error
        except OSError as error:
            raise NotifyError(f"--notify-state: {self._path}: {error.strerror or error}") from error
        try:
            self._state = read_outbox_state(self._path)
        except NotifyError:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    @property
    def told(self) -> Mapping[str, Any] | None:
        """What was told up to now; None where nothing was ever kept."""
        return self._state.told

    @property
    def pending(self) -> int:
        """Messages that a receiver of this run has not accepted yet."""
        return sum(receiver in self._receivers for receiver, _, _ in self._state.pending)

    def put(self, told: Mapping[str, Any], messages: Sequence[OutMessage]) -> None:
        """Keeps what is told from now on, and messages to be sent by `send`. Raises NotifyError if it cannot."""
        self._state.told = told
        self._state.pending += [(name, one.id, one.body) for one in messages for name in self._receivers]
        self._save()

    def send(self, now: float) -> list[str]:
        """Sends what is due, in order for each receiver; returns the errors. `now`: seconds of a monotonic clock."""
        problems = []
        for name, receiver in self._receivers.items():
            while (message := self._first(name)) is not None and now >= self._due.get(name, now):
                try:
                    receiver.deliver(message[2].encode(), message[1])
                except NotDelivered as error:
                    self._failures[name] = failures = self._failures.get(name, 0) + 1
                    backoff = backoff_seconds(failures, first=FIRST_RETRY_SECONDS, most=LONGEST_RETRY_SECONDS)
                    wait = max(backoff, error.retry_after_seconds)
                    self._due[name] = now + wait
                    problems.append(f"--notify-{name}: {error}; trying again in {wait:g} s")
                else:
                    self._failures.pop(name, None)
                    self._due.pop(name, None)
                    self._state.pending.remove(message)
                    self._save()
        return problems

    def next_due(self) -> float | None:
        """When something is to be sent again; None where nothing waits."""
        return min(self._due.values(), default=None)

    def described(self, messages: Sequence[OutMessage]) -> list[str]:
        """What would be sent of these, with what still waits; nothing is sent or kept."""
        waiting = [one for one in self._state.pending if one[0] in self._receivers]
        waiting += [(name, one.id, one.body) for one in messages for name in self._receivers]
        return [self._receivers[name].describe(body.encode(), delivery) for name, delivery, body in waiting]

    def _first(self, name: str) -> tuple[str, str, str] | None:
        return next((message for message in self._state.pending if message[0] == name), None)

    def _save(self) -> None:
        try:
            write_whole(self._path, self._state.text())
        except WriteError as error:
            raise NotifyError(f"--notify-state: {error}") from error

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
