"""The writer's thread and the sinks, step by step: every line is written or counted as lost, wherever a disk fails."""

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from abfleet_log.files import WriterIdentity, create
from abfleet_log.writer import sinks
from abfleet_log.writer.sinks import FileSink, StdoutSink
from abfleet_log.writer.writer_thread import LineBatch, LogCounters, LogWriter, Written
from hypothesis import given
from hypothesis import strategies as st

LINES = [b"aaaa", b"bb", b"c"]


class Disk:
    """Takes so many bytes in each call, and fails where the script says None."""

    def __init__(self, script: list[int | None]) -> None:
        self.script = script

    def __call__(self, file: int, data: Any) -> int:
        step = self.script.pop(0) if self.script else 1_000_000
        if step is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(file, bytes(data[:step]), os.lseek(file, 0, os.SEEK_END))


def make_sink(folder: Path, **changes: Any) -> FileSink:
    settings: dict[str, Any] = {
        "fsync": "never",
        "rotate_bytes": 2**40,
        "rotate_seconds": 1e9,
        "on_closed": lambda: None,
        **changes,
    }
    return FileSink(folder, WriterIdentity("host", 7), **settings)


def written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.jsonl")))


@given(
    batches=st.lists(st.lists(st.sampled_from(LINES), min_size=1, max_size=4), min_size=1, max_size=6),
    script=st.lists(st.one_of(st.none(), st.integers(1, 8)), max_size=12),
    keeps=st.booleans(),
    can_cut=st.booleans(),
    together=st.booleans(),
)
def test_a_disk_that_is_full_for_a_while(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[bytes]],
    script: list[int | None],
    keeps: bool,
    can_cut: bool,
    together: bool,
) -> None:
    """Wherever it fails: the lines in the files are exactly those counted as written, in order; the rest is lost, and
    counted. Where a torn line can be cut off, none is left; else it spoils no other line."""
    folder, never_full = tmp_path_factory.mktemp("log"), None not in script
    sink, counters, now = make_sink(folder), LogCounters(), [0.0]
    heard: list[bool] = []
    writer = LogWriter(
        sink,
        counters,
        lambda told: [tell(ok) for tell, ok in told],
        keeps=keeps,
        clock=lambda: now[0],  # type: ignore[arg-type,func-returns-value]
    )
    with pytest.MonkeyPatch.context() as patch:
        sink.open()
        patch.setattr(sinks.os, "write", Disk(script))
        if not can_cut:
            patch.setattr(sinks.os, "ftruncate", refuse)
        for lines in batches:
            chunk = b"".join(line + b"\n" for line in lines)
            writer._held.append(LineBatch(len(lines), chunk, [(len(lines), heard.append)]))
            if not together:
                writer.write_held()
            now[0] += 1.0
        writer.write_held()
        writer.write_held(last=True)
        sink.close()
    sent = [line for lines in batches for line in lines]
    assert counters.written + counters.failed == len(sent)
    assert len(heard) == len(batches), "everybody is told once"
    assert writer.done_bytes == sum(len(line) + 1 for line in sent)
    found = written(folder).split(b"\n")
    if can_cut:
        assert found.pop() == b""
        assert len(found) == counters.written
        assert subsequence(found, sent)
        if never_full:
            assert found == sent
    else:
        whole = [line for line in found if line in LINES]
        assert len(whole) >= counters.written, "a torn line may look like a short one, a whole one is never spoilt"


@pytest.mark.parametrize(("taken", "told"), [(12, [True, True, True]), (5, [True, False, False])])
def test_batches_that_wait_are_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, told: list[bool]
) -> None:
    """A disk that takes longer for a write than batches take to come would else fall behind without end; everybody
    is told of their own lines."""
    sink, counters, writes, heard = make_sink(tmp_path), LogCounters(), list[int](), list[bool]()

    def write(file: int, data: bytes) -> int:
        writes.append(len(data))
        if len(writes) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.pwrite(file, bytes(data[:taken]), 0)

    def notify(results: list[tuple[Written, bool]]) -> None:
        for tell, ok in results:
            tell(ok)

    writer = LogWriter(sink, counters, notify, keeps=True, clock=lambda: 0.0)
    sink.open()
    monkeypatch.setattr(sinks.os, "write", write)
    for number in range(3):
        writer.put(LineBatch(2, b"%d\n%d\n" % (number, number), [(2, heard.append)]))
    writer._round()
    assert writes[0] == 12
    assert heard == told
    assert counters.written == 2 * told.count(True)
    sink.close()


