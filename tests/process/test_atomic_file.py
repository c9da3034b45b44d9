"""Files that are written whole or not at all."""

from pathlib import Path

import pytest
from abfleet_process.atomic_file import replace_file


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    """What nobody else may read is not opened to them by a write; a new file has the usual mode."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"old")
    secret.chmod(0o600)
    replace_file(secret, b"new")
    assert (secret.read_bytes(), secret.stat().st_mode & 0o777) == (b"new", 0o600)
    replace_file(tmp_path / "new", b"first")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["new", "secret"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """The file stays as it was, and no part of the new one is beside it."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        replace_file(tmp_path / "folder", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
