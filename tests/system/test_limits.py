"""Tokens and limits end to end: who may record and operate off loopback, and what is refused before it costs much."""

import asyncio
import contextlib
import json
import re
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
import pytest
from abfleet_client import AsyncRecommender, ClientCredentials, OutcomesLost, OutcomeTally
from abfleet_protos import admin_pb2, admin_pb2_grpc
from abfleet_protos.recommender_pb2 import Outcome, RecommendRequest, RecordRequest
from abfleet_protos.recommender_pb2_grpc import FeedbackStub, RecommenderStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.certificates import needs_openssl
from tests.support.fleet import Fleet, Process, experiments_file, wait_until
from tests.support.secured import OWN_POOL, Papers, here

pytestmark = [pytest.mark.system, needs_openssl]
RATE = ("--rate-limit", "0.5:3")
"""Three at once, and the next after two seconds: no call of a test waits for it."""


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module", params=["native", "grpcio"])
def fleet(request: pytest.FixtureRequest, papers: Papers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A router off loopback without TLS, as behind a proxy that has it, with tokens and narrow limits."""
    flags = (
        *("--listen", "0.0.0.0:0", "--admin-listen", "0.0.0.0:0", "--tokens", str(papers.tokens_path)),
        *("--max-message-bytes", "2048", "--max-metadata-bytes", "4096", *RATE),
    )
    folder = tmp_path_factory.mktemp("fleet")
    with Fleet(
        folder,
        experiments=experiments_file(100, 0, 0),
        versions=("v1.2.3",),
        transport=request.param,
        router_flags=flags,
    ) as running:
        yield running


def metadata(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


def open_plain(address: str) -> grpc.Channel:
    return grpc.insecure_channel(here(address), options=[OWN_POOL])


def record(fleet: Fleet, token: str, number: int) -> tuple[str, str]:
    """(status, message) of one outcome."""
    outcome = Outcome(outcome_id=f"{token[-8:]}-{number}", request_id="r", user_id="user-1", type="click")
    with open_plain(fleet.address) as channel:
        try:
            FeedbackStub(channel).Record(RecordRequest(outcomes=[outcome]), timeout=20, metadata=metadata(token))
        except grpc.RpcError as error:
            return error.code().name, error.details()
    return "OK", ""


def metric(address: str, name: str) -> float:
    """The value of a metric without labels."""
    text = urllib.request.urlopen(f"http://{address}/metrics", timeout=20).read().decode()
    found = re.search(rf"^{name} (.*)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def refusals(channel: grpc.Channel, requests: Sequence[RecommendRequest], token: str) -> list[grpc.RpcError | None]:
    """Makes calls one after the other; the error of each, None for an answer."""
    found: list[grpc.RpcError | None] = []
    for request in requests:
        try:
            RecommenderStub(channel).Recommend(request, timeout=20, metadata=metadata(token))
            found.append(None)
        except grpc.RpcError as error:
            found.append(error)
    return found


def test_outcomes_want_a_token_off_loopback(fleet: Fleet, papers: Papers) -> None:
    """None, one that nobody has, one for something else, and the right one, whose name is in the log."""
    right, other = papers.add_token("recorder", "feedback"), papers.add_token("operator", "admin")
    wait_until(lambda: record(fleet, right, 0)[0] == "OK", "a token that was just added")
    code, text = record(fleet, "", 1)
    assert (code, "send metadata `authorization: Bearer TOKEN`" in text) == ("UNAUTHENTICATED", True)
    assert record(fleet, "abf_nobody", 1)[0] == "UNAUTHENTICATED"
    assert record(fleet, other, 1) == (
        "PERMISSION_DENIED",
        "the token of operator has scope admin; it needs scope feedback",
    )
    assert record(fleet, right, 1) == ("OK", "")
    told = [line for line in fleet.log() if line["event"] == "outcome"]
    assert {line["client"] for line in told} == {"recorder"}
    assert {line["outcome_id"] for line in told} == {f"{right[-8:]}-0", f"{right[-8:]}-1"}
    for token in (right, other):
        assert token not in "".join(path.read_text() for path in fleet.folder.glob("router*.stderr"))
    papers.tokens_path.write_text("")
    wait_until(lambda: record(fleet, right, 2)[0] == "UNAUTHENTICATED", "a token that was taken away")


def test_the_client_shows_its_token_with_outcomes(fleet: Fleet, papers: Papers, tmp_path: Path) -> None:
    """From a file; without one its outcomes are given up at once, because trying again would not help."""
    path = tmp_path / "token"
    path.write_text(token := papers.add_token("batch", "feedback"))
    wait_until(lambda: record(fleet, token, 0)[0] == "OK", "a token that was just added")

    async def tell(access: ClientCredentials) -> OutcomeTally:
        client = AsyncRecommender(here(fleet.address), credentials=access)
        with contextlib.suppress(OutcomesLost):
            async with client:
                await client.record("click", request_id="r", user_id="user-1")
        return client.outcomes

    assert asyncio.run(tell(ClientCredentials(token_file=path))) == OutcomeTally(accepted=1)
    assert asyncio.run(tell(ClientCredentials())) == OutcomeTally(lost=1)


def test_operators_want_a_token_off_loopback(fleet: Fleet, papers: Papers) -> None:
    """For everything on the admin port; what services there are is no secret."""
    token = papers.add_token("operator-2", "admin")
    reader = papers.add_token("reader", "feedback")
    with open_plain(fleet.admin_address) as channel:
        stub = admin_pb2_grpc.AdminStub(channel)

        def ask(token: str) -> str:
            codes = set()
            for method, request in ((stub.Status, admin_pb2.StatusRequest()), (stub.Reload, admin_pb2.ReloadRequest())):
                try:
                    method(request, timeout=20, metadata=metadata(token))
                    codes.add("OK")
                except grpc.RpcError as error:
                    codes.add(error.code().name)
            return "+".join(sorted(codes))

        wait_until(lambda: ask(token) == "OK", "a token that was just added")
        assert ask("") == "UNAUTHENTICATED"
        assert ask("abf_nobody") == "UNAUTHENTICATED"
        assert ask(reader) == "PERMISSION_DENIED"


def test_one_caller_may_not_call_too_often(fleet: Fleet, papers: Papers) -> None:
    """Three calls, then RESOURCE_EXHAUSTED with the time to wait; another caller is not touched. Every call is one
    exposure with its status, and the metric has no name of a caller."""
    one, two = papers.add_token("one", "feedback"), papers.add_token("two", "feedback")
    wait_until(lambda: record(fleet, two, 0)[0] == "OK", "tokens that were just added")
    before = metric(fleet.metrics_address, "abfleet_rate_limited_total")
    requests = [RecommendRequest(user_id="user-1", request_id=f"often-{number}") for number in range(5)]
    with open_plain(fleet.address) as channel:
        first = refusals(channel, requests, one)
        assert refusals(channel, [RecommendRequest(user_id="user-2", request_id="often-two")], two) == [None]
    assert [error is None for error in first] == [True, True, True, False, False]
    assert first[3] is not None
    assert first[3].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert re.fullmatch(
        r"rate limit: this caller sends too many calls; the next one is allowed in \d+ ms", first[3].details()
    )
    assert 0 < int(dict(first[3].trailing_metadata())["retry-pushback-ms"]) <= 2000
    assert metric(fleet.metrics_address, "abfleet_rate_limited_total") == before + 2

    def lines() -> list[tuple[str, str]]:
        found = [line for line in fleet.log() if str(line.get("request_id", "")).startswith("often-")]
        return [(line["client"], line["status"]) for line in found] if len(found) == 6 else []

    seen = wait_until(lines, "six exposures")
    assert sorted(seen) == [*[("one", "OK")] * 3, *[("one", "RESOURCE_EXHAUSTED")] * 2, ("two", "OK")]


def test_messages_and_metadata_have_a_limit(fleet: Fleet, papers: Papers) -> None:
    """Past it a call is refused before anything looks at it; outcomes in larger batches are still taken."""
    token = papers.add_token("large", "feedback")
    wait_until(lambda: record(fleet, token, 0)[0] == "OK", "a token that was just added")
    before = metric(fleet.metrics_address, "abfleet_oversized_total")
    with open_plain(fleet.address) as channel:
        (large,) = refusals(channel, [RecommendRequest(item_ids=range(1000, 3000))], token)
        assert large is not None
        assert large.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most 2048 bytes are allowed" in large.details()
        with pytest.raises(grpc.RpcError):
            RecommenderStub(channel).Recommend(RecommendRequest(), timeout=20, metadata=(("x-note", "a" * 5000),))
        outcomes = [Outcome(outcome_id=f"large-{number}", user_id="user-1", type="click") for number in range(1000)]
        answer = FeedbackStub(channel).Record(RecordRequest(outcomes=outcomes), timeout=20, metadata=metadata(token))
        assert answer.accepted + answer.duplicate == 1000
    assert metric(fleet.metrics_address, "abfleet_oversized_total") == before + 1


def test_without_memory_calls_are_refused_and_health_says_so(fleet: Fleet, tmp_path: Path) -> None:
    """A router above its limit: RESOURCE_EXHAUSTED, exposures, NOT_SERVING; it goes on running."""
    router = Process(
        "crowded",
        "abfleet_router",
        [
            "--experiments",
            str(fleet.experiments_path),
            "--fleet",
            str(fleet.fleet_path),
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--metrics-port",
            "0",
            "--log-dir",
            str(tmp_path / "logs"),
            "--max-memory",
            str(32 * 1024 * 1024),
        ],
        tmp_path,
    )
    try:
        _, address, _, _, _, metrics = router.ready()
        wait_until(lambda: metric(metrics, "abfleet_memory_over_limit") == 1, "a look at memory")
        with open_plain(address) as channel:
            (refused,) = refusals(channel, [RecommendRequest(user_id="user-1")], "")
            assert refused is not None
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            check = health_pb2_grpc.HealthStub(channel).Check
            wait_until(
                lambda: (
                    check(health_pb2.HealthCheckRequest(), timeout=20).status
                    == health_pb2.HealthCheckResponse.NOT_SERVING
                ),
                "NOT_SERVING",
            )
    finally:
        assert router.stop() == 0
    lines = [json.loads(line) for path in (tmp_path / "logs").glob("*.jsonl") for line in path.read_text().splitlines()]
    assert [line["status"] for line in lines if line["event"] == "exposure"] == ["RESOURCE_EXHAUSTED"]
