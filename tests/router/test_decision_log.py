"""The writing half of the decision log, on real files: nothing is lost at the end, and what is lost is counted."""

import asyncio
import os
import stat
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from abfleet_router import decision_log
from abfleet_router.decision_log import DecisionLog
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
async def make_log(tmp_path: Path) -> AsyncIterator[Callable[[], DecisionLog]]:
    """Makes logs that flush when told, not opened yet; closes them."""
    made: list[DecisionLog] = []

    def make() -> DecisionLog:
        made.append(DecisionLog(tmp_path / "logs", flush_interval_seconds=3600))
        return made[-1]

    yield make
    for one in made:
        one.close()


Make = Callable[[], DecisionLog]


async def test_closing_writes_everything(make_log: Make) -> None:
    """What was appended before the end is in the file after it, each line whole, in order, and ended."""
    log = make_log()
    log.open()
    lines = [b'{"n":%d}' % number for number in range(5000)]
    for number, line in enumerate(lines):
        log.append(line)
        if number % 700 == 0:
            log.flush()
    assert log.buffered > 0
    log.close()
    assert log.path.read_bytes() == b"\n".join(lines) + b"\n"
    assert (log.counters.written, log.counters.lost, log.buffered) == (5000, 0, 0)


async def test_a_line_reaches_the_file_without_being_asked(tmp_path: Path) -> None:
    """The flush comes by itself after the interval."""
    log = DecisionLog(tmp_path, flush_interval_seconds=0.001)
    log.open()
    log.append(b"{}")
    async with asyncio.timeout(30):
        while log.counters.written == 0:  # the writer is a thread
            await asyncio.sleep(0.001)
    assert log.path.read_bytes() == b"{}\n"
    assert log.buffered == 0
    log.close()


async def test_the_file_and_its_name(make_log: Make) -> None:
    """decisions-HOST-START-PID.jsonl, in a folder that is made; not for everybody to read."""
    log = make_log()
    log.open()
    assert log.path.name.startswith("decisions-")
    assert log.path.name.endswith(f"-{os.getpid()}.jsonl")
    assert stat.S_IMODE(log.path.stat().st_mode) & 0o007 == 0


async def test_an_existing_file_is_continued(make_log: Make) -> None:
    """A restart within a second under the same process number, as in a container, keeps what is there."""
    first, second = make_log(), make_log()
    second.path = first.path
    for number, log in enumerate((first, second)):
        log.open()
        log.append(b"%d" % number)
        log.close()
    assert first.path.read_bytes() == b"0\n1\n"


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """It is an error at the start, not later."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        DecisionLog(tmp_path / "file" / "logs").open()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
async def test_a_full_disk_is_counted(make_log: Make) -> None:
    """Every line that could not be written is counted as lost, and none is left over."""
    log = make_log()
    log.folder.mkdir()
    log.path.symlink_to("/dev/full")
    log.open()
    for _ in range(3):
        log.append(b"{}")
        log.append(b"{}")
        log.flush()
    log.close()
    assert (log.counters.written, log.counters.failed, log.counters.lost, log.buffered) == (0, 6, 6, 0)


class Disk:
    """Takes so many bytes in each call, and fails where the script says None."""

    def __init__(self, script: list[int | None]) -> None:
        self.script = script
        self.content = b""

    def write(self, file: int, data: bytes | memoryview) -> int:
        step = self.script.pop(0) if self.script else 1_000_000
        if step is None:
            raise OSError(28, "No space left on device")
        self.content += bytes(data[:step])
        return len(data[:step])


@given(
    st.lists(st.lists(st.sampled_from([b"aaaa", b"bb", b"c"]), min_size=1, max_size=4), min_size=1, max_size=6),
    st.lists(st.one_of(st.none(), st.integers(1, 8)), max_size=12),
)
def test_a_disk_that_is_full_for_a_while(chunks: list[list[bytes]], script: list[int | None]) -> None:
    """Wherever it fails: a line is written or lost, the two add up, and no whole line is spoilt by a torn one."""
    disk = Disk(script)
    log = DecisionLog(Path("unused"))
    log._file = 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("abfleet_router.decision_log.os", SimpleNamespace(write=disk.write))
        for lines in chunks:
            log._handed_over.put((len(lines), b"".join(line + b"\n" for line in lines)))
        log._handed_over.put(None)
        log._write_all()
    sent = [line for lines in chunks for line in lines]
    counters = log.counters
    assert counters.written + counters.failed == len(sent)
    *ended, rest = disk.content.split(b"\n")
    whole = [line for line in ended if line in (b"aaaa", b"bb", b"c")]
    assert len(whole) >= counters.written, "a torn line may look like a short one, a whole one is never spoilt"
    assert len(ended) - len(whole) + bool(rest) <= counters.failed


async def test_a_writer_that_cannot_keep_up(make_log: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs holds up nobody: lines past the bound are dropped and counted, the rest is written later."""
    monkeypatch.setattr(decision_log, "MAX_PENDING_BYTES", 10)
    free = threading.Event()

    def slow(file: int, data: bytes) -> int:
        free.wait(30)
        return os.write(file, data)

    log = make_log()
    log.open()
    monkeypatch.setattr("abfleet_router.decision_log.os", SimpleNamespace(write=slow, close=os.close))
    for _ in range(4):
        log.append(b"12345678")
        log.flush()
    assert (log.counters.dropped, log.buffered) == (2, 2)
    free.set()
    log.close()
    assert (log.counters.written, log.counters.lost, log.buffered) == (2, 2, 0)
    assert log.path.read_bytes() == b"12345678\n" * 2
