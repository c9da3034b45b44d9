"""Targets on the wire: the router's HTTP/2 client before a hostile worker, requests, outcomes, batches, metadata."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import orjson
from abfleet_log import schema
from abfleet_process.security import tokens
from abfleet_process.tracing import traceparent
from abfleet_protos.recommender_pb2 import Outcome, RecommendRequest, RecordRequest
from abfleet_protos.worker_pb2 import RecommendBatchRequest, RecommendBatchResponse
from abfleet_router.calls.request import user_id_from_metadata
from abfleet_router.errors import InvalidRequest
from abfleet_router.feedback.feedback import Feedback
from abfleet_router.fleet.http2_client import ClientConnection
from abfleet_router.fleet.http2_client_stream import MAX_ANSWER_BYTES, RpcFailed
from abfleet_transport.call import Code
from abfleet_transport.rpc_metrics import RpcMetrics
from abfleet_worker.metrics import WorkerMetrics
from abfleet_worker.service import METHODS, ModelService
from google.protobuf.message import DecodeError

from tests.fuzz import frames
from tests.fuzz.mutation import any_of, mutated_text
from tests.fuzz.target import Target, Trial
from tests.router.bench import Bench
from tests.router.fakes import FakeCall, turns, worker_answer
from tests.worker.calls import FakeCall as WorkerCall
from tests.worker.calls import SumModel

AT_ONCE = 20
REQUESTS = tuple(
    request.SerializeToString()
    for request in (
        RecommendRequest(item_ids=[1, 2, 3, 10, 15]),
        RecommendRequest(item_ids=[2**31, -1, 0], user_id="пользователь-7", limit=100, request_id="r-1"),
        RecommendRequest(user_id="u", attributes={"country": "DE", "age": "30"}),
    )
)
OUTCOMES = tuple(
    RecordRequest(outcomes=outcomes).SerializeToString()
    for outcomes in (
        [Outcome(outcome_id="o-1", request_id="r", user_id="u", type="click", item_id=3)],
        [Outcome(outcome_id=f"o-{n}", request_id="r", type="purchase", value=1.5, currency="EUR") for n in range(3)],
    )
)
BATCHES = tuple(
    RecommendBatchRequest(requests=requests, timeout_ms=timeouts).SerializeToString()
    for requests, timeouts in ((REQUESTS, ()), (REQUESTS, (100, 200, 300)), ((), ()))
)
ANSWERS = (
    worker_answer("v1", REQUESTS),
    worker_answer("v1", REQUESTS, {1: (Code.INTERNAL, "no")}),
    RecommendBatchResponse(model_version="v9", responses=[b"x"]).SerializeToString(),
)
HEALTH = (b"\x08\x01", b"\x08\x02", b"", b"\x08\xff\xff\xff\xff\x0f")


class Wire:
    """A transport that keeps nothing but how much was written."""

    def __init__(self) -> None:
        self.written = 0
        self.ended = False

    def write(self, data: bytes) -> None:
        self.written += len(data)

    def get_write_buffer_size(self) -> int:
        """Nobody reads at the other end."""
        return self.written

    def abort(self) -> None:
        self.ended = True

    close = abort


@asynccontextmanager
async def http2_client() -> AsyncIterator[Trial]:
    """A connection with a batch and a health watch under way, and a worker that sends whatever it likes, in pieces.

    It must not raise; when it is closed each call has ended; what comes in makes it say no more than a little.
    """

    async def trial(source: random.Random) -> int:
        wire = Wire()
        connection = ClientConnection("worker:1", lambda connection: None)
        connection.connection_made(cast(asyncio.Transport, wire))
        before = wire.written
        heard: list[bytes] = []
        ends: list[bytes | RpcFailed] = []
        connection.call("/w/Batch", b"x" * source.choice((5, 50_000)), 0.5, ends.append)
        connection.call("/h/Watch", b"y", None, ends.append, heard.append)
        data = frames.server_bytes(source, (1, 3), (*ANSWERS, *HEALTH))
        cut = source.randrange(len(data) + 1)
        for part in (data[:cut], data[cut:]):
            if not wire.ended:
                connection.data_received(part)
        assert wire.written - before < 200_000 + 20 * len(data)
        answered = any(isinstance(end, bytes) for end in ends)
        connection.close()
        assert len(ends) == 2
        assert sum(map(len, heard)) <= MAX_ANSWER_BYTES
        return int(bool(answered or heard))

    yield trial


@asynccontextmanager
async def worker_answers() -> AsyncIterator[Trial]:
    """What comes back for a batch is mutated: each caller gets one answer, each call one line, whatever it is."""
    bench = Bench()
    await bench.open()

    async def trial(source: random.Random) -> int:
        calls = [bench.call("on-v1", request_id=f"r-{number}") for number in range(3)]
        await bench.arrive(*calls)
        for _ in range(12):
            batches = bench.open_batches()
            if not batches:
                break
            for replica, sent in batches:
                sent.answer(any_of(source, (*ANSWERS, worker_answer(replica.version, sent.requests))))
            await turns()
            bench.clock.advance(10)  # nobody stays ejected
            for replica in bench.made:
                bench.fleet.pools[replica.version].refresh()
        assert all(len(call.answers) == 1 for call in calls)
        bench.nothing_is_left()
        return _settled(bench, len(calls))

    yield trial
    await bench.close()


def _settled(bench: Bench, calls: int) -> int:
    """Checks the lines of these calls, forgets them, and gives how many were served."""
    assert bench.log.problems == [], bench.log.problems[:3]
    assert len(bench.log.lines) == calls
    served = sum(bool(line.get("status") == "OK") for line in bench.log.lines)
    bench.log.lines.clear()
    bench.calls.clear()
    return served


def metadata(source: random.Random) -> list[tuple[str, str | bytes]]:
    """What a transport hands over: ASCII values, or bytes under keys that end in -bin."""
    found: list[tuple[str, str | bytes]] = []
    for _ in range(source.randrange(4)):
        key = source.choice(("x-user-id", "x-synthetic", "traceparent", "authorization", "x-user-id-bin", "x"))
        if key.endswith("-bin"):
            found.append((key, any_of(source, (b"user-1", "пользователь".encode(), b"\xff\xfe"))))
        else:
            seed = source.choice(
                ("user-1", "1", "Bearer abf_x", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            )
            text = mutated_text(seed, source)
            found.append((key, "".join(one for one in text if " " <= one <= "~")))
    return found


@asynccontextmanager
async def requests() -> AsyncIterator[Trial]:
    """Recommend calls with mutated messages and metadata, through admission, assignment and the log; workers answer."""
    bench = Bench()
    await bench.open()

    async def trial(source: random.Random) -> int:
        calls = [FakeCall(any_of(source, REQUESTS), bench.clock.now, metadata=metadata(source)) for _ in range(AT_ONCE)]
        await bench.arrive(*calls)
        while batches := bench.open_batches():
            for replica, sent in batches:
                sent.answer(worker_answer(replica.version, [b""] * len(sent.requests)))
            await turns()
        codes = Counter(call.code for call in calls)  # of the only answer
        assert codes.keys() <= {Code.OK, Code.INVALID_ARGUMENT}, codes
        for call in calls:
            assert call.code is Code.OK or len(call.only.message) < 600  # type: ignore[union-attr]
        bench.nothing_is_left()
        _settled(bench, len(calls))
        return codes[Code.OK]

    yield trial
    await bench.close()


class FakeContext(SimpleNamespace):
    """A server's context of one call."""

    def invocation_metadata(self) -> Any:
        return self.metadata

    def time_remaining(self) -> None:
        return None

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    async def abort(self, code: object, text: str, trailers: object = ()) -> None:
        raise Aborted(text)


