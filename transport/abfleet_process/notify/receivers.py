"""Where notifications are delivered: a URL or a command, and whether it has accepted a message."""

import hashlib
import hmac
import http.client
import os
import shlex
import signal
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO, Any, Protocol

HTTP_TIMEOUT_SECONDS = 10.0
COMMAND_TIMEOUT_SECONDS = 30.0
LONGEST_RETRY_SECONDS = 60.0
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


def chosen(url: str | None, command: str | None, secret_file: Path | None) -> list[Receiver]:
    """The receivers that flags name; empty if they name none. Raises NotifyError for a mistake in them."""
    if url is None and command is None:
        if secret_file is not None:
            raise NotifyError("--notify-secret-file needs --notify-url or --notify-command")
        return []
    secret = None if secret_file is None else read_secret(secret_file)
    found: list[Receiver] = [] if url is None else [UrlReceiver(url, secret)]
    return found if command is None else [*found, CommandReceiver(command)]
