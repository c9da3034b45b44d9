"""Feedback/Record: what is accepted is in the log before the answer, once; the rest is told why not."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import orjson
import pytest
from abfleet_experiments.file.load import load_text
from abfleet_log import schema
from abfleet_log.writer import sinks
from abfleet_log.writer.decision_log import DecisionLog
from abfleet_log.writer.log_settings import LogSettings
from abfleet_protos.recommender_pb2 import Outcome, RecordRequest, RecordResponse
from abfleet_protos.recommender_pb2_grpc import FeedbackStub, add_FeedbackServicer_to_server
from abfleet_router.configuration.snapshot import Snapshot, make_snapshot
from abfleet_router.feedback.feedback import METHOD_INDEX, Feedback
from abfleet_router.feedback.group_metrics import shares
from abfleet_router.feedback.seen_ids import SeenIds
from abfleet_router.metrics import RouterMetrics
from abfleet_router.parts import COUNTED
from abfleet_router.security.access import AccessDenied
from abfleet_transport.call import Code, Metadata
from abfleet_transport.rpc_metrics import RpcMetrics
from hypothesis import given
from hypothesis import strategies as st

from tests.support.full_disk import FullDisk

WALL = 1_790_000_000.0
NOW_US = int(WALL * 1e6)
CONFIG = """
version: 1
default: v1
models: {v1: {target: "127.0.0.1:1"}}
metrics:
  long_plays: {type: mean, outcome: long_play}
"""

GROUPS_CONFIG = """
version: 1
default: v1
models: {v1: {target: "127.0.0.1:1"}, v2: {target: "127.0.0.1:2"}}
experiments:
  - name: ranking
    overrides: {qa: canary}
    groups:
      - {name: control, model: v1, weight: 87.5}
      - {name: canary, model: v2, weight: 12.5}
      - {name: "off", model: v2, weight: 0}
