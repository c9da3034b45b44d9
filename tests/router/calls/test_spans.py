"""Spans of calls: which have them, whose children they are, what they say; the log has the trace throughout."""

import itertools
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from abfleet_process.tracing.spans import Span, SpanKind
from abfleet_process.tracing.traceparent import parse
from abfleet_protos.worker_pb2 import RecommendBatchRequest
from abfleet_router.calls.spans import CallTracer
from abfleet_router.fleet.failure import BatchFailed, BatchOutcome, FailureReason
from abfleet_transport.call import Code, Metadata

from tests.router.bench import CONFIG, WALL, Bench
from tests.router.calls.test_interleaving import CONFIG as INTERLEAVED
from tests.router.fakes import Sent, broken

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED: Metadata = (("traceparent", f"00-{TRACE}-{CALLER}-01"),)
NOT_SAMPLED: Metadata = (("traceparent", f"00-{TRACE}-{CALLER}-00"),)


class Traced:
    """A bench whose spans are kept, and what its workers were sent."""

    def __init__(self, ratio: float = 0.0, draw: float = 0.5, config: str = CONFIG, **parts: Any) -> None:
        self.spans: list[Span] = []
        bits = random.Random(7).getrandbits
        tracer = CallTracer(self.spans.append, ratio, draw=lambda: draw, bits=bits, **parts)
        self.bench = Bench(config=config, tracer=tracer)

    def named(self, kind: SpanKind) -> list[Span]:
        return [span for span in self.spans if span.kind is kind]


@pytest.fixture
async def traced() -> AsyncIterator[Callable[..., Any]]:
    """Makes open benches with a tracer, and closes them afterwards."""
    made: list[Traced] = []

    async def make(*arguments: Any, **parts: Any) -> Traced:
        one = Traced(*arguments, **parts)
        made.append(one)
        await one.bench.open()
        return one

    yield make
    for one in made:
        await one.bench.close()


@pytest.fixture
def headers(monkeypatch: pytest.MonkeyPatch) -> list[dict[int, str]]:
    """The trace contexts of each batch that is sent."""
    seen: list[dict[int, str]] = []
    plain = Sent.__init__

    def kept(
        self: Sent, message: bytes, timeout_seconds: float, on_end: Callable[[BatchOutcome], None], path: str
    ) -> None:
        plain(self, message, timeout_seconds, on_end, path)
        seen.append(dict(RecommendBatchRequest.FromString(message).traceparents))

    monkeypatch.setattr(Sent, "__init__", kept)
    return seen


Make = Callable[..., Any]


async def test_a_callers_trace_goes_on(traced: Make, headers: list[dict[int, str]]) -> None:
    """A sampled call gets a span below its caller's, a link below that, and the worker hears the link's id."""
    one: Traced = await traced()
    bench = one.bench
    await bench.arrive(bench.call("on-v2", metadata=SAMPLED, request_id="r-1"))
    bench.clock.advance(0.01)
    await bench.answer()
    (call,), (link,) = one.named(SpanKind.SERVER), one.named(SpanKind.CLIENT)
    assert (call.context.trace_id, call.parent_id) == (TRACE, CALLER)
    assert (link.context.trace_id, link.parent_id) == (TRACE, call.context.span_id)
    sent = parse(headers[0][0])
    assert sent is not None
    assert (sent.trace_id, sent.span_id, sent.sampled) == (TRACE, link.context.span_id, True)
    assert (call.begun, call.ended) == (WALL + 1000.0, pytest.approx(WALL + 1000.01))
    assert call.begun <= link.begun <= link.ended <= call.ended
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "Recommender/Recommend",
        "rpc.response.status_code": "OK",
        "abfleet.request_id": "r-1",
        "abfleet.assigned_version": "v2",
        "abfleet.served_version": "v2",
        "abfleet.attempts": 1,
        "abfleet.synthetic": False,
    }
    assert (link.attributes["server.address"], link.attributes["server.port"]) == ("10.0.1.1", 1)
    assert bench.log.exposures()[0]["trace_id"] == TRACE
    assert (call.failed, link.failed) == (None, None)