class Aborted(Exception):
    """As grpc ends a call."""


class LinesLog:
    """Checks lines against the schema, and forgets them."""

    def append_all(self, lines: list[bytes], written: Callable[[bool], None]) -> None:
        for line in lines:
            assert not (found := schema.problems(orjson.loads(line))), found
        written(True)


@asynccontextmanager
async def outcomes() -> AsyncIterator[Trial]:
    """Outcomes, mutated: each is accepted, a repeat or rejected with a reason, and what is accepted fits the schema."""
    bench = Bench()
    await bench.open()
    feedback = Feedback(
        cast(Any, LinesLog()),
        lambda: bench.router.snapshot,
        RpcMetrics(("/a/b", "/Feedback/Record")),
        router="r",
        window=1000,
        authorise=lambda metadata, certificate: None,
    )

    async def trial(source: random.Random) -> int:
        try:
            request = RecordRequest.FromString(any_of(source, OUTCOMES))
        except DecodeError:  # the library answers these
            return 0
        try:
            answer = await feedback.Record(request, cast(Any, FakeContext(metadata=metadata(source))))
        except Aborted:
            return 0
        assert answer.accepted + answer.duplicate + answer.rejected == len(request.outcomes)
        assert len(answer.rejections) == answer.rejected
        return int(answer.accepted > 0)

    yield trial
    await bench.close()


@asynccontextmanager
async def batches() -> AsyncIterator[Trial]:
    """Calls to a worker, single ones and batches, mutated: each has one answer, and others keep theirs."""
    service = ModelService(
        SumModel(max_history=50),
        rpc_metrics=RpcMetrics(METHODS),
        metrics=WorkerMetrics(lambda: ("v1", "")),
        max_batch=32,
        make_request_id=lambda: "made",
    )

    async def trial(source: random.Random) -> int:
        good = WorkerCall(0, REQUESTS[0])
        calls = [WorkerCall(kind := source.randrange(2), any_of(source, (REQUESTS, BATCHES)[kind])) for _ in range(9)]
        service.answer([*calls, good])
        assert isinstance(good.only, bytes)
        return sum(isinstance(call.only, bytes) for call in (*calls, good))

    yield trial


@asynccontextmanager
async def headers() -> AsyncIterator[Trial]:
    """Metadata alone, by whoever reads it."""

    async def trial(source: random.Random) -> int:
        found = metadata(source)
        try:
            user_id = user_id_from_metadata(dict(found))
        except InvalidRequest:
            return 0
        assert len(user_id.encode()) <= 256
        token = tokens.bearer(found)
        assert token is None or len(token) <= tokens.MOST_TOKEN_CHARACTERS
        for _, value in found:
            traceparent.parse(value)
        return 1

    yield trial


TARGETS = (
    Target(name="http/2 client", inputs=200_000, open=http2_client),
    Target(name="recommend requests", inputs=200_000, each=AT_ONCE, open=requests),
    Target(name="outcomes", inputs=120_000, open=outcomes),
    Target(name="batches to a worker", inputs=150_000, each=10, open=batches),
    Target(name="answers of a worker", inputs=15_000, open=worker_answers),
    Target(name="metadata", inputs=91_200, open=headers),
)