"""


class Desk:
    """A served Feedback over a real log."""

    def __init__(self, folder: Path) -> None:
        settings = LogSettings(flush_interval_seconds=3600, compress="none", max_lines=20_000)
        self.log = DecisionLog(folder, settings)
        self.rpc = RpcMetrics(COUNTED)
        self.allowed = True
        self.snapshot: Snapshot | None = make_snapshot(
            load_text(CONFIG), _Pools(), RouterMetrics(), router="r", generation=1, at=datetime(2026, 1, 1, tzinfo=UTC)
        )
        self.feedback = Feedback(
            self.log,
            lambda: self.snapshot,
            self.rpc,
            router="router-1",
            window=1000,
            authorise=self.authorise,
            wall=lambda: WALL,
        )
        self.record: Callable[..., Any]

    def authorise(self, metadata: Metadata, certificate: str | None) -> str | None:
        """Whoever says who it is, while somebody is allowed."""
        if not self.allowed:
            raise AccessDenied(Code.UNAUTHENTICATED, "not you")
        return str(dict(metadata)["x-who"]) if "x-who" in dict(metadata) else certificate

    def lines(self) -> list[dict[str, Any]]:
        """What the file has."""
        return [orjson.loads(line) for line in Path(self.log.path).read_bytes().splitlines()]


class _Pools(dict[str, Any]):
    def __missing__(self, key: str) -> None:
        return None


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Served on a free port, with a stub."""
    one = Desk(tmp_path)
    one.log.open()
    server = grpc.aio.server()
    add_FeedbackServicer_to_server(one.feedback, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = FeedbackStub(channel)  # type: ignore[no-untyped-call]

        async def record(outcomes: Sequence[Outcome], **options: Any) -> RecordResponse:
            response: RecordResponse = await stub.Record(RecordRequest(outcomes=outcomes), timeout=30, **options)
            return response

        one.record = record
        yield one
    await server.stop(None)
    one.log.close()


def click(number: int = 1, **changes: Any) -> Outcome:
    fields: dict[str, Any] = {
        "outcome_id": f"o-{number}",
        "request_id": "r-1",
        "user_id": "u-1",
        "type": "click",
        "item_id": 5,
        "time": NOW_US - 7,
    }
    return Outcome(**{**fields, **changes})


async def test_accepted_is_logged(desk: Desk) -> None:
    """When the answer is there the line is in the file, whole and true to the schema; no flush interval passes."""
    sale = click(2, type="purchase", value=-12.5, currency="EUR", item_id=0, request_id="", time=0)
    answer = await desk.record([click(), sale, click(3, type="long_play", value=0.25)])
    assert (answer.accepted, answer.duplicate, answer.rejected) == (3, 0, 0)
    lines = desk.lines()
    assert [schema.problems(line) for line in lines] == [[], [], []]
    assert lines[0] == {
        "schema": 1,
        "event": "outcome",
        "ts": "2026-09-21T14:13:19.999993Z",
        "received_ts": "2026-09-21T14:13:20.000000Z",
        "outcome_id": "o-1",
        "request_id": "r-1",
        "user_id": "u-1",
        "type": "click",
        "item_id": 5,
        "value": None,
        "currency": None,
        "synthetic": False,
        "router": "router-1",
    }
    assert (lines[1]["value"], lines[1]["currency"], lines[1]["item_id"], lines[1]["request_id"]) == (
        -12.5,
        "EUR",
        None,
        None,
    )
    assert lines[1]["ts"] == lines[1]["received_ts"]
    assert desk.rpc.handled(METHOD_INDEX) == {"OK": 1}


@pytest.mark.parametrize(
    ("changes", "field", "allowed"),
    [
        ({"outcome_id": ""}, "outcome_id", "1 to 128 bytes"),
        ({"outcome_id": "ж" * 65}, "outcome_id", "1 to 128 bytes"),
        ({"outcome_id": "a\nb"}, "outcome_id", "control"),
        ({"request_id": "x" * 129}, "request_id", "128"),
        ({"user_id": "x" * 257}, "user_id", "256"),
        ({"user_id": "a\x00"}, "user_id", "control"),
        ({"user_id": "", "request_id": ""}, "user_id", "request_id"),
        ({"type": "stare"}, "type", "long_play"),
        ({"type": ""}, "type", "click"),
        ({"item_id": -1}, "item_id", "from 1"),
        ({"value": float("nan")}, "value", "finite"),
        ({"value": float("-inf")}, "value", "finite"),
        ({"value": 1e19}, "value", "from -1e+15 to 1e+15"),
        ({"value": -1.1e15}, "value", "from -1e+15 to 1e+15"),
        ({"currency": "euro"}, "currency", "ISO 4217"),
        ({"time": NOW_US + 61_000_000}, "time", "minute"),
        ({"time": int(WALL)}, "time", "microseconds"),
        ({"time": -5}, "time", "microseconds"),
    ],
)
async def test_rejected_is_told_why(desk: Desk, changes: dict[str, Any], field: str, allowed: str) -> None:
    """Field, value cut short, and what is allowed; the rest of the batch is taken, and no line of it is in the log."""
    answer = await desk.record([click(1), click(2, **changes), click(3)])
    assert (answer.accepted, answer.rejected) == (2, 1)
    (rejection,) = answer.rejections
    assert rejection.index == 1
    assert rejection.reason.startswith(f"{field}: ")
    assert allowed in rejection.reason
    assert len(rejection.reason) < 220
    assert [line["outcome_id"] for line in desk.lines()] == ["o-1", "o-3"]


async def test_what_is_just_allowed(desk: Desk) -> None:
    """The ends of each range."""
    edge = [
        click(1, outcome_id="ж" * 64, time=NOW_US + 60_000_000),
        click(2, user_id="x" * 256),
        click(3, user_id=""),
        click(4, request_id=""),
        click(5, value=-1e15),
        click(6, time=946_684_800_000_000),
        click(7, item_id=2**63 - 1),
    ]
    assert (await desk.record(edge)).accepted == 7


async def test_every_currency_is_taken(desk: Desk) -> None:
    """And logged: which one counts is for the experiments file to say, and for the analysis."""
    sales = [("purchase", "EUR"), ("purchase", "USD"), ("purchase", ""), ("long_play", "USD"), ("purchase", "EUR")]
    answer = await desk.record([click(n, type=kind, currency=code) for n, (kind, code) in enumerate(sales)])
    assert (answer.accepted, answer.rejected) == (5, 0)
    assert [line["currency"] for line in desk.lines()] == ["EUR", "USD", None, "USD", "EUR"]


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "conversion"},
        {"user_id": "u-2"},
        {"request_id": "r-2"},
        {"item_id": 6},
        {"value": 2.0},
        {"currency": "EUR"},
    ],
)
async def test_an_id_of_another_outcome(desk: Desk, changes: dict[str, Any]) -> None:
    """It is rejected as a conflict, in the same batch and in a later one, and is not in the log."""
    other = click(1, **changes)
    for batch in ([click(1), other], [other]):
        answer = await desk.record(batch)
        (rejection,) = answer.rejections
        assert (rejection.index, rejection.outcome_id) == (len(batch) - 1, "o-1")
        assert rejection.reason.startswith("outcome_id: 'o-1'; allowed: an id of its own")
    answer = await desk.record([click(1), click(1, time=0)])
    assert (answer.duplicate, answer.rejected) == (2, 0), "the first is still remembered, whenever it is told"
    assert len(desk.lines()) == 1


