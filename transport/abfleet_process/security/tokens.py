"""Bearer tokens: who has which, kept as hashes in a file; its form, and the comparison."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from abfleet_process.watched_credentials import CredentialError, WatchedCredential, read_file

SCOPES = ("feedback", "admin", "dashboard")
DEFAULT_SCOPES = frozenset({"feedback"})
PREFIX = "abf_"
"""Scanners of repositories find a token by it."""
SECRET_BYTES = 32
"""256 random bits cannot be guessed, so a plain SHA-256 keeps them; slow hashes are for what people choose."""
MOST_TOKEN_CHARACTERS = 512
MOST_SHOWN_CHARACTERS = 32
"""Of a name in a message: tokens and hashes are longer."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = "1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or a digit"
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its file has it: never the secret, only the hash."""

    name: str
    """Whose it is: this stands in the log."""
    sha256: str
    """64 hex digits."""
    scopes: frozenset[str] = DEFAULT_SCOPES

    def line(self) -> str:
        """The token's line in the file: `name sha256 scope,scope`."""
        return f"{self.name} {self.sha256} {','.join(sorted(self.scopes))}"


class TokenFile:
    """The tokens that count now; a file that changes is read again, a wrong one keeps those before."""

    def __init__(self, path: Path, flag: str = "--tokens") -> None:
        """Reads the file at once. Raises CredentialError."""
        self._path = path
        self._flag = flag
        self.watched = WatchedCredential("tokens", (path,), self._read)

    def find(self, token: str) -> Token | None:
        """Whose token this is; None when nobody has it. Takes the same time wherever they differ."""
        digest, found = digest_of(token), None
        for one in self.watched.value:
            if hmac.compare_digest(one.sha256, digest):
                found = one
        return found

    def _read(self) -> tuple[Token, ...]:
        try:
            return parse(read_file(self._flag, self._path).decode())
        except ValueError as error:  # UnicodeDecodeError is one
            raise CredentialError(f"{self._flag}: {self._path}: {error}") from error


def parse(text: str) -> tuple[Token, ...]:
    """The tokens of a file: a line each, `name sha256 scope,scope`; `#` begins a comment. Raises ValueError with every
    mistake, and never shows what might be a token."""
    tokens: list[Token] = []
    problems: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        problem = _problem(words, {token.name for token in tokens})
        if problem is not None:
            problems.append(f"line {number}: {problem}")
        else:
            scopes = frozenset(words[2].split(",")) if len(words) == 3 else DEFAULT_SCOPES
            tokens.append(Token(words[0], words[1], scopes))
    if problems:
        raise ValueError("; ".join(problems))
    return tuple(tokens)


def _problem(words: list[str], names: Collection[str]) -> str | None:
    if len(words) not in (2, 3):
        return f"{len(words)} words; allowed: a name, a SHA-256 and, if need be, scopes"
    if NAME.fullmatch(words[0]) is None:
        return f"the name is not allowed; allowed: {NAME_RULE}"
    if words[0] in names:
        return f"the name {_shown(words[0])} is used twice"
    if DIGEST.fullmatch(words[1]) is None:
        return f"{_shown(words[0])} has no SHA-256; allowed: 64 digits 0-9 a-f, as `abfleet token new` prints them"
    unknown = sorted(set(words[2].split(",")) - set(SCOPES)) if len(words) == 3 else ()
    if unknown:
        return f"scope {_shown(unknown[0])!r} is not known; allowed: {', '.join(SCOPES)}"
    return None


def _shown(name: str) -> str:
    """The name of a line whose words may be in the wrong order: what stands there may be a token."""
    return "it" if name.startswith(PREFIX) or len(name) > MOST_SHOWN_CHARACTERS else name


def new(name: str, scopes: Iterable[str]) -> tuple[str, Token]:
    """A new token, and what to store of it. Raises ValueError for a name or scope that is not allowed."""
    if NAME.fullmatch(name) is None:
        raise ValueError(f"the name {name[:64]!r} is not allowed; allowed: {NAME_RULE}")
    secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
    token = Token(name, digest_of(secret), frozenset(scopes))
    parse(token.line())  # says what is wrong with the scopes
    return secret, token


def digest_of(token: str) -> str:
    """What is stored: SHA-256 as hex digits."""
    return hashlib.sha256(token.encode()).hexdigest()


def bearer(metadata: Iterable[tuple[str, str | bytes]]) -> str | None:
    """The token of `authorization: Bearer …`; None where there is none."""
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            scheme, _, token = value.partition(" ")
            if scheme.lower() == "bearer" and 0 < len(token) <= MOST_TOKEN_CHARACTERS:
                return token.strip()
    return None
