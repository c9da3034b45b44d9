"""Live reloads on real processes: what the plan says is what happens, on every router, and nothing is lost or kept."""

import asyncio
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from abfleet_protos import admin_pb2, admin_pb2_grpc
from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.proofs.reloads import reloads_under_load, the_plan_is_what_happens
from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.load import SEED_HISTORY, call_all

pytestmark = pytest.mark.system
AHEAD_SECONDS = 8
"""From an edit to the time of the row that it brings. A router reads a new file within a second."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A fleet that looks at its files often."""
    folder = tmp_path_factory.mktemp("reloads")
    with Fleet(folder, experiments=experiments_file(), router_flags=("--reload-interval", "0.02")) as running:
        for version in ("v1.2.3", "v1.3.0-beta", "v1.4.0-rc1"):
            running.wait_for_serving(version)
        yield running


def test_the_plan_is_what_happens(fleet: Fleet) -> None:
    """A live edit moves exactly the users whom the plan moves."""
    the_plan_is_what_happens(fleet, users=1000)


def test_reloads_under_load(fleet: Fleet) -> None:
    """Reload after reload loses no call, and leaves no task and no descriptor behind."""
    reloads_under_load(fleet, reloads=40)


def test_reload_on_request(tmp_path: Path) -> None:
    """SIGHUP and the admin call read the file at once, however seldom the router looks by itself; the admin call says
    what came of it."""
    with Fleet(tmp_path, experiments=experiments_file(), router_flags=("--reload-interval", "3600")) as fleet:
        first = fleet.status().config.revision
        fleet.edit(experiments_file(60, 30, 10))
        with grpc.insecure_channel(fleet.admin_address) as channel:
            admin = admin_pb2_grpc.AdminStub(channel)
            answer = wait_until(
                lambda: (a := admin.Reload(admin_pb2.ReloadRequest(), timeout=10)).active and a, "an active reload"
            )
            assert answer.config_revision == fleet.status().config.revision != first
            fleet.edit(experiments_file(60, 30, 11))
            refused = admin.Reload(admin_pb2.ReloadRequest(), timeout=10)
        assert not refused.active
        assert any("101" in error for error in refused.errors)
        assert refused.config_revision == answer.config_revision
        fleet.edit(experiments_file())
        assert fleet.router is not None
        fleet.router.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: fleet.status().config.revision == first, "the first file again after SIGHUP")


def test_a_ramp_row_takes_effect_on_two_routers(tmp_path: Path) -> None:
    """When its time comes, a dated row is in force on every router alike, without an edit, and each log says so."""
    begun = datetime.now(UTC) - timedelta(days=2)
    ramp: list[dict[str, object]] = [{"at": stamp(begun), "traffic": 100, "control": 90, "experiment": 10}]
    with Fleet(tmp_path, experiments=experiments_file(90, 10, 0, ramp=ramp)) as fleet:
        other, other_admin = fleet.start_another_router()
        for version in ("v1.2.3", "v1.3.0-beta", "v1.4.0-rc1"):
            fleet.wait_for_serving(version)
        wait_until(lambda: all(pool.available for pool in fleet.status(other_admin).pools), "the other's fleet")
        users = [RecommendRequest(item_ids=SEED_HISTORY, user_id=f"user-{number}") for number in range(300)]

        def groups(address: str) -> list[str]:
            return [answer.group for answer in asyncio.run(call_all(address, users))]

        before = groups(fleet.address)
        assert before == groups(other)
        assert set(before) == {"control", "experiment"}
        first = fleet.status().config.revision
        at = datetime.now(UTC) + timedelta(seconds=AHEAD_SECONDS)
        row = {"at": stamp(at), "traffic": 100, "control": 70, "experiment": 20, "canary": 10}
        fleet.edit(experiments_file(ramp=[*ramp, row]))
        for address in (fleet.admin_address, other_admin):
            wait_until(lambda address=address: fleet.status(address).config.revision != first, "the file with the row")
        generations = [fleet.status(a).config.generation for a in (fleet.admin_address, other_admin)]
        assert datetime.now(UTC) < at, "the routers took the file too late to see the row's time come"
        for address, generation in zip((fleet.admin_address, other_admin), generations, strict=True):
            wait_until(
                lambda address=address, generation=generation: fleet.status(address).config.generation > generation,
                "the row in force",
                60,
            )
            in_force = fleet.status(address).config.activated.ToDatetime(UTC)
            assert timedelta(0) <= in_force - at < timedelta(seconds=3)
        after = groups(fleet.address)
        assert after == groups(other)
        assert {"control", "experiment", "canary"} == set(after)
        assert all(was == now for was, now in zip(before, after, strict=True) if was != "control")
        rows = wait_until(
            lambda: (
                (found := [line for line in fleet.log() if line["event"] == "allocation" and line["moved"]])
                and len({line["router"] for line in found}) == 2
                and found
            ),
            "an allocation line of each router",
        )
        assert [line["moved"] for line in rows] == pytest.approx([0.2, 0.2])
        assert len({line["allocation"] for line in rows}) == 1


def stamp(at: datetime) -> str:
    """An instant as the file writes it."""
    return at.strftime("%Y-%m-%dT%H:%M:%SZ") if at.microsecond == 0 else at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_version_that_is_added_waits_for_its_worker(tmp_path: Path) -> None:
    """An edit that brings a version without a worker waits, says for what, and comes into force once the worker serves;
    what halts or ramps down does not wait."""
    two = experiments_file(80, 20, 0)
    with Fleet(tmp_path, experiments=two, versions=("v1.2.3", "v1.3.0-beta")) as fleet:
        first = fleet.status().config.revision
        fleet.edit(experiments_file(70, 20, 10))
        errors = wait_until(lambda: fleet.status().config.errors, "what it waits for")
        assert "v1.4.0-rc1" in errors[0]
        assert fleet.status().config.revision == first
        fleet.edit(experiments_file(80, 20, 0, enabled=False))
        wait_until(lambda: fleet.status().config.revision != first, "the halt in force")
        halted = fleet.status().config.revision
        fleet.edit(experiments_file(70, 20, 10))
        wait_until(lambda: fleet.status().config.errors, "what it waits for")
        fleet.add_worker("v1.4.0-rc1")
        wait_until(lambda: fleet.status().config.revision != halted, "the new version in force")
        with fleet.stub() as stub:
            answers = [
                stub.Recommend(RecommendRequest(item_ids=SEED_HISTORY, user_id=f"user-{number}"), timeout=10)
                for number in range(60)
            ]
        assert "v1.4.0-rc1" in {answer.model_version for answer in answers}
