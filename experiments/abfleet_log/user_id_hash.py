"""Keyed hashes of user ids, for those who may not store the ids themselves."""

import hmac
from collections.abc import Callable
from pathlib import Path

LEAST_KEY_BYTES = 16
"""128 bits: user ids can be guessed, so that the key alone keeps them."""


class KeyFileError(Exception):
    """The key file cannot be used; the message names the file and what is allowed."""


def keyed_hash(key_file: Path) -> Callable[[str], str]:
    """HMAC-SHA256 (RFC 2104) of a user id in UTF-8, as 64 hex digits. Raises KeyFileError.

    The key is the file's content without white space at its ends. Whoever has it can find the line of a known id.
    """
    try:
        key = key_file.read_bytes().strip()
    except OSError as error:
        raise KeyFileError(f"--user-id-hmac-key-file: {key_file}: {error.strerror or error}") from error
    if len(key) < LEAST_KEY_BYTES:
        raise KeyFileError(
            f"--user-id-hmac-key-file: {key_file} has {len(key)} bytes; it must have {LEAST_KEY_BYTES} or more"
        )

    def hashed(user_id: str) -> str:
        return hmac.digest(key, user_id.encode(), "sha256").hex()

    return hashed
