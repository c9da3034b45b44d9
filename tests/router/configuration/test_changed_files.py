"""Whether files have changed: by what the file system says, and now and then by what they hold."""

import os
from pathlib import Path

import pytest
from abfleet_router.configuration.changed_files import CONTENT_EVERY, ChangedFiles


@pytest.mark.parametrize("settle_polls", [0, 1, 2])
def test_a_change_is_due_when_it_is_complete(tmp_path: Path, settle_polls: int) -> None:
    """After so many polls without a further change, once; asked with force, at once."""
    file = tmp_path / "file"
    file.write_text("one")
    files = ChangedFiles([file], settle_polls)
    assert files.poll(force=True)
    assert not files.poll(force=False)
    file.write_text("one half")
    assert [files.poll(force=False) for _ in range(settle_polls)] == [False] * settle_polls
    file.write_text("one half and more")
    due = [files.poll(force=False) for _ in range(settle_polls + 2)]
    assert due == [False] * settle_polls + [True, False]


def test_a_change_that_the_file_system_hides_is_found(tmp_path: Path) -> None:
    """Same size, times and inode: the content is read now and then all the same."""
    file = tmp_path / "file"
    file.write_text("one")
    stat = file.stat()
    files = ChangedFiles([file], 0)
    files.poll(force=True)
    with file.open("r+") as opened:
        opened.write("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert [files.poll(force=False) for _ in range(CONTENT_EVERY)].count(True) == 1


def test_a_file_that_goes_and_comes_back(tmp_path: Path) -> None:
    """To be gone is a change, and to be there again another."""
    file = tmp_path / "file"
    file.write_text("one")
    files = ChangedFiles([file], 0)
    files.poll(force=True)
    file.unlink()
    assert files.poll(force=False)
    file.write_text("one")
    assert files.poll(force=False)
