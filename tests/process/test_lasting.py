"""Background tasks outlive a fault of ours."""

import asyncio

import pytest
from abfleet_process import lasting
from structlog.testing import capture_logs


async def test_what_fails_is_begun_again_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each error is logged with its name; the pauses grow; one that returns has done."""
    monkeypatch.setattr(lasting, "FIRST_PAUSE_SECONDS", 0.0)
    begun = 0

    async def run() -> None:
        nonlocal begun
        begun += 1
        if begun < 4:
            raise ZeroDivisionError(f"time {begun}")

    with capture_logs() as lines:
        await lasting.start_lasting(run, "sums")
    assert begun == 4
    assert [(line["task"], line["log_level"]) for line in lines] == [("sums", "error")] * 3


async def test_a_task_that_is_cancelled_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it runs or pauses."""
    failed = asyncio.Event()

    async def fail() -> None:
        failed.set()
        raise ZeroDivisionError

    pausing, running = lasting.start_lasting(fail, "fails"), lasting.start_lasting(lambda: asyncio.sleep(3600), "runs")
    await failed.wait()
    await asyncio.sleep(0)
    for task in (pausing, running):
        task.cancel()
    ended = await asyncio.gather(pausing, running, return_exceptions=True)
    assert all(isinstance(one, asyncio.CancelledError) for one in ended)
