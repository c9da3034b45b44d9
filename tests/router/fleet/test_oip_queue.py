"""The queue of a server of the Open Inference Protocol, without a network: what is sent, and when waiting is seen."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest
from abfleet_experiments.config import OipModel
from abfleet_process.tracing.spans import Span, SpanKind
from abfleet_protos.inference_pb2 import ModelInferResponse
from abfleet_router.calls.spans import CallTracer
from abfleet_router.fleet.oip_queue import LEAST_CALLS, OipQueue
from abfleet_router.fleet.oip_server import OipServer
from abfleet_transport.call import Code
from abfleet_transport.end_of_turn import end_of_turn

from tests.router.bench import Bench, fake
from tests.router.calls.test_infer import infer, message
from tests.router.fakes import FakeCall, turns

CONFIG = """
version: 1
default: v1
models: {v1: {target: "10.0.0.1:1", protocol: oip, model: ranker}}
"""


async def opened(**settings: Any) -> Bench:
    bench = Bench(config=CONFIG, **settings)
    await bench.open()
    return bench


def queue(bench: Bench) -> OipQueue[Any]:
    found = bench.replica("v1").queue
    assert isinstance(found, OipQueue)
    return found


async def answer(bench: Bench, count: int, after: float) -> None:
    """The oldest calls in flight are answered, each so many seconds after the one before."""
    for sent in fake(bench.replica("v1")).open[:count]:
        bench.clock.advance(after)
        sent.answer(ModelInferResponse().SerializeToString())
    await turns()


async def test_each_call_goes_by_itself_and_at_once() -> None:
    """As many as the bound of workers has in all its batches; the next wait."""
    bench = await opened()
    calls = [infer(bench, message()) for _ in range(130)]
    await bench.arrive(*calls)
    assert (len(queue(bench).in_flight), bench.fleet.backlog.calls) == (128, 2)
    await answer(bench, 130, 0.0)
    await answer(bench, 130, 0.0)
    assert {call.code for call in calls} == {Code.OK}
    bench.nothing_is_left()
    await bench.close()


async def test_what_waits_waits_here() -> None:
    """A server that answers one call after another, 10 ms each, gets twice as many: it holds few of them, and callers
    are refused before their attempts run out. When it is fast again it gets as many as before."""
    bench = await opened()
    calls: list[FakeCall] = []
    for _ in range(400):
        calls += [infer(bench, message()) for _ in range(2)]
        await bench.arrive(*calls[-2:])
        await answer(bench, 1, 0.01)
        bench.fleet.sweep()
    codes = Counter(call.code for call in calls if call.answers)
    assert len(queue(bench).in_flight) < 20
    assert codes[Code.OK] == 400  # the server was never without a call, nor answered one that was given up
    assert codes[Code.RESOURCE_EXHAUSTED] > 300
    assert codes[Code.UNAVAILABLE] < 40  # before the overload was seen
    while fake(bench.replica("v1")).open:
        await answer(bench, 128, 0.0)
    for _ in range(100):
        await bench.arrive(*[infer(bench, message()) for _ in range(128)])
        while fake(bench.replica("v1")).open:
            await answer(bench, 128, 0.0)
    calls = [infer(bench, message()) for _ in range(128)]
    await bench.arrive(*calls)
    assert len(queue(bench).in_flight) == 128
    await answer(bench, 128, 0.0)
    bench.nothing_is_left()
    await bench.close()


async def test_attempts_that_run_out_make_it_fewer() -> None:
    """A server that says nothing gets no more than a few calls at a time; a new connection begins anew."""
    bench = await opened()
    for _ in range(20):
        await bench.arrive(*[infer(bench, message()) for _ in range(128)])
        bench.clock.advance(0.6)
        bench.fleet.sweep()
        await turns()
    await bench.arrive(*[infer(bench, message()) for _ in range(128)])
    assert len(queue(bench).in_flight) <= LEAST_CALLS
    queue(bench).hold(False)
    assert queue(bench)._most_now == 128
    await bench.close()


@pytest.mark.parametrize("misfit", ["", "it takes other tensors"])
async def test_recommend_is_sent_where_it_fits(misfit: str) -> None:
    """Else the caller is told, nothing is sent, and the call has its line."""
    bench = await opened()
    replica = bench.replica("v1")
    assert isinstance(replica.oip, OipServer)
    assert replica.oip.model == OipModel("ranker")
    replica.oip.misfit = misfit
    call = bench.call("u")
    await bench.arrive(call)
    assert len(fake(replica).open) == (0 if misfit else 1)
    if misfit:
        assert call.code is Code.FAILED_PRECONDITION
        assert "version v1 does not serve Recommend: it takes other tensors" in str(call.only)
        (line,) = bench.log.exposures()
        assert (line["status"], line["attempts"], line["served_version"]) == ("FAILED_PRECONDITION", 1, None)
        bench.nothing_is_left()
    await bench.close()


async def test_spans_name_the_method_that_was_called() -> None:
    """Of Recommend, too, it is ModelInfer."""
    spans: list[Span] = []
    tracer = CallTracer(spans.append, 1.0, draw=lambda: 0.5, bits=random.Random(7).getrandbits)
    bench = await opened(tracer=tracer)
    await bench.arrive(bench.call("u"))
    await answer(bench, 1, 0.01)
    (attempt,) = (span for span in spans if span.kind is SpanKind.CLIENT)
    assert attempt.attributes["rpc.method"] == "inference.GRPCInferenceService/ModelInfer"
    await bench.close()


async def test_a_queue_that_closes_refuses_nothing_twice() -> None:
    """A refusal that has not been told yet goes with the queue."""
    bench = await opened()
    server = bench.replica("v1").oip
    assert server is not None
    server.misfit = "it takes other tensors"
    call = bench.call("u")
    bench.router.on_calls([call])
    end_of_turn(asyncio.get_running_loop()).end()
    queue(bench).close()
    await turns()
    assert len(call.answers) == 1
    await bench.close()