async def test_the_choice_is_a_feature_flag_evaluation(traced: Make) -> None:
    """The event has the attributes of the convention; a user's id is not among them, its keyed hash may be."""
    plain: Traced = await traced(1.0)
    hashed: Traced = await traced(1.0, hashed=lambda user: f"hash of {len(user)}")
    for one in (plain, hashed):
        for user in ("on-v2", ""):
            await one.bench.arrive(one.bench.call(user))
            await one.bench.answer()
    events = [span.events for span in (*plain.named(SpanKind.SERVER), *hashed.named(SpanKind.SERVER))]
    assert {event.name for (event,) in events} == {"feature_flag.evaluation"}
    forced, nobody, forced_hashed, nobody_hashed = (dict(event.attributes) for (event,) in events)
    revision = plain.bench.config.revision
    assert forced == {
        "feature_flag.key": "ranking",
        "feature_flag.provider.name": "abfleet",
        "feature_flag.result.variant": "experiment",
        "feature_flag.result.reason": "targeting_match",
        "feature_flag.version": revision,
        "feature_flag.set.id": "default",
        "abfleet.reason": "override",
    }
    assert (nobody["feature_flag.result.variant"], nobody["feature_flag.result.reason"]) == ("v1", "default")
    assert forced_hashed == {**forced, "feature_flag.context.id": "hash of 5"}
    assert nobody_hashed == nobody


async def test_an_allocated_user_is_a_split(traced: Make) -> None:
    """A user whose bucket decided is a `split`."""
    one: Traced = await traced(1.0)
    await one.bench.arrive(one.bench.call("user-1"))
    await one.bench.answer()
    assert one.named(SpanKind.SERVER)[0].events[0].attributes["feature_flag.result.reason"] == "split"


@pytest.mark.parametrize(("ratio", "draw", "expected"), [(0.5, 0.49, 1), (0.5, 0.5, 0), (0.0, 0.0, 0), (1.0, 0.999, 1)])
async def test_the_ratio_decides_for_calls_without_a_trace(
    traced: Make, headers: list[dict[int, str]], ratio: float, draw: float, expected: int
) -> None:
    """A call without a trace is recorded with the probability asked for, in a trace of its own; the log says which."""
    one: Traced = await traced(ratio, draw)
    await one.bench.arrive(one.bench.call("on-v1"))
    await one.bench.answer()
    calls = one.named(SpanKind.SERVER)
    assert len(calls) == len(headers[0]) == expected
    assert all(span.parent_id is None for span in calls)
    assert one.bench.log.exposures()[0]["trace_id"] == (calls[0].context.trace_id if calls else None)


async def test_a_caller_that_does_not_sample_decides(traced: Make, headers: list[dict[int, str]]) -> None:
    """`00` in the caller's flags: no span here whatever the ratio, the worker and the log get the caller's trace."""
    one: Traced = await traced(1.0, 0.0)
    await one.bench.arrive(one.bench.call("on-v1", metadata=NOT_SAMPLED))
    await one.bench.answer()
    assert one.spans == []
    assert headers == [{0: NOT_SAMPLED[0][1]}]
    assert one.bench.log.exposures()[0]["trace_id"] == TRACE


async def test_without_a_tracer_the_trace_passes_through(headers: list[dict[int, str]]) -> None:
    """A router that does not trace hands its caller's context to the worker unchanged, and logs its id."""
    bench = Bench()
    await bench.open()
    calls = [bench.call("on-v1", metadata=SAMPLED), bench.call("on-v1"), bench.call("on-v1", metadata=NOT_SAMPLED)]
    bad = bench.call("on-v1", metadata=(("traceparent", "00-0-0-01"),))
    await bench.arrive(*calls, bad)
    await bench.run_dry()
    sent = [header for batch in headers for header in batch.values()]
    assert sorted(sent) == sorted([str(SAMPLED[0][1]), str(NOT_SAMPLED[0][1])])
    assert [line["trace_id"] for line in bench.log.exposures()].count(TRACE) == 2
    await bench.close()


