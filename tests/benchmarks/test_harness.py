"""The benchmark's own claims: its sender tells the truth, its files are valid. Run by name, not with all."""

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from abfleet_experiments.file.load import load
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_protos.recommender_pb2_grpc import RecommenderServicer, add_RecommenderServicer_to_server
from hypothesis import given
from hypothesis import strategies as st
from pygrpc_native import EVENT_CALL, NativeGrpcFront

from tests.benchmarks import fleets, hpack, light, picture
from tests.benchmarks.__main__ import QUICK
from tests.benchmarks.__main__ import main as bench
from tests.benchmarks.files import VERSIONS, WEIGHTS, Shape, write_experiments
from tests.benchmarks.load import METHOD_PATH
from tests.benchmarks.measure import PathResult, Saturated
from tests.benchmarks.run import ModelResult
from tests.benchmarks.sender import RESET, Request, Sender, percentile, poisson_schedule

_NAMES = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=300)


class _Echo(RecommenderServicer):
    def Recommend(self, request: RecommendRequest, context: grpc.ServicerContext) -> RecommendResponse:
        if request.user_id == "broken":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")
        return RecommendResponse(item_ids=request.item_ids, model_version=request.user_id)


@contextmanager
def _server() -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    add_RecommenderServicer_to_server(_Echo(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(grace=None).wait()


def _request(port: int, user: str, size: int = 3) -> Request:
    payload = RecommendRequest(item_ids=range(size), user_id=user).SerializeToString()
    return Request.of(port=port, path=METHOD_PATH, payload=payload, headers={"x-user-id": user})


@given(name=_NAMES, value=_NAMES)
def test_a_literal_of_any_length_reads_back(name: str, value: str) -> None:
    """What the encoder writes, the decoder reads, also where a length takes several bytes."""
    fields = dict(hpack._fields(hpack.request_block("/A/B", "host", {name: value})))
    assert fields[name] == value


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        # RFC 7541 C.6.1 has `:status: 302` as 4882 6402; 88 is `:status: 200` in the static table.
        (bytes.fromhex("48826402"), ("302", None)),
        (b"\x88\x40\x0bgrpc-status\x0214", ("200", 14)),
        # grpc-status: 0 with both strings in Huffman code, as the Go and C++ servers send it.
        (bytes.fromhex("40889acac8b21234da8f") + bytes.fromhex("8107"), (None, 0)),
        (b"\x3f\xe1\x1f\x88", ("200", None)),
    ],
)
def test_statuses_are_found(block: bytes, expected: tuple[str | None, int | None]) -> None:
    """Static entries, literals, Huffman code and table size updates are read."""
    assert hpack.statuses(block) == expected


def test_every_call_gets_its_own_answer() -> None:
    """Each index maps to the answer of the request that was sent for it, over several connections."""
    with _server() as port:
        sender = Sender([_request(port, f"u{at}", at % 50) for at in range(200)], connections=3, keep_answers=True)
        outcome = sender.in_flight(200, at_once=25)
        sender.close()
    assert outcome.ok == 200
    for at in range(200):
        answer = RecommendResponse.FromString(outcome.answers[at])
        assert (answer.model_version, len(answer.item_ids)) == (f"u{at}", at % 50)


def test_statuses_are_counted_from_the_trailers() -> None:
    """A call that fails with HTTP 200 and a grpc-status counts as that status, not as OK."""
    with _server() as port:
        sender = Sender([_request(port, "fine"), _request(port, "broken")], connections=2)
        outcome = sender.in_flight(40, at_once=4)
        sender.close()
    assert outcome.statuses[0] == outcome.statuses[grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]] == 20


def test_more_than_a_window_of_requests_goes_through() -> None:
    """Requests beyond the 65,535 bytes of HTTP/2's first window wait for room, and all are answered."""
    with _server() as port:
        sender = Sender([_request(port, "large", 6_000)], connections=1)
        outcome = sender.in_flight(40, at_once=40)
        sender.close()
    assert outcome.ok == 40


def test_cancelled_calls_leave_the_connection_usable() -> None:
    """Calls that are cancelled under way get no outcome, and later calls on the same connection are answered."""
    with _server() as port:
        sender = Sender([_request(port, "gone")], connections=2)
        assert 0 < sender.cancelled(40, at_once=20) <= 40
        outcome = sender.in_flight(20, at_once=5)
        sender.close()
    assert (outcome.ok, outcome.sent) == (20, 20)


def test_the_stream_limit_of_the_server_is_kept() -> None:
    """A server that takes two streams at a time refuses none of the calls that were all due at once."""
    front = NativeGrpcFront("127.0.0.1:0", [(METHOD_PATH, False)], max_concurrent_streams=2)
    front.start()

    def answer() -> None:
        while (events := front.recv_batch(1)) is not None:
            for kind, call, *_ in events:
                if kind == EVENT_CALL:
                    front.respond(call, b"")

    thread = threading.Thread(target=answer)
    thread.start()
    sender = Sender([_request(front.bound_port, "patient")], connections=1)
    sender.in_flight(1, at_once=1)  # the server's settings have arrived
    outcome = sender.on_schedule([0.0] * 50)
    sender.close()
    front.close()
    thread.join(10)
    assert outcome.ok == 50