def test_what_waits_at_the_end_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a disk that takes 2 s for each would not have the lines of half a second in the 10 s that closing has."""
    sink, counters, writes = make_sink(tmp_path), LogCounters(), list[int]()

    def write(file: int, data: bytes) -> int:
        writes.append(len(data))
        return os.pwrite(file, data, 0)

    writer = LogWriter(sink, counters, lambda told: None, keeps=True, clock=lambda: 0.0)
    sink.open()
    monkeypatch.setattr(sinks.os, "write", write)
    for number in range(8):
        writer.put(LineBatch(2, b"%d\n%d\n" % (number, number), []))
    writer.close(0.0)
    assert writer._round() is None
    assert writes == [32]
    assert (counters.written, counters.failed) == (16, 0)


def refuse(*_: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def subsequence(part: list[bytes], whole: list[bytes]) -> bool:
    rest = iter(whole)
    return all(line in rest for line in part)


def test_kept_lines_are_all_written_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full for a while costs no line while there is room in the buffer, and repeats none."""
    sink, counters, now = make_sink(tmp_path), LogCounters(), [0.0]
    writer = LogWriter(sink, counters, lambda told: None, keeps=True, clock=lambda: now[0])
    sink.open()
    monkeypatch.setattr(sinks.os, "write", Disk([3, None, 1, None, None, 2, None]))
    for number in range(5):
        writer._held.append(LineBatch(2, b"%da\n%db\n" % (number, number)))
        writer.write_held()
        now[0] += 1.0
    writer.write_held()
    assert writer.failure is None
    assert written(tmp_path) == b"".join(b"%da\n%db\n" % (n, n) for n in range(5))
    assert (counters.written, counters.failed) == (10, 0)
    sink.close()


@pytest.mark.parametrize("how", ["file", "folder", "moved"])
def test_a_file_that_is_removed_is_made_again(tmp_path: Path, how: str) -> None:
    """Whether the file, its folder or its name goes: the next line is in a new file under the old folder's name."""
    folder = tmp_path / "logs"
    sink = make_sink(folder)
    sink.open()
    assert sink.commit(b"1\n") == (2, None)
    if how == "file":
        Path(sink.where).unlink()
    elif how == "folder":
        shutil.rmtree(folder)
    else:
        folder.rename(tmp_path / "gone")
    assert sink.commit(b"2\n") == (2, None)
    assert written(folder) == b"2\n"
    sink.close()


def test_a_file_that_is_removed_during_the_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that went into a file without a name are written again: they were counted, and nowhere else."""
    sink = make_sink(tmp_path)
    sink.open()
    real = sinks.write

    def write(file: int, chunk: bytes, *system: object) -> tuple[int, OSError | None]:
        with contextlib.suppress(FileNotFoundError):
            first.unlink()
        return real(file, chunk)

    first = Path(sink.where)
    monkeypatch.setattr(sinks, "write", write)
    assert sink.commit(b"1\n") == (2, None)
    assert written(tmp_path) == b"1\n"
    assert Path(sink.where) != first
    sink.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_device_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line that could not be written is counted as lost, and none is left over."""
    file = os.open("/dev/full", os.O_WRONLY)
    counters = LogCounters()
    writer = LogWriter(StdoutSink(file), counters, lambda told: None, keeps=False)
    for _ in range(3):
        writer._held.append(LineBatch(2, b"{}\n{}\n"))
        writer.write_held()
    os.close(file)
    assert (counters.written, counters.failed) == (0, 6)


