"""Notifies receivers of changed verdicts, at least once, also over restarts.

A change is written to the state file together with all that was notified before, and only then sent; it leaves the
file when its receiver has accepted it. So a restart neither forgets nor repeats a change, and a crash between the two
repeats it with the same id and the same bytes.
"""

import fcntl
import hashlib
import hmac
import http.client
import json
import os
import shlex
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from email.message import Message
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from abfleet_process.atomic_file import WriteError, write_whole
from abfleet_process.backoff import backoff_seconds

from abfleet.notify.verdict_changes import Conclusion, changes

HTTP_TIMEOUT_SECONDS = 10.0
COMMAND_TIMEOUT_SECONDS = 30.0
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 60.0
LEAST_SECRET_BYTES = 16
SHOWN_CHARACTERS = 200
SIGNATURE_HEADER, DELIVERY_HEADER = "X-Abfleet-Signature", "X-Abfleet-Delivery"


class NotifyError(Exception):
    """A setting or the state file is wrong; the message is for people."""


class NotDelivered(Exception):
    """A receiver did not accept a message; `retry_after_seconds` is what it asked for, else 0."""

    def __init__(self, reason: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_seconds = retry_after_seconds


class Receiver(Protocol):
    """Where messages are delivered: a URL or a command."""

    @property
    def name(self) -> str:
        """The receiver's name in the state file: `url` or `command`."""

    def deliver(self, body: bytes, delivery: str) -> None:
        """Delivers one message and returns once it is accepted. Raises NotDelivered."""

    def describe(self, body: bytes, delivery: str) -> str:
        """The request or the command that `deliver` would send or run, for --notify-dry-run."""


# --- receivers --------------------------------------------------------------------------------------------------------


def signature(secret: bytes, body: bytes) -> str:
    """`sha256=` and the HMAC-SHA256 (RFC 2104) of the body, in hex."""
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def read_secret(path: Path) -> bytes:
    """The secret in a file, without the line feed at its end. Raises NotifyError."""
    try:
        secret = path.read_bytes().removesuffix(b"\n").removesuffix(b"\r")
    except OSError as error:
        raise NotifyError(f"--notify-secret-file: {path}: {error.strerror or error}") from error
    if len(secret) < LEAST_SECRET_BYTES:
        raise NotifyError(
            f"--notify-secret-file: {path} has {len(secret)} bytes; it must have {LEAST_SECRET_BYTES} or more"
        )
    return secret


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


class UrlReceiver:
    """POSTs the JSON; any status from 200 to 299 means that it was accepted."""

    name = "url"

    def __init__(self, url: str, secret: bytes | None, timeout_seconds: float = HTTP_TIMEOUT_SECONDS) -> None:
        """Raises NotifyError for a URL that is neither http nor https."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise NotifyError(f"--notify-url: {url[:64]!r} is not allowed; it must begin with http:// or https://")
        self._url = url
        self._secret = secret
        self._timeout_seconds = timeout_seconds
        self._opener = urllib.request.build_opener(_NoRedirects)

    def deliver(self, body: bytes, delivery: str) -> None:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self._url, data=body, headers=self._headers(body, delivery), method="POST"
        )
        try:
            with self._opener.open(request, timeout=self._timeout_seconds):
                return
        except urllib.error.HTTPError as error:
            with error:
                raise NotDelivered(f"the receiver answered HTTP {error.code}", _retry_after(error.headers)) from error
        except (OSError, http.client.HTTPException) as error:
            raise NotDelivered(str(getattr(error, "reason", error))[:SHOWN_CHARACTERS]) from error

    def _headers(self, body: bytes, delivery: str) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": "abfleet", DELIVERY_HEADER: delivery}
        return headers | ({} if self._secret is None else {SIGNATURE_HEADER: signature(self._secret, body)})

    def describe(self, body: bytes, delivery: str) -> str:
        headers = "".join(f"\n{name}: {value}" for name, value in self._headers(body, delivery).items())
        return f"POST {self._url}{headers}\n\n{body.decode()}"


class CommandReceiver:
    """Runs a program with the JSON on its standard input, without a shell; exit code 0 means that it was accepted."""

    name = "command"

    def __init__(self, command: str, timeout_seconds: float = COMMAND_TIMEOUT_SECONDS) -> None:
        """Splits the command as a shell would. Raises NotifyError if it is empty or a quote is open."""
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            raise NotifyError(f"--notify-command: {command[:64]!r}: {error}") from error
        if not self._arguments:
            raise NotifyError("--notify-command: is empty; it must be a program with its arguments")
        self._timeout_seconds = timeout_seconds

    def deliver(self, body: bytes, delivery: str) -> None:
        try:
            process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise NotDelivered(f"{self._arguments[0][:64]}: {error.strerror or error}") from error
        with process:
            try:
                _, errors = process.communicate(body, timeout=self._timeout_seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # and its child processes
                raise NotDelivered(f"the command did not end within {self._timeout_seconds:g} s") from None
        if process.returncode:
            lines = errors.decode(errors="replace").strip().splitlines()
            last = f": {lines[-1][:SHOWN_CHARACTERS]}" if lines else ""
            raise NotDelivered(f"the command ended with exit code {process.returncode}{last}")

    def describe(self, body: bytes, delivery: str) -> str:
        return f"run {shlex.join(self._arguments)}\n\n{body.decode()}"


def _retry_after(headers: "Message | None") -> float:
    seconds = headers.get("Retry-After", "") if headers is not None else ""
    return min(float(seconds), LONGEST_RETRY_SECONDS) if seconds.isascii() and seconds.isdecimal() else 0.0


# --- what was notified, and what is still pending ---------------------------------------------------------------------


@dataclass(slots=True)
class NotificationState:
    """The content of the state file. Changed only by its Notifier."""

    notified: dict[str, Conclusion] = field(default_factory=dict)
    pending: list[tuple[str, str, str]] = field(default_factory=list)
    """Receiver, id and body of each message that its receiver has not accepted yet, oldest first."""

    def text(self) -> str:
        """The JSON text of the file."""
        notified = {name: asdict(conclusion) for name, conclusion in self.notified.items()}
        return (
            json.dumps({"version": 1, "told": notified, "pending": self.pending}, ensure_ascii=False, indent=1) + "\n"
        )


def read_notification_state(path: Path) -> NotificationState:
    """An empty one where there is no file. Raises NotifyError: a damaged file must not cause repeats."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != 1:
            raise ValueError(f"version {document['version']!r}")
        notified = {str(name): Conclusion(**conclusion) for name, conclusion in document["told"].items()}
        pending = [(str(receiver), str(delivery), str(body)) for receiver, delivery, body in document["pending"]]
    except FileNotFoundError:
        return NotificationState()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise NotifyError(f"--notify-state: {path} is not a state file of notifications: {error}") from error
    return NotificationState(notified, pending)


class Notifier:
    """Sends changes to receivers; a context manager that keeps the state file locked."""

    def __init__(self, path: Path, receivers: Sequence[Receiver]) -> None:
        self._path = path
        self._receivers = {receiver.name: receiver for receiver in receivers}
        self._state = NotificationState()
        self._lock: IO[str] | None = None
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def __enter__(self) -> Self:
        """Locks and reads the state file. Raises NotifyError if another process holds it or it is damaged."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._path.with_name(self._path.name + ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise NotifyError(
                f"--notify-state: {self._path} is in use by another abfleet analyze; each needs its own file"
            ) from error
        except OSError as error:
            raise NotifyError(f"--notify-state: {self._path}: {error.strerror or error}") from error
        self._state = read_notification_state(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()

    @property
    def pending(self) -> int:
        """Messages that a receiver of this run has not accepted yet."""
        return sum(receiver in self._receivers for receiver, _, _ in self._state.pending)

    def note(self, document: Mapping[str, Any]) -> None:
        """Takes what is new in a report, to be sent by `send`. Raises NotifyError when it cannot be kept."""
        found = changes(self._state.notified, document)
        for change in found:
            self._state.notified[change.experiment] = change.now
            body = json.dumps(change.message(), ensure_ascii=False, separators=(",", ":"))
            self._state.pending += [(name, change.id, body) for name in self._receivers]
        if found:
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

    def described(self, document: Mapping[str, Any]) -> list[str]:
        """What would be sent for a report, with what still waits; nothing is sent or kept."""
        messages = [one for one in self._state.pending if one[0] in self._receivers]
        for change in changes(self._state.notified, document):
            body = json.dumps(change.message(), ensure_ascii=False, separators=(",", ":"))
            messages += [(name, change.id, body) for name in self._receivers]
        return [self._receivers[name].describe(body.encode(), delivery) for name, delivery, body in messages]

    def _first(self, name: str) -> tuple[str, str, str] | None:
        return next((message for message in self._state.pending if message[0] == name), None)

    def _save(self) -> None:
        try:
            write_whole(self._path, self._state.text())
        except WriteError as error:
            raise NotifyError(f"--notify-state: {error}") from error
