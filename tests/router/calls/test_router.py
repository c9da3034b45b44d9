"""The story of a call: answered once, with its own answer, logged once, whatever fails on the way."""

import asyncio

import pytest
from abfleet_experiments.file.load import load_text
from abfleet_protos.recommender_pb2 import RecommendResponse
from abfleet_router.calls.batch_failures import code_of
from abfleet_router.fleet.batching import BatchingSettings
from abfleet_transport.call import Code
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.router.bench import CONFIG, Bench
from tests.router.fakes import broken
from tests.router.stories import USERS, Make, line_of


async def test_the_usual_story(make_bench: Make) -> None:
    """A call is answered by the version of its group, and the line says all there is to say."""
    bench = await make_bench()
    call = bench.call("on-v2", [5, 6], request_id="r1", attributes={"country": "DE", "name": "Ada"})
    await bench.arrive(call)
    bench.clock.advance(0.0125)
    await bench.answer("v2")
    assert call.response == RecommendResponse(
        item_ids=[12, 13],
        scores=[2.0, 1.0],
        request_id="r1",
        experiment="ranking",
        group="experiment",
        model_version="v2",
    )
    line = line_of(bench, call)
    assert line["ts"] == "2026-09-21T14:30:00.000000Z"
    line.pop("ts")
    assert line.pop("allocation") is not None
    assert line.pop("bucket") in range(10_000)
    assert line == {
        "schema": 1,
        "event": "exposure",
        "request_id": "r1",
        "user_id": "on-v2",
        "layer": "default",
        "experiment": "ranking",
        "group": "experiment",
        "reason": "override",
        "propensity": 0.2,
        "model_version": "v2",
        "served_version": "v2",
        "fallback": None,
        "attempts": 1,
        "status": "OK",
        "latency_ms": 12.5,
        "items": [12, 13],
        "history_length": 2,
        "attributes": {"country": "DE"},
        "config_revision": bench.config.revision,
        "synthetic": False,
        "trace_id": None,
        "client": None,
        "router": "router-1",
    }
    bench.books_balance([call])


async def test_calls_that_share_a_batch_get_their_own_answers(make_bench: Make) -> None:
    """Fifty users over three versions, all at once: nobody gets what was meant for a neighbour."""
    bench = await make_bench(batching=BatchingSettings(max_batch=7))
    calls = [bench.call(f"user-{n}", [n, n * n], request_id=f"r{n}") for n in range(50)]
    await bench.arrive(*calls)
    await bench.run_dry()
    bench.books_balance(calls)
    bench.nothing_is_left()
    versions = {line["served_version"] for line in bench.log.exposures()}
    assert versions == {"v1", "v2", "v3"}


@settings(max_examples=30, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=128).filter(lambda text: len(text.encode()) <= 128),
    st.sampled_from(USERS),
)
def test_request_ids_come_back(request_id: str, user_id: str) -> None:
    """0 to 128 bytes of any text, in answer and line; without one the router makes one, the same in both."""

    async def story() -> None:
        bench = Bench()
        await bench.open()
        call = bench.call(user_id, request_id=request_id)
        await bench.arrive(call)
        await bench.run_dry()
        (line,) = bench.log.exposures()
        assert line["request_id"] == call.response.request_id
        assert line["model_version"] == call.response.model_version
        if request_id:
            assert line["request_id"] == request_id
        else:
            assert line["request_id"]
        assert bench.log.problems == []
        await bench.close()

    asyncio.run(story())


async def test_request_ids_that_the_router_makes_differ(make_bench: Make) -> None:
    """Each call without an id gets one of its own, and two routers do not make the same."""
    made = []
    for bench in (await make_bench(), await make_bench()):
        calls = [bench.call("on-v1") for _ in range(20)]
        await bench.arrive(*calls)
        await bench.run_dry()
        made += [call.response.request_id for call in calls]
    assert len(set(made)) == 40


async def test_the_longest_request_id_in_bytes(make_bench: Make) -> None:
    """128 bytes take two bytes of length on the wire."""
    bench = await make_bench()
    call = bench.call("on-v3", request_id="ü" * 64)
    await bench.arrive(call)
    await bench.run_dry()
    assert call.response.request_id == "ü" * 64
    assert call.response.group == "canary"


