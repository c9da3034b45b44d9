"""Keyed hashes of user ids: the documented function, and keys that are none."""

import hashlib
import hmac
from pathlib import Path

import pytest
from abfleet_log.user_id_hash import KeyFileError, keyed_hash

KEY = b"0123456789abcdef"


def test_it_is_hmac_sha256(tmp_path: Path) -> None:
    """RFC 2104 over UTF-8; white space around the key is none of it."""
    file = tmp_path / "key"
    file.write_bytes(b" " + KEY + b"\n")
    hashed = keyed_hash(file)
    for user_id in ("user-1", "用户"):
        assert hashed(user_id) == hmac.new(KEY, user_id.encode(), hashlib.sha256).hexdigest()


@pytest.mark.parametrize("content", [b"", b"short", b"  " + KEY[:-1] + b"\n", None])
def test_what_is_no_key(tmp_path: Path, content: bytes | None) -> None:
    """Missing or short: refused, with the file's name and what is allowed."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(KeyFileError, match="--user-id-hmac-key-file"):
        keyed_hash(file)
