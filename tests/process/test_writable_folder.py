"""Whether a folder can be written to, without leaving anything in it."""

import os
from pathlib import Path

import pytest
from abfleet_process.writable_folder import folder_problem


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path: Path) -> None:
    """One that is there keeps what is in it; one that is not there is not there afterwards."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "decisions.jsonl").touch()
    assert folder_problem(tmp_path / "there") is None
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["decisions.jsonl"]
    assert folder_problem(tmp_path / "new") is None
    assert not (tmp_path / "new").exists()
    assert folder_problem(Path("new-in-the-current-folder")) is None


def test_what_cannot_be_one_is_said(tmp_path: Path) -> None:
    """A file, a folder below a file or below nothing, and where the system allows no file."""
    file = tmp_path / "file"
    file.touch()
    assert folder_problem(file) == "is not a folder"
    assert folder_problem(file / "logs") == f"cannot be created: the folder {file} does not exist"
    assert folder_problem(tmp_path / "no" / "logs") == f"cannot be created: the folder {tmp_path / 'no'} does not exist"
    if os.path.isdir("/proc/self"):
        assert str(folder_problem(Path("/proc/self"))).startswith("cannot be written to: ")
        assert str(folder_problem(Path("/proc/self/logs"))).startswith("cannot be created: ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    """Without the right to write, the system's word is given."""
    tmp_path.chmod(0o500)
    assert folder_problem(tmp_path) == "cannot be written to: Permission denied"
