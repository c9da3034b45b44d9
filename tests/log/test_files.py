"""Closed files: compressed whole or not at all, never while somebody writes them, and removed when their time is up."""

import os
import sys
import threading
from pathlib import Path

import pytest
import zstandard
from abfleet_log.files import CannotCompress, WriterIdentity, compress, create, locked_if_closed, plain_files
from abfleet_log.writer.keeper import LogKeeper

HERE, THERE = WriterIdentity("here", 1), WriterIdentity("there-2", 9)
NOW = 1_790_000_000.0
DAY = 86_400.0


def closed(folder: Path, identity: WriterIdentity, content: bytes, *, age_seconds: float = 0.0) -> Path:
    """A file that a process has written and left."""
    file, path = create(folder, identity, lambda: NOW - age_seconds)
    os.write(file, content)
    os.close(file)
    os.utime(path, (NOW - age_seconds, NOW - age_seconds))
    return path


def keeper(folder: Path, *, compresses: bool = True, retention_seconds: float = 0.0) -> LogKeeper:
    return LogKeeper(folder, HERE, compresses=compresses, retention_seconds=retention_seconds, wall=lambda: NOW)


def unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_left_is_compressed(tmp_path: Path) -> None:
    """A file of a process that has ended, a torn line included, becomes .zst with the same content, age and mode."""
    content = b'{"a":1}\n' * 100_000 + b'{"torn'
    path = closed(tmp_path, HERE, content, age_seconds=60)
    mode = path.stat().st_mode
    one = keeper(tmp_path)
    one.tidy()
    (packed,) = tmp_path.iterdir()
    assert packed.name == path.name + ".zst"
    assert unpacked(packed) == content
    assert packed.stat().st_mode == mode
    assert packed.stat().st_mtime == NOW - 60
    assert one.compressed == 1


def test_what_is_written_is_left_alone(tmp_path: Path) -> None:
    """Neither compressed nor removed, whoever writes it and however old it is."""
    file, path = create(tmp_path, HERE, lambda: NOW)
    os.write(file, b"{}\n")
    os.utime(path, (0, 0))
    keeper(tmp_path, retention_seconds=1).tidy()
    assert names(tmp_path) == [path.name]
    os.close(file)
    keeper(tmp_path, retention_seconds=1).tidy()
    assert names(tmp_path) == []


def test_files_of_another_machine(tmp_path: Path) -> None:
    """Its locks may not reach here: only an hour of silence tells that a file is closed."""
    fresh = closed(tmp_path, THERE, b"1\n", age_seconds=600)
    silent = closed(tmp_path, THERE, b"2\n", age_seconds=4000)
    keeper(tmp_path).tidy()
    assert names(tmp_path) == sorted([fresh.name, silent.name + ".zst"])


def test_two_routers_on_one_volume(tmp_path: Path) -> None:
    """One of them takes a file; the other leaves it to it."""
    path = closed(tmp_path, HERE, b"1\n")
    with locked_if_closed(path, HERE, lambda: NOW) as first, locked_if_closed(path, HERE, lambda: NOW) as second:
        assert first is not None
        assert second is None


def test_told_to_stop(tmp_path: Path) -> None:
    """The file stays as it was, and nothing half done is left."""
    path = closed(tmp_path, HERE, b"1\n")
    with locked_if_closed(path, HERE, lambda: NOW) as file:
        assert file is not None
        assert compress(file, path, lambda: False) is None
    assert names(tmp_path) == [path.name]
    assert path.read_bytes() == b"1\n"


def test_a_file_that_grew_meanwhile(tmp_path: Path) -> None:
    """It was not closed after all: it stays."""
    path = closed(tmp_path, HERE, b"1\n")

    def grow() -> bool:
        with path.open("ab") as more:
            more.write(b"2\n")
        return True

    with locked_if_closed(path, HERE, lambda: NOW) as file:
        assert file is not None
        # It grows after the end was read, as it would under a writer that nobody knows of.
        real = os.read
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("abfleet_log.files.os.read", lambda f, n: real(f, n) or (grow() and b""))
            assert compress(file, path, lambda: True) is None
    assert names(tmp_path) == [path.name]


def test_retention(tmp_path: Path) -> None:
    """By the age of the last line, plain and compressed alike; 0 keeps for ever."""
    for age in (1, 5, 9):
        closed(tmp_path, HERE, b"{}\n", age_seconds=age * DAY)
    keeper(tmp_path).tidy()
    plain = [closed(tmp_path, HERE, b"{}\n", age_seconds=age * DAY) for age in (2, 6)]
    before = names(tmp_path)
    assert len(before) == 5
    keeper(tmp_path, compresses=False).tidy()
    assert names(tmp_path) == before
    one = keeper(tmp_path, compresses=False, retention_seconds=4 * DAY)
    one.tidy()
    assert one.removed == 3
    assert plain_files(tmp_path) == [plain[0]]
    assert len(names(tmp_path)) == 2


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files stay plain, retention goes on, and the reason is told once."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    path = closed(tmp_path, HERE, b"1\n")
    with path.open("rb") as file, pytest.raises(CannotCompress, match="zstandard"):
        compress(file.fileno(), path, lambda: True)
    one = keeper(tmp_path, retention_seconds=DAY)
    one.tidy()
    one.tidy()
    assert names(tmp_path) == [path.name]
    closed(tmp_path, HERE, b"1\n", age_seconds=2 * DAY)
    one.tidy()
    assert names(tmp_path) == [path.name]


def test_the_thread(tmp_path: Path) -> None:
    """It begins with what it finds, and ends when told."""
    closed(tmp_path, HERE, b"1\n")
    one = LogKeeper(tmp_path, HERE, compresses=True, retention_seconds=0)
    one.start()
    one.wake()
    assert one.close(30)
    assert one.close(30)
    assert len(names(tmp_path)) == 1


def test_a_disk_that_does_not_answer_does_not_keep_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is being compressed for good is left behind."""
    begun, go_on = threading.Event(), threading.Event()

    def stuck(self: LogKeeper, path: Path) -> None:
        begun.set()
        go_on.wait()

    monkeypatch.setattr(LogKeeper, "_compress", stuck)
    path = closed(tmp_path, HERE, b"1\n")
    one = LogKeeper(tmp_path, HERE, compresses=True, retention_seconds=0)
    one.start()
    assert begun.wait(30)
    assert not one.close(0.05)
    assert names(tmp_path) == [path.name]
    go_on.set()
    assert one.close(30)
