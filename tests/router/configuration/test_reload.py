"""Following the file: real files, changed the way editors and Kubernetes change them; workers without a network."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load_text
from abfleet_router.fleet.health_watch import ReplicaHealth

from tests.router.fakes import turns
from tests.router.follower import NOW, Follower, experiments


async def test_the_first_configuration(follower: Follower) -> None:
    """It is generation 1; its allocation is logged with nobody moved, and it is no reload."""
    (snapshot,) = follower.used
    assert (snapshot.generation, snapshot.activated) == (1, NOW)
    (line,) = follower.events("allocation")
    assert (line["experiment"], line["traffic"], line["weights"], line["moved"]) == (
        "ranking",
        100,
        {"control": 90, "treatment": 10},
        None,
    )
    assert line["config_revision"] == snapshot.revision
    assert follower.events("reload") == []


async def test_a_wrong_first_file(tmp_path: Path, followers: list[Follower]) -> None:
    """Without a good configuration there is nothing to start with: every mistake is told."""
    one = Follower(tmp_path, "version: 1\ndefault: v1\nmodels: {}\nexperimets: []\n")
    followers.append(one)
    with pytest.raises(ConfigErrors) as caught:
        await one.reloader.start()
    assert len(caught.value.errors) >= 2
    one.file.unlink()
    with pytest.raises(ConfigErrors, match="cannot be read"):
        await one.reloader.start()


async def test_at_the_start_only_the_default_is_waited_for(tmp_path: Path, followers: list[Follower]) -> None:
    """Other versions fall back until they are there."""
    one = Follower(tmp_path, experiments(90, 10))
    followers.append(one)
    await one.reloader.start()
    await turns()
    one.health("v1", ReplicaHealth.NOT_SERVING)
    one.health("v2", ReplicaHealth.NOT_SERVING)
    await one.poll()
    assert one.used == []
    assert any("waits for a worker that serves v1" in error for error in one.reloader.state.errors)
    one.health("v1", ReplicaHealth.SERVING)
    await one.poll()
    assert one.weights == [90, 10]
    assert one.reloader.state.errors == ()


@pytest.mark.parametrize("way", ["rename over it", "write into it", "away and back", "link"])
async def test_an_edit_is_taken_up(tmp_path: Path, followers: list[Follower], way: str) -> None:
    """However it is written: by rename, in place, by moving the old file away, or by a ConfigMap's link of links."""
    one = Follower(tmp_path, experiments(90, 10))
    followers.append(one)
    if way == "link":
        for number, text in enumerate((experiments(90, 10), experiments(50, 50))):
            (tmp_path / f"..{number}").mkdir()
            (tmp_path / f"..{number}" / "recommender.yaml").write_text(text)
        (tmp_path / "..data").symlink_to("..0")
        one.file.unlink()
        one.file.symlink_to(Path("..data") / "recommender.yaml")
    await one.begin()
    old = one.used[-1]
    await one.poll(3)
    assert len(one.used) == 1, "nothing has changed"
    text = experiments(50, 50)
    match way:
        case "rename over it":
            one.replace(text)
        case "write into it":
            one.file.write_text(text)
        case "away and back":
            one.file.rename(tmp_path / "recommender.yaml~")
            await one.poll()
            assert "cannot be read" in one.reloader.state.errors[0]
            one.file.write_text(text)
        case _:
            (tmp_path / "..data_tmp").symlink_to("..1")
            (tmp_path / "..data_tmp").replace(tmp_path / "..data")
    await one.poll()
    assert one.weights == [50, 50]
    assert (one.used[-1].generation, one.reloader.state.errors) == (2, ())
    line = one.events("reload")[-1]
    assert (line["old_revision"], line["new_revision"], line["active"], line["errors"]) == (
        old.revision,
        one.used[-1].revision,
        True,
        [],
    )
    assert line["moved"] == pytest.approx(0.4)
    assert [event["weights"]["treatment"] for event in one.events("allocation")] == [10, 50]
    assert one.events("allocation")[-1]["moved"] == pytest.approx(0.4)


