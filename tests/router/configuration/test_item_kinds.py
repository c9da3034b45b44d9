"""Versions that stand for each other have numbers, or names: a configuration that mixes them is not put into force."""

from pathlib import Path

from abfleet_protos.inference_pb2 import ModelMetadataResponse
from abfleet_router.fleet.health_watch import ReplicaHealth
from abfleet_router.fleet.http2_client_stream import RpcFailed
from abfleet_transport.call import Code

from tests.router.bench import fake
from tests.router.fakes import turns
from tests.router.follower import Follower, experiments

NUMBERS = ModelMetadataResponse(outputs=[{"name": "item_ids", "datatype": "INT64"}])  # type: ignore[list-item]
NAMES = ModelMetadataResponse(outputs=[{"name": "item_ids", "datatype": "BYTES"}])  # type: ignore[list-item]
TENSORS = ModelMetadataResponse(outputs=[{"name": "score", "datatype": "FP32"}])  # type: ignore[list-item]


class Kinds(Follower):
    """A follower whose workers say what their items are."""

    def says(self, **kinds: ModelMetadataResponse | RpcFailed) -> None:
        """From now on; by version."""
        for replica in self.bench.made:
            if replica.version in kinds:
                fake(replica).metadata = kinds[replica.version]

    async def begin_with(self, **kinds: ModelMetadataResponse | RpcFailed) -> None:
        await self.reloader.start()
        await turns()
        self.says(**kinds)
        await self.poll()


async def test_versions_that_agree_are_put_into_force(tmp_path: Path, followers: list[Follower]) -> None:
    """All names, all numbers, models of tensors, and workers that do not say what they take."""
    for number, kinds in enumerate(
        ({"v1": NAMES, "v2": NAMES}, {"v1": NUMBERS, "v2": NUMBERS}, {"v1": NAMES, "v2": TENSORS}, {"v1": NAMES})
    ):
        (tmp_path / str(number)).mkdir()
        one = Kinds(tmp_path / str(number), experiments(90, 10))
        followers.append(one)
        await one.begin_with(**kinds)
        await one.poll()
        assert one.weights == [90, 10]
        assert (one.reloader.state.errors, one.reloader.state.differing) == ((), ())


async def test_an_edit_that_mixes_them_stays_out(tmp_path: Path, followers: list[Follower]) -> None:
    """It says which version has what, once in the log; it comes into force when its workers agree."""
    one = Kinds(tmp_path, experiments(90, 10))
    followers.append(one)
    await one.begin_with(v1=NAMES, v2=NAMES)
    before = one.used[-1].revision
    one.replace(experiments(80, 10, 10, v9=True))
    await one.poll()
    one.says(v9=NUMBERS)
    await one.poll(3)
    said = "is not in force: item ids differ: v1 has names, v2 has names, v9 has numbers"
    (error,) = one.reloader.state.errors
    assert said in error
    assert one.used[-1].revision == before
    assert [said in line["errors"][0] for line in one.events("reload")] == [False, True], "it has waited for v9 before"
    one.says(v9=NAMES)
    await one.poll()
    assert one.weights == [80, 10, 10]
    assert one.reloader.state.errors == ()


async def test_a_first_file_that_mixes_them_is_not_served(tmp_path: Path, followers: list[Follower]) -> None:
    """There is nothing else to serve: the router is not ready, and says why."""
    one = Kinds(tmp_path, experiments(90, 10))
    followers.append(one)
    await one.begin_with(v1=NUMBERS, v2=NAMES)
    assert one.used == []
    assert "v1 has numbers, v2 has names" in one.reloader.state.errors[0]
    one.replace(experiments(90, 10).replace("model: v2", "model: v1"))
    await one.poll()
    assert one.weights == [90, 10]


async def test_what_takes_a_version_away_is_never_held_up(tmp_path: Path, followers: list[Follower]) -> None:
    """Versions in force that differ after all are named by the status; halting goes through, and nobody is asked."""
    one = Kinds(tmp_path, experiments(90, 10))
    followers.append(one)
    await one.reloader.start()
    await turns()
    one.health("v2", ReplicaHealth.NOT_SERVING)
    one.says(v1=NUMBERS, v2=NAMES)
    await one.poll()
    assert one.weights == [90, 10]
    assert one.reloader.state.differing == ()
    one.health("v2", ReplicaHealth.SERVING)
    await one.poll()
    (differing,) = one.reloader.state.differing
    assert "v1 has numbers, v2 has names" in differing
    one.replace(experiments(100, 0))
    await one.poll()
    assert one.weights == [100, 0]
    one.says(v2=NUMBERS)
    await one.poll(2)
    assert one.reloader.state.differing == ()


async def test_a_worker_that_cannot_answer_now_is_asked_again(tmp_path: Path, followers: list[Follower]) -> None:
    """What it may not say at all is not waited for."""
    one = Kinds(tmp_path, experiments(90, 10))
    followers.append(one)
    await one.begin_with(v1=NUMBERS, v2=RpcFailed(Code.UNAVAILABLE, "busy"))
    assert (one.weights, one.reloader.state.differing) == ([90, 10], ())
    one.says(v2=NAMES)
    await one.poll()
    assert one.reloader.state.differing != ()