async def test_each_attempt_is_a_span(traced: Make) -> None:
    """A call that is sent again has a span for each time, with the address; only the one that answered is no error."""
    one: Traced = await traced(1.0)
    bench = one.bench
    await bench.arrive(bench.call("on-v2"))
    bench.clock.advance(0.1)
    await bench.fail("v2", broken())
    bench.clock.advance(0.1)
    await bench.fail("v2", BatchFailed(FailureReason.TIMEOUT, "late", connection_broke=False))
    bench.clock.advance(0.1)
    await bench.run_dry()
    (call,), attempts = one.named(SpanKind.SERVER), one.named(SpanKind.CLIENT)
    assert len(attempts) == call.attributes["abfleet.attempts"] >= 2
    assert [attempt.attributes["abfleet.attempt"] for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert [attempt.failed is None for attempt in attempts] == [False] * (len(attempts) - 1) + [True]
    assert {attempt.parent_id for attempt in attempts} == {call.context.span_id}
    assert len({attempt.context.span_id for attempt in attempts}) == len(attempts)
    for before, after in itertools.pairwise(attempts):
        assert before.begun <= before.ended <= after.begun
    if "abfleet.fallback" in call.attributes:
        assert call.attributes["abfleet.served_version"] == "v1"


async def test_a_call_that_fails_is_an_error(traced: Make) -> None:
    """A fault of ours is an error of the span with its code; a caller that goes, or is wrong, is none."""
    one: Traced = await traced(1.0)
    bench = one.bench
    call = bench.call("on-v1")
    await bench.arrive(call)
    bench.router.on_cancelled(call)
    await bench.arrive(bench.call("on-v1", limit=1000))
    for _ in range(20):
        await bench.arrive(bench.call("on-v1", seconds=0.001))
        bench.clock.advance(1.0)
        bench.fleet.sweep()
    spans = {span.attributes["rpc.response.status_code"]: span for span in one.named(SpanKind.SERVER)}
    assert spans.keys() >= {Code.CANCELLED.name, Code.INVALID_ARGUMENT.name, Code.DEADLINE_EXCEEDED.name}
    assert spans["CANCELLED"].failed is None
    assert spans["INVALID_ARGUMENT"].failed is None
    assert spans["DEADLINE_EXCEEDED"].failed == spans["DEADLINE_EXCEEDED"].attributes["error.type"]
    assert len(one.named(SpanKind.SERVER)) == 22


async def test_both_versions_of_an_interleaved_call_are_spans(traced: Make) -> None:
    """Neither is an error where both have answered; the call's span names both."""
    one: Traced = await traced(config=INTERLEAVED)
    await one.bench.arrive(one.bench.call("forced", metadata=SAMPLED, request_id="r-1"))
    await one.bench.answer("v2")
    one.bench.clock.advance(0.01)
    await one.bench.answer("v1")
    (call,), links = one.named(SpanKind.SERVER), one.named(SpanKind.CLIENT)
    assert (call.attributes["abfleet.assigned_version"], call.attributes["abfleet.attempts"]) == ("v1 + v2", 2)
    assert {link.attributes["abfleet.version"]: link.failed for link in links} == {"v1": None, "v2": None}
    assert [round(link.ended - link.begun, 3) for link in links] == [0.01, 0.0]


async def test_one_version_of_an_interleaved_call_may_fail(traced: Make) -> None:
    """Its span is an error, and the other's is none."""
    one: Traced = await traced(config=INTERLEAVED)
    await one.bench.arrive(one.bench.call("forced", metadata=SAMPLED, request_id="r-1"))
    await one.bench.fail("v2", BatchFailed(FailureReason.TIMEOUT, "late", connection_broke=False))
    await one.bench.fail("v2", BatchFailed(FailureReason.TIMEOUT, "late", connection_broke=False))
    await one.bench.answer("v1")
    (call,) = one.named(SpanKind.SERVER)
    assert (call.attributes["abfleet.served_version"], call.attributes["abfleet.fallback"]) == ("v1", "timeout")
    failed = [(link.attributes["abfleet.version"], link.failed is None) for link in one.named(SpanKind.CLIENT)]
    assert sorted(set(failed)) == [("v1", True), ("v2", False)]