async def test_before_the_first_configuration(make_bench: Make) -> None:
    """UNAVAILABLE, and no line: there is nothing to say yet of an experiment."""
    bench = Bench()
    call = bench.call("on-v1")
    bench.router.on_calls([call])
    assert call.code is Code.UNAVAILABLE
    assert bench.log.lines == []
    assert bench.rpc.handled(0) == {"UNAVAILABLE": 1}


async def test_a_refused_call_leaves_no_user_behind(make_bench: Make) -> None:
    """INVALID_ARGUMENT is `event: rejected`, names the field, and has neither the user id nor the wrong value."""
    bench = await make_bench()
    calls = [
        bench.call("secret-user", limit=101, request_id="r1", metadata=(("x-synthetic", "1"),)),
        bench.call("secret\x00user", request_id="r2"),
        bench.call("", metadata=(("x-user-id-bin", b"secret\xff"),), request_id="r3"),
        bench.call(payload=b"\x12\x0csecret-use"),
        bench.call("fine", request_id="r5"),
    ]
    await bench.arrive(*calls)
    await bench.run_dry()
    assert [call.code.name for call in calls] == ["INVALID_ARGUMENT"] * 4 + ["OK"]
    rejected = [line for line in bench.log.lines if line["event"] == "rejected"]
    assert [(line["field"], line["request_id"], line["synthetic"]) for line in rejected] == [
        ("limit", "r1", True),
        ("user_id", "r2", False),
        ("x-user-id-bin", "r3", False),
        ("request", None, False),
    ]
    assert not any("secret" in str(line) for line in rejected)
    assert bench.metrics.rejected == 4
    assert bench.log.problems == []


async def test_metadata_is_looked_at(make_bench: Make) -> None:
    """User id, synthetic mark and trace id may come as metadata; the message's user id wins."""
    bench = await make_bench()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    metadata = (
        ("x-user-id", "on-v2"),
        ("x-synthetic", "1"),
        ("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),
        ("user-agent", "grpc"),
    )
    calls = [
        bench.call("", request_id="r1", metadata=metadata),
        bench.call("on-v3", request_id="r2", metadata=metadata),
    ]
    await bench.arrive(*calls)
    await bench.run_dry()
    lines = [line_of(bench, call) for call in calls]
    assert [(line["user_id"], line["group"]) for line in lines] == [("on-v2", "experiment"), ("on-v3", "canary")]
    assert {(line["synthetic"], line["trace_id"]) for line in lines} == {(True, trace)}


async def test_a_call_without_user_is_served_by_the_default(make_bench: Make) -> None:
    """It belongs to no experiment, and the line says so."""
    bench = await make_bench()
    call = bench.call("", request_id="r1")
    await bench.arrive(call)
    await bench.run_dry()
    line = line_of(bench, call)
    assert (line["reason"], line["user_id"], line["experiment"], line["group"], line["bucket"]) == (
        "no_user_id",
        None,
        None,
        None,
        None,
    )
    assert (call.response.experiment, call.response.group, call.response.model_version) == ("", "", "v1")


async def test_a_call_keeps_its_configuration(make_bench: Make) -> None:
    """What comes into force while a call is under way is for the calls after it."""
    bench = await make_bench()
    edited = load_text(CONFIG.replace("weight: 20", "weight: 19").replace("weight: 10", "weight: 11"))
    call, later = bench.call("on-v3", request_id="r1"), bench.call("on-v3", request_id="r2")
    await bench.arrive(call)
    bench.use(edited)
    await bench.fail("v3", broken())
    await bench.arrive(later)
    await bench.run_dry()
    lines = [line_of(bench, call), line_of(bench, later)]
    assert [line["config_revision"] for line in lines] == [bench.config.revision, edited.revision]
    assert [line["propensity"] for line in lines] == [0.1, 0.11]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (3, Code.INVALID_ARGUMENT),
        (16, Code.UNAUTHENTICATED),
        (0, Code.UNKNOWN),
        (17, Code.UNKNOWN),
        (-1, Code.UNKNOWN),
        (10**9, Code.UNKNOWN),
    ],
)
def test_code_of(number: int, code: Code) -> None:
    """A worker's status code is taken where it is one of an error."""
    assert code_of(number) is code