def test_a_pipe_whose_line_was_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be cut off is ended, so that the next line is whole."""
    read, write = os.pipe()
    steps: list[int | None] = [4, None]

    def script(file: int, data: Any) -> int:
        step = steps.pop(0) if steps else len(data)
        if step is None:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return real(file, bytes(data[:step]))

    real = os.write
    monkeypatch.setattr(sinks.os, "write", script)
    sink = StdoutSink(write)
    size, error = sink.commit(b"aa\nbb\n")
    assert (size, error is not None) == (3, True)
    assert sink.commit(b"bb\ncc\n") == (6, None)
    monkeypatch.undo()
    assert os.read(read, 100) == b"aa\nb\nbb\ncc\n"
    os.close(read)
    os.close(write)


# --- rotation and fsync -----------------------------------------------------------------------------------------------


def test_rotation_by_size_and_age(tmp_path: Path) -> None:
    """A file that is large or old enough is closed, and its closing told; an empty one never is."""
    now, closed = [0.0], []
    sink = make_sink(
        tmp_path, rotate_bytes=10, rotate_seconds=60, on_closed=lambda: closed.append(1), clock=lambda: now[0]
    )
    sink.open()
    names = [sink.where]

    def step(chunk: bytes) -> None:
        if chunk:
            sink.commit(chunk)
        else:
            sink.idle()
        names.append(sink.where)

    step(b"12345678\n")
    assert names[-1] == names[-2]
    step(b"9\n")
    assert names[-1] != names[-2], "ten bytes are enough"
    now[0] += 61
    step(b"")
    assert names[-1] == names[-2], "it is empty"
    step(b"1\n")
    assert names[-1] != names[-2], "it was old when it got its first line"
    step(b"2\n")
    now[0] += 61
    step(b"")
    assert names[-1] != names[-2], "no line is needed"
    assert len(closed) == 3
    assert names == sorted(names), "names sort by age"
    assert written(tmp_path) == b"12345678\n9\n1\n2\n"
    sink.close()


def test_no_new_file_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the old one goes on, and rotation comes when it can."""
    now = [0.0]
    sink = make_sink(tmp_path, rotate_bytes=2, clock=lambda: now[0])
    sink.open()
    name = sink.where
    with monkeypatch.context() as patch:
        patch.setattr(sinks, "create", refuse)
        assert sink.commit(b"1\n") == (2, None)
        assert sink.commit(b"2\n") == (2, None)
        assert sink.where == name
    now[0] += 2
    assert sink.commit(b"3\n") == (2, None)
    assert sink.where != name
    assert Path(name).read_bytes() == b"1\n2\n3\n"
    sink.close()


@pytest.mark.parametrize(
    ("fsync", "expected"), [("never", [0, 0, 0, 0]), ("interval", [0, 1, 0, 1]), ("always", [1, 1, 1, 0])]
)
def test_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fsync: str, expected: list[int]) -> None:
    """After each write, once a second and at the end, or left to the system."""
    calls, now = [0], [0.0]

    def count(file: int) -> None:
        calls[0] += 1

    monkeypatch.setattr(sinks.os, "fsync", count)
    sink = make_sink(tmp_path, fsync=fsync, clock=lambda: now[0])
    sink.open()
    seen = []

    def look() -> None:
        seen.append(calls[0])
        calls[0] = 0

    sink.commit(b"1\n")
    look()
    now[0] += 1.5
    sink.commit(b"2\n")
    look()
    sink.commit(b"3\n")
    look()
    sink.close()
    look()
    assert seen == expected


def test_a_disk_that_does_not_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed fsync nobody knows what is on disk: the lines are not written, and the next go to a new file."""
    sink = make_sink(tmp_path, fsync="always")
    sink.open()
    name = sink.where
    with monkeypatch.context() as patch:
        patch.setattr(sinks.os, "fsync", refuse)
        size, error = sink.commit(b"1\n")
        assert (size, error is not None) == (0, True)
    assert sink.commit(b"1\n") == (2, None)
    assert sink.where != name
    sink.close()


def test_a_torn_line_stays_alone(tmp_path: Path) -> None:
    """A start never goes on in a file that is there, whatever the clock says."""
    identity = WriterIdentity("host", 1)

    def at() -> float:
        return 1_790_000_000.0

    paths = []
    for _ in range(3):
        file, path = create(tmp_path, identity, at)
        os.write(file, b'{"torn')
        os.close(file)
        paths.append(path)
    paths[2].rename(paths[2].with_suffix(".jsonl.zst"))
    file, path = create(tmp_path, identity, at)
    os.close(file)
    assert len({*paths, path}) == 4


def test_a_file_that_somebody_has_emptied_is_not_made_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a line is cut off the size that is there, or zeros would fill what was taken away."""
    sink, script = make_sink(tmp_path), list[int | None]()
    monkeypatch.setattr(sinks.os, "write", Disk(script))
    sink.open()
    assert sink.commit(b"a" * 1000 + b"\n") == (1001, None)
    (path,) = tmp_path.glob("*.jsonl")
    os.truncate(path, 0)
    script[:] = [5, None]
    size, error = sink.commit(b"bb\ncccc\n")
    assert (size, error is not None) == (3, True)
    assert path.read_bytes() == b"bb\n"
    sink.close()