async def test_synthetic_outcomes_take_no_ids(desk: Desk) -> None:
    """An outcome is neither a repeat nor a conflict of what a generator sent under the same id."""
    await desk.record([click(1), click(2)], metadata=(("x-synthetic", "1"),))
    answer = await desk.record([click(1), click(2, value=3.0), click(3)])
    assert (answer.accepted, answer.duplicate, answer.rejected) == (3, 0, 0)
    answer = await desk.record([click(1), click(3)], metadata=(("x-synthetic", "1"),))
    assert (answer.accepted, answer.duplicate, answer.rejected) == (1, 1, 0)


async def test_repeats(desk: Desk) -> None:
    """In one batch, in the next, and in two at the same time: each outcome is accepted once and logged once."""
    first = await desk.record([click(1), click(1), click(2)])
    assert (first.accepted, first.duplicate) == (2, 1)
    both = await asyncio.gather(*(desk.record([click(n) for n in range(600)]) for _ in range(2)))
    assert sorted(answer.accepted for answer in both) == [0, 598]
    assert sorted(answer.duplicate for answer in both) == [2, 600]
    assert sorted(line["outcome_id"] for line in desk.lines()) == sorted(f"o-{n}" for n in range(600))
    assert desk.feedback.counts.by_type == {("click", "accepted"): 600, ("click", "duplicate"): 603}


async def test_a_batch_of_the_largest_size(desk: Desk) -> None:
    """10,000 are taken together; one more is refused whole, with the number."""
    answer = await desk.record([click(n) for n in range(10_000)])
    assert answer.accepted == 10_000
    assert len(desk.lines()) == 10_000
    with pytest.raises(grpc.aio.AioRpcError, match="10001") as caught:
        await desk.record([click(n) for n in range(10_001)])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (await desk.record([])).accepted == 0


