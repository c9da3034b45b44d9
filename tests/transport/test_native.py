"""What is the native server's own business."""

import tempfile
from pathlib import Path

import pytest
from abfleet_transport.native import LONGEST_SOCKET_PATH, make_socket_path


def test_a_long_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary folder whose name is too long for a unix socket does not keep the native server from starting."""
    long = tmp_path / ("long-" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    path = make_socket_path()
    try:
        assert len(str(path)) <= LONGEST_SOCKET_PATH
        assert not path.is_relative_to(long)
        assert path.parent.stat().st_mode & 0o077 == 0
    finally:
        path.parent.rmdir()
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    path = make_socket_path()
    path.parent.rmdir()
    assert path.parent.parent == Path("/tmp")
