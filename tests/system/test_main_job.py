"""The main job on real processes, real models and stock clients: assignment, answers, log, edits, deaths."""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import mmh3
import pytest
from abfleet_log.schema import EVENTS, problems
from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.support.fleet import VERSIONS, Fleet, experiments_file, wait_until
from tests.support.load import SEED_HISTORY, Load, call_all

pytestmark = pytest.mark.system
SALT = "recommender-2026-11"
USERS = 5000


def group_of(user_id: str, experiment: int = 2000, canary: int = 1000) -> str:
    """The documented formula and layout, written down again: one treatment from bucket 0 up, the other from the top."""
    bucket = (mmh3.hash(f"{SALT}:{user_id}", 0, signed=False) * 10000) >> 32
    return "experiment" if bucket < experiment else "canary" if bucket >= 10000 - canary else "control"


VERSION_OF = dict(zip(("control", "experiment", "canary"), VERSIONS, strict=True))


@pytest.fixture(scope="module", params=["native", "grpcio"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that tests of this module share; each leaves the shipped weights in force."""
    folder = tmp_path_factory.mktemp("fleet")
    with Fleet(folder, experiments=experiments_file(), transport=request.param) as running:
        for version in VERSIONS:
            running.wait_for_serving(version)
        yield running


def test_the_seeds_call_answers(fleet: Fleet) -> None:
    """Five item ids and nothing else get ten recommendations, none of them from the history, from the default."""
    with fleet.stub() as stub:
        answer = stub.Recommend(RecommendRequest(item_ids=SEED_HISTORY), timeout=10)
    assert len(answer.item_ids) == len(answer.scores) == 10
    assert not set(answer.item_ids) & set(SEED_HISTORY)
    assert (answer.experiment, answer.group, answer.model_version) == ("", "", "v1.2.3")
    assert answer.request_id
    assert list(answer.scores) == sorted(answer.scores, reverse=True)


def test_five_thousand_users(fleet: Fleet) -> None:
    """Each gets the group of the formula and that group's version; each call has one exposure, whole and true."""
    requests = [
        RecommendRequest(item_ids=SEED_HISTORY[: n % 6], user_id=f"user-{n}", request_id=f"five-{n}")
        for n in range(USERS)
    ]
    # Few at once: where they would wait for a busy machine, attempts would take too long and others would serve.
    answers = asyncio.run(call_all(fleet.address, requests, at_once=24))
    for request, answer in zip(requests, answers, strict=True):
        group = group_of(request.user_id)
        assert (answer.experiment, answer.group) == ("homepage-ranking", group)
        assert answer.model_version == VERSION_OF[group]
        assert answer.request_id == request.request_id

    def all_lines() -> list[dict[str, Any]]:
        found = [line for line in fleet.log() if (line.get("request_id") or "").startswith("five-")]
        return found if len(found) >= USERS else []

    lines = wait_until(all_lines, f"{USERS} exposures in the log")
    assert len(lines) == USERS
    by_id = {line["request_id"]: line for line in lines}
    assert len(by_id) == USERS
    wanted = {field.name for field in EVENTS["exposure"].fields if not field.optional} | {"schema", "event"}
    for request, answer in zip(requests, answers, strict=True):
        line = by_id[request.request_id]
        assert set(line) == wanted
        assert problems(line) == []
        assert line["items"] == list(answer.item_ids)
        assert line["user_id"] == request.user_id
        assert line["group"] == answer.group
        assert line["bucket"] == (mmh3.hash(f"{SALT}:{request.user_id}", 0, signed=False) * 10000) >> 32
        assert line["model_version"] == line["served_version"] == answer.model_version
        assert (line["status"], line["reason"], line["fallback"], line["attempts"]) == ("OK", "allocated", None, 1)
        assert line["history_length"] == len(request.item_ids)
        assert line["propensity"] == {"control": 0.7, "experiment": 0.2, "canary": 0.1}[answer.group]
    shares = Counter(answer.group for answer in answers)
    assert shares == Counter(group_of(f"user-{n}") for n in range(USERS))


@pytest.mark.parametrize(
    ("user_id", "group"),
    [("пользователь-7", "experiment"), ("用户", "control"), ("", ""), (" ", None), ("x" * 256, None)],
)
def test_user_ids_that_are_allowed(fleet: Fleet, user_id: str, group: str | None) -> None:
    """Any UTF-8 up to 256 bytes is a user id; the empty one is absent."""
    with fleet.stub() as stub:
        answer = stub.Recommend(RecommendRequest(item_ids=SEED_HISTORY, user_id=user_id), timeout=10)
    assert answer.group == (group_of(user_id) if group is None else group)


@pytest.mark.parametrize("user_id", ["x" * 257, "я" * 129, "a\nb", "\x00", "a\x7f", "x" * (1 << 19)])
def test_user_ids_that_are_refused(fleet: Fleet, user_id: str) -> None:
    """A wrong user id is INVALID_ARGUMENT with field, value and what is allowed, and is not kept in the log."""
    with fleet.stub() as stub, pytest.raises(grpc.RpcError) as caught:
        stub.Recommend(RecommendRequest(user_id=user_id, request_id="refused"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = caught.value.details()
    assert details.startswith("user_id: ")
    assert "1 to 256 bytes" in details
    assert len(details) < 250
    rejected = wait_until(lambda: [line for line in fleet.log() if line["event"] == "rejected"], "a rejected line")
    assert all("user_id" not in line and problems(line) == [] for line in rejected)


@pytest.mark.parametrize(
    ("metadata", "field", "expected"),
    [
        ((("x-user-id", "user-2"),), "", "user-2"),
        ((("x-user-id-bin", "用户".encode()),), "", "用户"),
        ((("x-user-id", "user-1"),), "пользователь-7", "пользователь-7"),
    ],
)
def test_user_id_in_metadata(
    fleet: Fleet, metadata: tuple[tuple[str, str | bytes], ...], field: str, expected: str
) -> None:
    """Metadata may carry the user id; the field wins."""
    with fleet.stub() as stub:
        answer = stub.Recommend(RecommendRequest(item_ids=[1], user_id=field), metadata=metadata, timeout=10)
    assert answer.group == group_of(expected)


def test_wrong_limit_and_garbage(fleet: Fleet) -> None:
    """A limit out of range and bytes that are no message are the caller's mistake, and say so."""
    with grpc.insecure_channel(fleet.address) as channel:
        call = channel.unary_unary("/Recommender/Recommend")
        for payload, field in (
            (RecommendRequest(limit=101).SerializeToString(), "limit: 101"),
            (RecommendRequest(limit=-1).SerializeToString(), "limit: -1"),
            (b"\xff\xff\xff", "request: "),
            (b"\x12\x02\xff\xfe", "user_id: "),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(payload, timeout=10)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details().startswith(field)


def test_editing_weights_under_load(fleet: Fleet) -> None:
    """200 calls a second go on while weights are edited: none fails, the new split is in force within three seconds,
    and everyone is where the formula says; broken edits leave it in force with every error listed."""
    load = Load(fleet.address, 200, "edit")
    shipped = fleet.status().config.revision
    edited_at = in_force_at = 0.0

    async def edits() -> None:
        nonlocal edited_at, in_force_at
        await asyncio.sleep(0.5)
        edited_at = time.monotonic()
        fleet.edit(experiments_file(60, 30, 10))
        await asyncio.to_thread(wait_until, lambda: fleet.status().config.revision != shipped, "a new revision", 30)
        in_force_at = time.monotonic()
        good = fleet.status().config.revision
        for text, expected in (
            ("experiments: [", ["line", ":"]),
            (experiments_file(69, 20, 10), ["weight", "99"]),
            (experiments_file(70, 20, 10, weigths=1), ["weigths"]),
            (experiments_file().replace('"model": "v1.4.0-rc1"', '"model": "v9"'), ["v9"]),
        ):
            fleet.edit(text)
            errors = await asyncio.to_thread(wait_until, lambda: fleet.status().config.errors, "errors in the status")
            assert fleet.status().config.revision == good
            if expected != ["line", ":"]:
                assert all(any(word in error for error in errors) for word in expected), errors
            fleet.edit(experiments_file(60, 30, 10))
            await asyncio.to_thread(wait_until, lambda: not fleet.status().config.errors, "no errors in the status")

    asyncio.run(load.until(edits()))
    assert load.errors == []
    assert in_force_at - edited_at < 3.0
    after = [(user, answer) for at, user, answer in load.answers if at > in_force_at + 1]
    assert len(after) > 100
    assert all(answer.group == group_of(user, experiment=3000) for user, answer in after)
    before = [(user, answer) for at, user, answer in load.answers if at < edited_at]
    assert before
    assert all(answer.group == group_of(user) for user, answer in before)
    fleet.edit(experiments_file())
    wait_until(lambda: fleet.status().config.revision == shipped, "the shipped file in force")
    wait_until(
        lambda: [line for line in fleet.log() if line["event"] == "reload" and line["active"]], "a reload in the log"
    )
    for line in fleet.log():
        if line["event"] in ("reload", "allocation"):
            assert problems(line) == []
    first = next(line for line in fleet.log() if line["event"] == "reload" and line["active"])
    assert first["moved"] == pytest.approx(0.1)


def test_killing_a_worker_under_load(fleet: Fleet) -> None:
    """SIGKILL of a treatment's only worker: no call fails, the default serves its users and the log says so, and the
    version serves again once its worker is back."""
    load = Load(fleet.address, 200, "kill")

    async def kill() -> None:
        await asyncio.sleep(0.5)
        fleet.workers["v1.3.0-beta", 0].kill()
        await asyncio.to_thread(
            wait_until, lambda: any(line.get("fallback") for line in fleet.log()), "a fallback in the log"
        )
        await asyncio.sleep(1)
        await asyncio.to_thread(fleet.restart_worker, "v1.3.0-beta")
        await asyncio.to_thread(fleet.wait_for_serving, "v1.3.0-beta")
        await asyncio.sleep(0.5)

    asyncio.run(load.until(kill()))
    assert load.errors == []
    assert all(answer.group == group_of(user) for _, user, answer in load.answers)
    lines = [
        line
        for line in fleet.exposures(len(load.answers))
        if line["request_id"].startswith("kill-") and line["group"] == "experiment"
    ]
    fallbacks = [line for line in lines if line["fallback"]]
    assert fallbacks
    assert all(line["served_version"] == "v1.2.3" and line["model_version"] == "v1.3.0-beta" for line in fallbacks)
    assert {line["fallback"] for line in fallbacks} <= {"unavailable", "ejected", "timeout"}
    served = [answer.model_version for _, user, answer in load.answers if answer.group == "experiment"]
    assert served[0] == "v1.3.0-beta"
    assert served[-1] == "v1.3.0-beta"
    assert all(line["served_version"] == line["model_version"] for line in lines if not line["fallback"])


def test_a_router_told_to_stop_answers_what_it_has_and_logs_it(tmp_path: Path) -> None:
    """SIGTERM under load on grpcio: each call that was answered is in the log, and the exit code is 0.

    Callers that still come at the last instant are turned away: UNAVAILABLE, or CANCELLED by grpc-core for what it took
    from the socket as the server stopped.
    """
    with Fleet(tmp_path, experiments=experiments_file(), transport="grpcio") as fleet:
        load = Load(fleet.address, 300, "stop")
        assert fleet.router is not None
        router = fleet.router

        async def stop() -> None:
            await asyncio.sleep(1)
            assert await asyncio.to_thread(router.stop) == 0

        asyncio.run(load.until(stop()))
        logged = {line["request_id"] for line in fleet.log() if line["event"] == "exposure"}
        answered = {answer.request_id for _, _, answer in load.answers}
        assert len(answered) > 100
        assert answered <= logged
        assert {error.code() for error in load.errors} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
        assert sum(error.code() is grpc.StatusCode.CANCELLED for error in load.errors) < 32


def test_a_second_signal_ends_a_router_at_once(tmp_path: Path) -> None:
    """During an hour of delay it still answers; a second SIGTERM ends it, and the exit code says so."""
    with Fleet(
        tmp_path, experiments=experiments_file(), versions=("v1.2.3",), router_flags=("--drain-delay", "3600")
    ) as fleet:
        assert fleet.router is not None
        router = fleet.router.popen
        router.send_signal(signal.SIGTERM)
        wait_until(lambda: not fleet.status().serving, "it says that it goes")
        with fleet.stub() as stub:
            assert stub.Recommend(RecommendRequest(item_ids=SEED_HISTORY), timeout=10).item_ids
        router.send_signal(signal.SIGTERM)
        assert router.wait(timeout=30) == 1
