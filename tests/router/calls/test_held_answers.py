"""The policy `refuse`: no answer without its line, on the real log and the story of a call around it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import orjson
import pytest
from abfleet_log.writer import sinks
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_log.writer.log_settings import LogSettings
from abfleet_transport.call import Code

from tests.router.bench import CONFIG, Bench
from tests.router.fakes import FakeCall, worker_answer
from tests.support.full_disk import FullDisk


class RefusingBench(Bench):
    """A bench whose router holds answers, over a real log."""

    def __init__(self, folder: Path, config: str = CONFIG) -> None:
        self.real_log = DecisionLog(folder, LogSettings(policy="refuse", compress="none", flush_interval_seconds=3600))
        super().__init__(config=config, decision_log=self.real_log, holds_answers=True)

    def lines(self) -> list[dict[str, Any]]:
        """What the file has."""
        text = Path(self.real_log.path).read_bytes()
        return [orjson.loads(line) for line in text.splitlines()]


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[RefusingBench]:
    """Open, with every replica serving."""
    one = RefusingBench(tmp_path)
    one.real_log.open()
    await one.open()
    yield one
    await one.close()
    one.real_log.close()


async def answered(calls: list[FakeCall]) -> None:
    """Waits for what the writer's thread lets go."""
    async with asyncio.timeout(30):
        while not all(call.answers for call in calls):
            await asyncio.sleep(0.001)


async def test_an_answer_follows_its_line(bench: RefusingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the write is under way nobody has an answer; when one has it, the line is in the file, with no timer."""
    seen_in_write: list[int] = []
    real_write = sinks.write

    def write(file: int, chunk: bytes, *system: object) -> tuple[int, OSError | None]:
        seen_in_write.append(sum(len(call.answers) for call in calls))
        return real_write(file, chunk)

    monkeypatch.setattr(sinks, "write", write)
    calls = [bench.call(user, request_id=f"{user}-{n}") for n in range(5) for user in ("on-v1", "on-v2", "on-v3")]
    await bench.arrive(*calls)
    await bench.run_dry()
    await answered(calls)
    assert seen_in_write[0] == 0
    assert {line["request_id"] for line in bench.lines()} == {call.response.request_id for call in calls}
    assert bench.rpc.handled(0) == {"OK": 15}
    assert sum(stats.calls for stats in bench.metrics.arms.values()) == 15
    bench.nothing_is_left()


async def test_no_line_no_answer(bench: RefusingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: callers get UNAVAILABLE, no line of theirs is in the file, each is counted as lost and as an error;
    when there is room again answers flow again, without a restart."""
    disk = FullDisk(monkeypatch)
    refused = [bench.call("on-v2", request_id=f"refused-{n}") for n in range(7)]
    await bench.arrive(*refused)
    await bench.run_dry()
    await answered(refused)
    assert {call.code for call in refused} == {Code.UNAVAILABLE}
    assert "decision log" in cast(Any, refused[0].only).message
    assert bench.real_log.counters.lost == 7
    assert bench.real_log.failing
    disk.full = False
    served = [bench.call("on-v2", request_id=f"served-{n}") for n in range(3)]
    await bench.arrive(*served)
    await bench.run_dry()
    await answered(served)
    assert {line["request_id"] for line in bench.lines()} == {"served-0", "served-1", "served-2"}
    assert not bench.real_log.failing
    assert bench.rpc.handled(0) == {"UNAVAILABLE": 7, "OK": 3}
    (stats,) = [one for one in bench.metrics.arms.values() if one.calls]
    assert (stats.calls, stats.errors) == (10, 7)


async def test_calls_are_asked_again_once_their_lines_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before the answer, which waits for the line; and not at all where there is no line, and so no answer."""
    disk = FullDisk(monkeypatch)
    bench = RefusingBench(tmp_path, f"{CONFIG}shadow: [{{model: v3, percent: 100}}]\n")
    bench.real_log.open()
    await bench.open()
    for code, asked in ((Code.UNAVAILABLE, 0), (Code.OK, 1)):
        call = bench.call("on-v2")
        await bench.arrive(call)
        (_, sent), *_ = bench.open_batches("v2")
        sent.answer(worker_answer("v2", sent.requests))
        assert (call.answers, bench.router.shadows.open) == ([], 0)
        await answered([call])
        assert (call.code, bench.router.shadows.open) == (code, asked)
        disk.full = False
    await bench.close()
    bench.real_log.close()


async def test_a_write_that_ends_half_way(bench: RefusingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has an answer has a line, whatever became of the rest of the batch."""
    real_write = sinks.write
    parts = [1500]

    def write(file: int, chunk: bytes, *system: object) -> tuple[int, OSError | None]:
        if not parts:
            return real_write(file, chunk)
        size, _ = real_write(file, chunk[: parts.pop()])
        return size, OSError(28, "No space left on device")

    monkeypatch.setattr(sinks, "write", write)
    calls = [bench.call(user, request_id=f"{user}-{n}") for n in range(5) for user in ("on-v1", "on-v2", "on-v3")]
    await bench.arrive(*calls)
    await bench.run_dry()
    await answered(calls)
    logged = {line["request_id"] for line in bench.lines()}
    told = {call.response.request_id for call in calls if call.code is Code.OK}
    assert told < {f"{user}-{n}" for n in range(5) for user in ("on-v1", "on-v2", "on-v3")}
    assert told <= logged
    assert len(logged) + bench.real_log.counters.lost == 15


async def test_a_caller_who_goes_while_it_waits(bench: RefusingBench) -> None:
    """Its line stays, it is counted once, and nobody else notices."""
    gone, stays = bench.call("on-v1", request_id="gone"), bench.call("on-v1", request_id="stays")
    await bench.arrive(gone, stays)
    await bench.run_dry()
    bench.router.on_cancelled(gone)
    await answered([stays])
    assert {line["request_id"] for line in bench.lines()} == {"gone", "stays"}
    assert bench.rpc.handled(0) == {"OK": 2}
    bench.nothing_is_left()