def test_a_stall_counts_in_full() -> None:
    """Calls that were due while nothing could be sent have the wait in their latency (no coordinated omission)."""
    with _server() as port:
        sender = Sender([_request(port, "late")], connections=1)
        sender.in_flight(1, at_once=1)
        # Everything was due a second before the pass began, as after a stall of a second.
        outcome = sender.on_schedule([-1.0] * 20)
        sender.close()
    assert outcome.ok == 20
    assert min(outcome.latencies_ms) > 1_000


def test_a_closed_connection_is_not_an_answer() -> None:
    """Calls on a connection that the server closed are counted as reset; none is lost or counted OK."""
    with _server() as port:
        sender = Sender([_request(port, "gone")], connections=1)
        sender.in_flight(5, at_once=1)
    outcome = sender.in_flight(10, at_once=10)
    sender.close()
    assert outcome.statuses[RESET] == 10


def test_the_schedule_is_fixed_and_has_the_rate() -> None:
    """The same seed gives the same times, in order, at the rate asked for."""
    due = poisson_schedule(5_000, 4, seed=1)
    assert due == poisson_schedule(5_000, 4, seed=1) == sorted(due)
    assert abs(len(due) - 20_000) < 5 * 20_000**0.5


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200), st.sampled_from([50, 99, 99.9]))
def test_percentile_is_the_nearest_rank(values: list[float], percent: float) -> None:
    """At least the percentage of values is at or below the percentile, and fewer lie below it."""
    found = percentile(values, percent)
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9
    assert sum(value < found for value in values) < len(values) * percent / 100


@pytest.mark.parametrize(
    "shape",
    [Shape(), Shape(experiments=50), Shape(experiments=50, layered=True), Shape(overrides=100), Shape(groups=30)],
)
def test_every_shape_is_a_valid_file_with_the_same_split(shape: Shape, tmp_path: Path) -> None:
    """Whatever the size of the file, the loader takes it and each experiment gives the versions 70/20/10."""
    config = load(write_experiments(tmp_path / "experiments.yaml", shape))
    assert len(config.experiments) == shape.experiments
    for experiment in config.experiments:
        assert len(experiment.groups) == shape.groups


def test_identity_workers_count_what_they_answer(tmp_path: Path) -> None:
    """The counts that a pass is checked with grow by the calls that were made, and each version answers as itself."""
    with fleets.fleet("identity", tmp_path) as fleet:
        before = fleet.counts()
        requests = [_request(fleet.ports[version][0], "u") for version in VERSIONS]
        sender = Sender(requests, connections=3, keep_answers=True)
        outcome = sender.in_flight(30, at_once=6)
        sender.close()
        assert fleet.counts().since(before).calls == outcome.ok == 30
    versions = {RecommendResponse.FromString(answer).model_version for answer in outcome.answers.values()}
    assert versions == set(VERSIONS)


def test_the_picture_shows_every_path() -> None:
    """Each path has its bar and its numbers."""
    result = ModelResult("identity")
    for name, router_us in (("native", 20.0), ("envoy", 30.0), ("aio", 400.0)):
        measured = [Saturated(120, 1_000, 10_000.0, router_us, 10.0, 1.0)]
        result.paths[name] = PathResult(name, f"label {name}", measured)
    drawn = picture.draw([result], QUICK)
    for label, numbers in (("native", "20 + 10 = 30"), ("envoy", "30 + 10 = 40"), ("aio", "400 + 10 = 410 (cut)")):
        assert f"label {label}" in drawn
        assert numbers in drawn


@pytest.mark.parametrize("arguments", [["--paths", "apache"], ["--in-flight", "0"], ["--quick", "--full"]])
def test_a_usage_mistake_exits_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown path, a number out of range and contradicting options are named, with what is allowed."""
    with pytest.raises(SystemExit) as stopped:
        bench(arguments)
    assert stopped.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_weights_are_thirty_users() -> None:
    """30 users can be split exactly as the weights say."""
    assert all(30 * weight % 100 == 0 for weight in WEIGHTS)


def test_light_load_is_measured_by_process_and_compared_by_round(tmp_path: Path) -> None:
    """Two passes at a low rate: every call is answered, both sides have spent CPU, and a path is once itself."""
    said: list[str] = []
    found = light.run(
        tmp_path,
        paths=["native"],
        rates=[100],
        rounds=2,
        seconds=0.5,
        pinned=False,
        before=None,
        router_flags=(),
        say=said.append,
    )
    assert [(one.path, one.rate, one.not_ok) for one in found] == [("native", 100, 0)] * 2
    assert all(one.router_us > 0 and one.workers_us > 0 and one.wakes > 1 for one in found)
    assert light.ratio(found, "native", "native", 100, "p50_ms") == 1
    assert light.table(found).row_count == 9
    assert len(said) == 2
