"""Traces of a real fleet: a receiver gets spans of router and workers with right parents; a bad one harms none."""

import asyncio
import itertools
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from abfleet_process.tracing.spans import MAX_LINKS
from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.support.fleet import Fleet, Process, experiments_file, wait_until
from tests.support.load import SEED_HISTORY, call_all
from tests.support.otlp_receiver import OtlpReceiver, Received, values

pytestmark = pytest.mark.system
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VERSIONS = ("v1.2.3", "v1.3.0-beta")
SERVER, CLIENT, INTERNAL = 2, 3, 1


@pytest.fixture(scope="module")
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def fleet(receiver: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that traces every call."""
    flags = ("--otlp-endpoint", receiver.endpoint)
    with Fleet(
        tmp_path_factory.mktemp("traced"),
        experiments=experiments_file(),
        versions=VERSIONS,
        router_flags=(*flags, "--trace-sample", "1"),
        worker_flags=flags,
    ) as running:
        running.wait_for_serving("v1.3.0-beta")
        yield running


def of_trace(receiver: OtlpReceiver, trace: str, count: int) -> list[Received]:
    wait_until(lambda: sum(span.trace_id == trace for span in receiver.spans) >= count, f"{count} spans of {trace}")
    return [span for span in receiver.spans if span.trace_id == trace]


def test_one_call_is_one_trace(fleet: Fleet, receiver: OtlpReceiver) -> None:
    """Caller, router, attempt, worker and inference are a chain of parents over two processes, one inside the other."""
    receiver.spans.clear()
    with fleet.stub() as stub:
        request = RecommendRequest(item_ids=SEED_HISTORY, user_id="user-14", request_id="r-1")
        stub.Recommend(request, timeout=10, metadata=(("traceparent", f"00-{TRACE}-{CALLER}-01"),))
    spans = of_trace(receiver, TRACE, 4)
    assert len(spans) == 4
    parent, chain = CALLER, []
    for _ in range(4):
        (found,) = [span for span in spans if span.span.parent_span_id.hex() == parent]
        chain.append(found)
        parent = found.span.span_id.hex()
    assert [(one.resource["service.name"], one.name, one.span.kind) for one in chain] == [
        ("abfleet-router", "Recommender/Recommend", SERVER),
        ("abfleet-router", "abfleet.worker.v1.Worker/RecommendBatch", CLIENT),
        ("abfleet-worker", "abfleet.worker.v1.Worker/RecommendBatch", SERVER),
        ("abfleet-worker", "inference", INTERNAL),
    ]
    times = [(one.span.start_time_unix_nano, one.span.end_time_unix_nano) for one in chain]
    slack = 2_000_000  # two processes read the wall clock each for itself
    for (begun, ended), (inner_begun, inner_ended) in itertools.pairwise(times):
        assert begun - slack <= inner_begun <= inner_ended <= ended + slack
    assert abs(times[0][0] / 1e9 - time.time()) < 60
    (event,) = chain[0].span.events
    assert event.name == "feature_flag.evaluation"
    assert values(event.attributes)["feature_flag.result.variant"] == "experiment"
    assert chain[0].attributes["abfleet.served_version"] == "v1.3.0-beta"
    assert chain[3].attributes["abfleet.version"] == "v1.3.0-beta"
    (line,) = [line for line in fleet.exposures(1) if line["request_id"] == "r-1"]
    assert line["trace_id"] == TRACE


def test_calls_without_a_trace_get_their_own(fleet: Fleet, receiver: OtlpReceiver) -> None:
    """With --trace-sample 1 each call is a trace; batch-mates are linked; the log has each trace's id."""
    receiver.spans.clear()
    requests = [
        RecommendRequest(item_ids=SEED_HISTORY, user_id=f"user-{n}", request_id=f"own-{fleet.address}-{n}")
        for n in range(60)
    ]
    asyncio.run(call_all(fleet.address, requests))
    wait_until(lambda: len(receiver.spans) >= 240, "240 spans")
    calls = [one for one in receiver.spans if one.name == "Recommender/Recommend"]
    assert len({one.trace_id for one in calls}) == len(calls) == 60
    lines = {line["request_id"]: line["trace_id"] for line in fleet.exposures(60)}
    for one in calls:
        assert lines[one.attributes["abfleet.request_id"]] == one.trace_id
        assert one.span.parent_span_id == b""
    runs = [one for one in receiver.spans if one.name == "inference"]
    together = [one for one in runs if one.attributes["abfleet.run_size"] > 1]
    known = {one.trace_id for one in calls}
    assert all({link.trace_id.hex() for link in one.span.links} <= known - {one.trace_id} for one in together)
    for one in runs:
        others = one.attributes["abfleet.run_size"] - 1
        assert (len(one.span.links), one.span.dropped_links_count) == (
            min(others, MAX_LINKS),
            max(0, others - MAX_LINKS),
        )
    assert together, "60 calls at once, and none met another"


def metrics(fleet: Fleet) -> str:
    with urllib.request.urlopen(f"http://{fleet.metrics_address}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.parametrize(("state", "transport"), [("dead", "auto"), ("hanging", "grpcio")])
def test_a_bad_receiver_harms_no_call(tmp_path: Path, state: str, transport: str) -> None:
    """With nobody there, or one who never answers, calls succeed in time, and router and workers stop in time."""
    with OtlpReceiver(hang=True) as receiver:
        flags = ("--otlp-endpoint", receiver.endpoint if state == "hanging" else "http://127.0.0.1:9")
        with Fleet(
            tmp_path,
            experiments=experiments_file(),
            versions=VERSIONS[:1],
            transport=transport,
            router_flags=(*flags, "--trace-sample", "1"),
            worker_flags=flags,
        ) as fleet:
            with fleet.stub() as stub:
                for number in range(100):
                    begun = time.perf_counter()
                    stub.Recommend(RecommendRequest(item_ids=SEED_HISTORY, user_id=f"user-{number}"), timeout=10)
                    assert time.perf_counter() - begun < 3  # the exporter itself would wait for 5
            if state == "hanging":
                wait_until(lambda: receiver.came, "spans at the receiver")
            assert 'abfleet_spans_total{result="sent"} 0.0' in metrics(fleet)
            begun = time.monotonic()
            for process in (fleet.router, *fleet.workers.values()):
                assert process is not None
                assert process.stop() == 0
            assert time.monotonic() - begun < 15
    assert bool(receiver.came) == (state == "hanging")


def test_a_bad_endpoint_is_refused(tmp_path: Path) -> None:
    """Router and worker name the flag, the value and what is allowed, and do not start."""
    modules = ("abfleet_router", "abfleet_worker")
    processes = [Process(module, module, ("--otlp-endpoint", "collector:4317"), tmp_path) for module in modules]
    for process in processes:
        assert process.popen.wait(timeout=60) == 2
        said = process.stderr_path.read_text()
        for word in ("--otlp-endpoint", "'collector:4317'", "http://HOST:PORT"):
            assert word in said


def test_nothing_is_loaded_for_tracing_that_is_off() -> None:
    """Router and worker import neither OpenTelemetry nor an HTTP client's exporter before an endpoint is given."""
    code = (
        "import sys, abfleet_router.app, abfleet_worker.app; "
        "sys.exit([name for name in sys.modules if name.startswith(('opentelemetry', "
        "'abfleet_process.tracing.span_exp'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip() == "[]"
