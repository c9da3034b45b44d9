"""A worker goes where its alias leads, and stays with what serves when it cannot."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from abfleet_models.release import point
from abfleet_worker.errors import ModelLoadError
from abfleet_worker.follow import FIRST_RETRY_SECONDS, MOST_RETRY_SECONDS, Follower
from abfleet_worker.metrics import FollowerCounters
from structlog.testing import capture_logs

from tests.support.tiny_model import add_version, tiny_registry


class FakeModel:
    """A version that has been loaded."""

    sha256 = "0" * 64
    load_seconds = 0.1

    def __init__(self, version: str) -> None:
        self.version = version


class Bench:
    """A follower of `production`, which leads to v1.2.3 at first; nothing runs by itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.serving = "v1.2.3"
        self.loaded: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.counts = FollowerCounters()
        self.now = 100.0
        self.follower = Follower(
            root,
            "production",
            serving=lambda: self.serving,
            load=self._load,  # type: ignore[arg-type]
            change=self._change,  # type: ignore[arg-type]
            counts=self.counts,
            interval_seconds=0,
            clock=lambda: self.now,
        )

    def _load(self, version: str) -> FakeModel:
        self.loaded.append(version)
        if version in self.broken:
            raise self.broken[version]
        return FakeModel(version)

    async def _change(self, model: FakeModel) -> None:
        self.serving = model.version


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    root = tiny_registry(tmp_path / "registry")
    add_version(root, "v2")
    with capture_logs():
        yield Bench(root)


async def test_it_changes_when_the_link_has_moved(bench: Bench) -> None:
    """Not before, once, and back again after a rollback."""
    await bench.follower.poll(retry=False)
    assert bench.loaded == []
    point(bench.root, "production", "v2")
    for _ in range(3):
        await bench.follower.poll(retry=False)
    assert (bench.serving, bench.loaded, bench.counts) == ("v2", ["v2"], FollowerCounters(changes=1))
    point(bench.root, "production", "v1.2.3")
    await bench.follower.poll(retry=False)
    assert (bench.serving, bench.counts.changes) == ("v1.2.3", 2)


@pytest.mark.parametrize("error", [ModelLoadError("v2: broken"), MemoryError()])
async def test_what_does_not_load_is_left_and_tried_again_ever_later(bench: Bench, error: Exception) -> None:
    """The old version goes on; the failure is said once, and tried again after 1, 2, 4 … 60 seconds, not at every look;
    a version that loads at last serves."""
    point(bench.root, "production", "v2")
    bench.broken["v2"] = error
    pause = FIRST_RETRY_SECONDS
    with capture_logs() as logs:
        for tries in range(1, 10):
            await bench.follower.poll(retry=False)
            assert len(bench.loaded) == tries
            bench.now += pause - 0.01
            await bench.follower.poll(retry=False)
            assert len(bench.loaded) == tries
            bench.now += 0.02
            pause = min(MOST_RETRY_SECONDS, 2 * pause)
    assert (bench.serving, bench.counts) == ("v1.2.3", FollowerCounters(failures=9, behind=True))
    assert [line["event"] for line in logs] == ["cannot follow the alias"]
    bench.broken.clear()
    await bench.follower.poll(retry=False)
    assert (bench.serving, bench.counts) == ("v2", FollowerCounters(changes=1, failures=9))


async def test_a_request_does_not_wait_for_the_next_try(bench: Bench) -> None:
    """Whoever asks, by SIGHUP, has the version tried at once; so does who moves the alias to another one."""
    point(bench.root, "production", "v2")
    bench.broken["v2"] = ModelLoadError("v2: broken")
    await bench.follower.poll(retry=False)
    await bench.follower.poll(retry=True)
    assert bench.loaded == ["v2", "v2"]
    add_version(bench.root, "v3")
    point(bench.root, "production", "v3")
    await bench.follower.poll(retry=False)
    assert bench.serving == "v3"


async def test_an_alias_that_leads_nowhere_changes_nothing(bench: Bench) -> None:
    """A broken or a missing link is said, and the version serves on."""
    (bench.root / "production").unlink()
    with capture_logs() as logs:
        await bench.follower.poll(retry=False)
        (bench.root / "production").symlink_to("v9")
        await bench.follower.poll(retry=False)
        await bench.follower.poll(retry=False)
    assert bench.serving == "v1.2.3"
    assert ["'production' is not in the registry" in logs[0]["error"], "'v9'" in logs[1]["error"]] == [True, True]
    assert len(logs) == 2


async def test_it_runs_until_it_is_told_to_end(bench: Bench) -> None:
    """With an interval of 0 it looks only when asked."""
    running = asyncio.create_task(bench.follower.run())
    point(bench.root, "production", "v2")
    bench.follower.ask()
    async with asyncio.timeout(30):
        while bench.serving != "v2":
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
