"""What a client shows a router and whom it trusts: token and certificates. Knows files, and no service."""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import grpc

from abfleet_client.errors import InvalidArgument

MOST_TOKEN_CHARACTERS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCredentials:
    """Token and certificates; by default none of them, over a plain connection.

    Attributes:
        token: Shown as `authorization: Bearer TOKEN`.
        token_file: The same from a file; a changed one counts from the next call on.
        tls: Call with TLS, and trust the authorities that gRPC brings.
        server_ca: Call with TLS, and trust this authority (PEM) alone.
        client_cert, client_key: What to show a router that asks for a certificate (PEM).
        server_name: Name in the router's certificate, where that is not the one of the address.
    """

    token: str = ""
    token_file: str | Path | None = None
    tls: bool = False
    server_ca: str | Path | None = None
    client_cert: str | Path | None = None
    client_key: str | Path | None = None
    server_name: str = ""

    def __repr__(self) -> str:
        """Without the token."""
        shown = [f"{name}={value!r}" for name, value in self._fields() if value and name != "token"]
        return f"ClientCredentials({', '.join([*shown, *(['token=…'] if self.token else [])])})"

    def _fields(self) -> list[tuple[str, object]]:
        return [(name, getattr(self, name)) for name in self.__dataclass_fields__]

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """None for a plain connection. Reads the files; raises InvalidArgument."""
        if self.server_ca is None and not self.tls:
            if self.client_cert or self.client_key or self.server_name:
                raise InvalidArgument("server_ca", "missing; a certificate to show and a server's name need it")
            return None
        if (self.client_cert is None) != (self.client_key is None):
            missing = "client_cert" if self.client_cert is None else "client_key"
            raise InvalidArgument(missing, "missing; a certificate and its key need each other")
        return grpc.ssl_channel_credentials(
            _read("server_ca", self.server_ca) if self.server_ca else None,
            _read("client_key", self.client_key) if self.client_key else None,
            _read("client_cert", self.client_cert) if self.client_cert else None,
        )

    def read_token(self) -> str:
        """The token, from its file if it has one; empty where there is none. Raises InvalidArgument."""
        if self.token_file is None:
            if self.token and not _is_token(self.token):
                raise InvalidArgument("token", "is not one; allowed: one word of ASCII")
            return self.token
        if self.token:
            raise InvalidArgument("token", "cannot be combined with token_file; leave one out")
        token = _read("token_file", self.token_file).decode("ascii", "replace").strip()
        if not _is_token(token):
            problem = f"{self.token_file} does not hold a token; allowed: one token and nothing else"
            raise InvalidArgument("token_file", problem)
        return token


class CurrentToken:
    """The token to show now. A changed file is read at the next call; while it is wrong the token before counts."""

    def __init__(self, credentials: ClientCredentials) -> None:
        """Reads the token at once. Raises InvalidArgument."""
        self._credentials = credentials
        self._state = self._state_now()
        self._token = credentials.read_token()

    def get(self) -> str:
        """Empty where there is none."""
        if self._credentials.token_file is not None and (state := self._state_now()) != self._state:
            with contextlib.suppress(InvalidArgument):
                # The state from before the reading: what changes meanwhile is read again.
                self._token, self._state = self._credentials.read_token(), state
        return self._token

    def _state_now(self) -> tuple[int, ...]:
        if self._credentials.token_file is None:
            return ()
        try:
            stat = os.stat(self._credentials.token_file)
        except OSError as error:
            return (error.errno or 0,)
        return stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_dev


def _is_token(text: str) -> bool:
    return 0 < len(text) <= MOST_TOKEN_CHARACTERS and text.isascii() and text.split() == [text]


def _read(field: str, path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(field, f"{path} cannot be read: {error.strerror or error}") from error