async def test_an_edit_that_the_numbers_hide_is_found(follower: Follower) -> None:
    """Same size, same times, same inode: the content is compared every so many polls."""
    stat = follower.file.stat()
    text = experiments(80, 20)
    assert len(text) == stat.st_size
    follower.file.write_text(text)
    os.utime(follower.file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    await follower.poll(25)
    assert follower.weights == [80, 20]


async def test_an_edit_without_meaning_is_no_reload(follower: Follower) -> None:
    """A comment changes no revision, and a touch changes nothing at all."""
    follower.replace("# a comment\n" + experiments(90, 10))
    await follower.poll()
    follower.file.touch()
    await follower.poll(25)
    assert len(follower.used) == 1
    assert follower.events("reload") == []


async def test_an_edit_of_excluded_windows_is_no_reload(follower: Follower) -> None:
    """A window is for the analysis alone: no revision, no snapshot, no line in the log."""
    before = len(follower.events("allocation"))
    window = "{from: 2026-11-02T00:00:00Z, to: 2026-11-03T00:00:00Z, why: an incident}"
    follower.replace(experiments(90, 10, extra=f"    exclude: [{window}]\n"))
    await follower.poll(25)
    assert follower.reloader.state.errors == ()
    assert len(follower.used) == 1
    assert (follower.events("reload"), len(follower.events("allocation"))) == ([], before)


async def test_a_wrong_file_keeps_the_old_one(follower: Follower) -> None:
    """Every mistake is told with its place, logged and counted once; the good configuration stays."""
    follower.replace(experiments(90, 20).replace("default: v1", "default: v7").replace("salt: s", "slat: s"))
    await follower.poll(45)
    assert follower.weights == [90, 10]
    errors = follower.reloader.state.errors
    assert len(errors) == 3
    assert all(str(follower.file) in error for error in errors)
    (line,) = follower.events("reload")
    assert (line["active"], line["new_revision"], line["errors"]) == (False, None, list(errors))
    assert follower.bench.metrics.reload_failures == 1
    follower.replace(experiments(90, 10))
    await follower.poll()
    assert follower.reloader.state.errors == ()
    assert len(follower.used) == 1, "it was in force all the time"


async def test_a_new_version_is_waited_for(follower: Follower) -> None:
    """Nothing of the new file counts before a worker serves what it adds; then all of it does, at once."""
    follower.bench.down.add("v9")
    follower.replace(experiments(60, 30, 10, v9=True))
    await follower.poll(5)
    assert follower.weights == [90, 10]
    (error,) = follower.reloader.state.errors
    assert "waits for a worker that serves v9" in error
    (waiting,) = follower.events("reload")
    assert (waiting["active"], waiting["errors"]) == (False, [error])
    assert waiting["new_revision"] == follower.reloader.state.seen_revision != follower.used[-1].revision
    follower.health("v9", ReplicaHealth.SERVING)
    await follower.poll()
    assert follower.weights == [60, 30, 10]
    assert follower.events("reload")[-1]["active"]
    assert follower.used[-1].routes[follower.used[-1].arms[0].index].pool is follower.bench.fleet.pools["v1"]


async def test_a_group_at_weight_0_is_not_waited_for(follower: Follower) -> None:
    """Its version is not used yet."""
    follower.bench.down.add("v9")
    follower.replace(experiments(90, 10, 0, v9=True))
    await follower.poll(2)
    assert follower.weights == [90, 10, 0]


@pytest.mark.parametrize(
    "text",
    [
        experiments(100, 0),
        experiments(95, 5),
        experiments(90, 10, extra="    enabled: false\n"),
        "version: 1\ndefault: v1\nmodels: {v1: {target: '10.0.0.1:1'}}\n",
    ],
    ids=["to nothing", "down", "disabled", "removed"],
)
async def test_halting_and_ramping_down_wait_for_nobody(follower: Follower, text: str) -> None:
    """With every worker dead, less is in force at once: that is when it is needed most."""
    follower.health("v1", ReplicaHealth.LOST)
    follower.health("v2", ReplicaHealth.LOST)
    follower.replace(text)
    await follower.poll()
    assert len(follower.used) == 2
    assert follower.reloader.state.errors == ()


async def test_what_waits_can_be_taken_back(follower: Follower) -> None:
    """The old file again: nothing waits, and the workers that were looked for are let go."""
    follower.bench.down.add("v9")
    follower.replace(experiments(60, 30, 10, v9=True))
    await follower.poll(2)
    follower.replace(experiments(90, 10))
    await follower.poll()
    assert follower.reloader.state.errors == ()
    assert set(follower.bench.fleet.pools) == {"v1", "v2"}
    follower.health("v9", ReplicaHealth.SERVING)
    await follower.poll(3)
    assert len(follower.used) == 1


async def test_a_wrong_file_ends_the_waiting_for_an_older_one(follower: Follower) -> None:
    """What comes into force is what the file says, or stays: never what it said in between."""
    follower.bench.down.add("v9")
    follower.replace(experiments(60, 30, 10, v9=True))
    await follower.poll(2)
    follower.replace("nonsense")
    await follower.poll()
    follower.health("v9", ReplicaHealth.SERVING)
    await follower.poll(25)
    assert follower.weights == [90, 10]
    assert follower.reloader.state.errors
    assert not any("waits" in error for error in follower.reloader.state.errors)
    follower.bench.down.clear()
    follower.replace(experiments(60, 30, 10, v9=True))
    await follower.poll(3)
    assert follower.weights == [60, 30, 10]


async def test_the_fleet_file_is_followed_too(tmp_path: Path, followers: list[Follower]) -> None:
    """Its targets count, and a change of it alone moves the workers."""
    one = Follower(tmp_path, experiments(90, 10), "version: 1\nmodels: {v1: {target: '10.9.0.1:1'}}\n")
    followers.append(one)
    await one.begin()
    assert [replica.address for replica in one.bench.fleet.pools["v1"].replicas] == ["10.9.0.1:1"]
    assert one.fleet_file is not None
    one.fleet_file.write_text("version: 1\nmodels: {v1: {target: ['10.9.0.1:1', '10.9.0.22:1']}}\n")
    await one.poll()
    assert [replica.address for replica in one.bench.fleet.pools["v1"].replicas] == ["10.9.0.1:1", "10.9.0.22:1"]
    (line,) = one.events("reload")
    assert (line["active"], line["moved"], line["old_revision"]) == (True, 0, line["new_revision"])
    assert one.used[-1].revision == load_text(experiments(90, 10)).revision


async def test_versions_that_are_gone_are_let_go(follower: Follower) -> None:
    """Their replicas drain and close once the file is in force, the others are not touched."""
    kept = follower.bench.fleet.pools["v1"].replicas
    follower.replace("version: 1\ndefault: v1\nmodels: {v1: {target: '10.0.0.1:1'}}\n")
    await follower.poll()
    assert set(follower.bench.fleet.pools) == {"v1"}
    assert follower.bench.fleet.pools["v1"].replicas == kept
    (gone,) = [one for one in follower.bench.made if one.version == "v2"]
    assert gone.draining


async def test_conclusions_are_logged_at_the_start_and_at_each_change(
    tmp_path: Path, followers: list[Follower]
) -> None:
    """Once for each start and each new configuration, not for polls, wrong files and ramp rows."""
    first = "concluded:\n  - {experiment: old, winner: control, at: 2026-10-01T09:00:00+02:00}\n"
    ramp = "    ramp:\n      - {at: 2026-11-01T00:00:00Z, control: 90, treatment: 10}\n"
    ramp += "      - {at: 2026-11-02T00:00:00Z, control: 50, treatment: 50}\n"
    one = Follower(tmp_path, experiments(50, 50, extra=ramp) + first)
    followers.append(one)
    await one.begin()
    (line,) = one.events("conclusion")
    assert (line["experiment"], line["winner"], line["concluded_at"]) == (
        "old",
        "control",
        "2026-10-01T07:00:00.000000Z",
    )
    assert line["config_revision"] == one.used[0].revision
    one.now = datetime(2026, 11, 2, tzinfo=UTC)
    await one.poll(3)
    assert len(one.used) == 2
    assert len(one.events("conclusion")) == 1
    later = "  - {experiment: other, winner: treatment, at: 2026-11-02T00:00:00Z}\n"
    one.replace(experiments(50, 50, extra=ramp) + first + later)
    await one.poll(3)
    assert [line["experiment"] for line in one.events("conclusion")] == ["old", "old", "other"]


async def test_polls_at_the_same_time_are_one_after_the_other(follower: Follower) -> None:
    """A poll that an operator asks for and the regular one take a change up once."""
    follower.replace(experiments(50, 50))
    await asyncio.gather(*(follower.reloader.poll(force=number == 1) for number in range(4)))
    assert len(follower.used) == 2
    assert len(follower.events("reload")) == 1


async def test_following_survives_a_fault(follower: Follower, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody thought of ends one poll, not those after it."""
    polls, again = 0, asyncio.Event()

    async def poll(*, force: bool = False) -> None:
        nonlocal polls
        polls += 1
        if polls == 1:
            raise RuntimeError("a fault")
        again.set()

    monkeypatch.setattr(follower.reloader, "poll", poll)
    following = asyncio.create_task(follower.reloader.follow(0.001))
    async with asyncio.timeout(10):
        await again.wait()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_a_file_that_is_being_written_is_not_read_half(tmp_path: Path, followers: list[Follower]) -> None:
    """With a poll to settle, a file that changes from poll to poll is read once it has stopped changing; a half of it
    that happens to be valid never comes into force."""
    follower = Follower(tmp_path, experiments(90, 10), settle_polls=1)
    followers.append(follower)
    await follower.begin()
    half = experiments(90, 10).split("experiments:", maxsplit=1)[0]
    follower.file.write_text(half)
    await follower.poll()
    follower.file.write_text(experiments(60, 40))
    await follower.poll()
    assert len(follower.used) == 1
    await follower.poll()
    assert follower.weights == [60, 40]
    assert len(follower.used) == 2
    follower.file.write_text(experiments(50, 50))
    await follower.reloader.poll(force=True)
    assert follower.weights == [50, 50], "a reload that somebody asks for does not wait"