async def test_the_log_cannot_be_written(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is acknowledged: UNAVAILABLE, and the same batch is accepted, not called a repeat, when there is room."""
    disk = FullDisk(monkeypatch)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await desk.record([click(1)])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert desk.feedback.counts.by_type == {}
    disk.full = False
    async with asyncio.timeout(30):
        while desk.log.failing or desk.log.buffered:
            await asyncio.sleep(0.001)
    assert (await desk.record([click(1)])).accepted == 1
    assert {line["outcome_id"] for line in desk.lines()} == {"o-1"}
    assert desk.rpc.handled(METHOD_INDEX) == {"OK": 1, "UNAVAILABLE": 1}


async def test_a_caller_who_goes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was told nothing, so its outcomes are not called repeats when it comes again, whatever became of the lines."""
    free = threading.Event()
    real_write = sinks.write

    def write(file: int, chunk: bytes, *system: object) -> tuple[int, OSError | None]:
        free.wait(30)
        return real_write(file, chunk)

    monkeypatch.setattr(sinks, "write", write)
    going = asyncio.create_task(desk.record([click(1)]))
    async with asyncio.timeout(30):
        while not desk.log.buffered:
            await asyncio.sleep(0.001)
        going.cancel()
        while desk.rpc.handled(METHOD_INDEX) != {"CANCELLED": 1}:
            await asyncio.sleep(0.001)
    free.set()
    assert (await desk.record([click(1)])).accepted == 1
    assert {line["outcome_id"] for line in desk.lines()} == {"o-1"}


async def test_who_may_record(desk: Desk) -> None:
    """Who is not allowed records nothing; before a configuration is in force neither."""
    desk.allowed = False
    with pytest.raises(grpc.aio.AioRpcError, match="not you") as caught:
        await desk.record([click()])
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    desk.allowed, desk.snapshot = True, None
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await desk.record([click()])
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert desk.lines() == []


async def test_synthetic_outcomes_are_marked(desk: Desk) -> None:
    """As calls are, by metadata."""
    await desk.record([click(1)], metadata=(("x-synthetic", "1"),))
    await desk.record([click(2)])
    assert [line["synthetic"] for line in desk.lines()] == [True, False]


async def test_who_told_it_is_in_the_line(desk: Desk) -> None:
    """Where that is known; else the line has no such member."""
    await desk.record([click(1)], metadata=(("x-who", "shop"),))
    await desk.record([click(2)])
    assert [line.get("client", "none") for line in desk.lines()] == ["shop", "none"]


@given(st.lists(st.integers(0, 40), max_size=300), st.integers(1, 10))
def test_the_window(ids: list[int], window: int) -> None:
    """The last `window` different ids are always known, an id that never came never is, and the size is bounded."""
    seen = SeenIds(window)
    order: list[str] = []
    for number in ids:
        one = str(number)
        known = seen.get(one)
        assert known == number or (known is None and one not in order[-window:])
        if known is None:
            seen.add(one, number)
            order.append(one)
        assert seen.get(one) == number
        assert len(seen) <= 2 * window
        assert seen.get("never") is None
    for one in order[-1:]:
        seen.discard(one)
        assert seen.get(one) is None


def grouped() -> Snapshot:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return make_snapshot(load_text(GROUPS_CONFIG), _Pools(), RouterMetrics(), router="r", generation=1, at=at)


async def test_outcomes_are_counted_by_group(desk: Desk) -> None:
    """An accepted outcome counts once for the group of its user; one without a user or a group counts for none."""
    desk.snapshot = grouped()
    forced, unknown = click(1, user_id="qa"), click(2, user_id="")
    sale = click(3, user_id="qa", type="purchase", value=1.0, currency="EUR")
    await desk.record([forced, unknown, sale, click(4, type="x")])
    await desk.record([forced])
    assert desk.feedback.by_group.counts == {
        ("ranking", "canary", "click"): 1,
        ("ranking", "canary", "purchase"): 1,
        ("", "", "click"): 1,
    }
    (family,) = desk.feedback.by_group.families()
    assert "For results use abfleet analyze" in family.documentation
    assert sum(sample.value for sample in family.samples if sample.name == "abfleet_group_outcomes_total") == 3


def test_shares_are_those_of_the_file() -> None:
    """Each group's share in force, groups at 0 included; nothing before the first configuration."""
    (family,) = shares(grouped())
    found = {tuple(sample.labels.values()): sample.value for sample in family.samples}
    assert found == {("ranking", "control"): 0.875, ("ranking", "canary"): 0.125, ("ranking", "off"): 0.0}
    (family,) = shares(None)
    assert family.samples == []
