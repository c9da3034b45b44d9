"""A router's status as a message, as a document, and from routers of the release before."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from abfleet_protos import admin_pb2_grpc
from abfleet_protos.admin_pb2 import GroupStatus, LatencyHistogram, PoolStatus, ReplicaStatus, StatusResponse
from abfleet_transport.client import router_admin
from abfleet_transport.client.router_admin import RouterAdmin, Unreachable
from abfleet_transport.client.status_document import as_document, from_answer
from abfleet_transport.histogram import BOUNDS_SECONDS
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

GRPC_DEFAULT_BYTES = 4 * 1024 * 1024
OLD = """{"router": "router-1", "log_level": "info", "serving": true, "uptime_s": 7312.25, "tasks": 12,
 "config": {"revision": "0a1b2c3d4e5f", "generation": 3, "activated": "2026-11-08T12:00:00.250000+00:00",
  "seen_revision": "0a1b2c3d4e5f", "errors": ["recommender.yaml:3:1: default: is wrong"], "default": "v1.2.3"},
 "groups": [{"experiment": "ranking", "group": "control", "model_version": "v1.2.3", "calls": 7, "errors": 1,
  "fallbacks": 2, "latency": {"bounds_s": [0.001, 0.002], "counts": [0, 5, 2], "total_s": 0.25}}],
 "pools": [{"version": "v1.2.3", "available": 1, "replicas": [
   {"address": "127.0.0.1:50061", "health": "serving", "in": true, "load": 3}], "ejections": 4}],
 "waiting": {"calls": 2, "bytes": 100}, "shed": 3, "rejected": 1, "retries": 5,
 "decision_log": {"path": "decisions.jsonl", "failing": false, "lines": 9, "lost": 6, "buffered": 8}}"""
"""What a router of the release before fields sends."""
BEFORE_THE_FIRST = {"revision": None, "generation": 0, "activated": None, "seen_revision": None, "default": None}


def filled(message: Message, number: int = 1) -> int:
    """Gives every field below a message, `json` aside, a value that no other has; gives the next number."""
    for field in message.DESCRIPTOR.fields:
        if field.name == "json":
            continue
        value: Any = {
            FieldDescriptor.TYPE_STRING: f"text {number}",
            FieldDescriptor.TYPE_DOUBLE: number / 8,
            FieldDescriptor.TYPE_BOOL: True,
        }.get(field.type, number)
        if field.message_type is not None and field.message_type.full_name == "google.protobuf.Timestamp":
            getattr(message, field.name).FromDatetime(datetime(2026, 11, 8, microsecond=number, tzinfo=UTC))
        elif field.message_type is not None:
            inner = getattr(message, field.name)
            number = filled(inner.add() if field.is_repeated else inner, number)
        elif field.is_repeated:
            getattr(message, field.name).extend([value, value])
        else:
            setattr(message, field.name, value)
        number += 1
    return number


def old(**changed: object) -> StatusResponse:
    return StatusResponse(json=json.dumps(json.loads(OLD) | changed))


def test_the_document_has_every_field() -> None:
    """What a reader of the release before is told is all that there is: from its document, the same message."""
    status = StatusResponse()
    filled(status)
    del status.groups[0].latency.bounds_s[1:]
    document = as_document(status)
    assert from_answer(StatusResponse(json=json.dumps(document))) == status
    assert json.loads(json.dumps(document)) == document


def test_a_router_of_the_release_before() -> None:
    """Its JSON becomes the message, number for number, and the document is what it was."""
    status = from_answer(StatusResponse(json=OLD))
    assert as_document(status) == json.loads(OLD)
    assert (status.config.revision, list(status.groups[0].latency.counts)) == ("0a1b2c3d4e5f", [0, 5, 2])
    assert status.config.activated.ToDatetime(UTC) == datetime(2026, 11, 8, 12, 0, 0, 250_000, tzinfo=UTC)
    assert (status.pools[0].replicas[0].gets_calls, status.pools[0].replicas[0].load) == (True, 3)


def test_a_router_of_the_release_before_without_a_configuration() -> None:
    """Null there is an empty field here, and null again in the document."""
    config = {**BEFORE_THE_FIRST, "errors": ["waits"]}
    status = from_answer(old(config=config, groups=[], pools=[]))
    assert (status.config.revision, status.config.HasField("activated")) == ("", False)
    assert as_document(status)["config"] == config


def test_keys_that_are_not_known_are_passed_over() -> None:
    """A router may say more than this reader knows."""
    assert from_answer(old(more={"a": 1})) == from_answer(StatusResponse(json=OLD))


def test_the_fields_count_where_there_are_any() -> None:
    """A router that fills both is read by its fields."""
    status = from_answer(StatusResponse(json=OLD))
    status.json, status.shed = OLD, 99
    assert from_answer(status).shed == 99


LATENCY = LatencyHistogram(bounds_s=[1, 2], counts=[0, 0, 0])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (StatusResponse(), "Expecting value"),
        (StatusResponse(json="[]"), "json: has no key `config`"),
        (old(config=3), "json: .*config"),
        (old(shed=-1), "json: .*shed"),
        (old(pools=[{"replicas": "none"}]), "json: .*replicas"),
        (StatusResponse(config={}, groups=[GroupStatus(group="a")]), "no experiment, a has 0 counts for 0 bounds"),
        (
            StatusResponse(
                config={},
                groups=[
                    GroupStatus(latency=LATENCY),
                    GroupStatus(experiment="e", group="b", latency=LatencyHistogram(bounds_s=[1], counts=[0, 0])),
                ],
            ),
            "e, b has 2 counts for 1 bounds",
        ),
    ],
)
def test_an_answer_without_sense_is_refused(answer: StatusResponse, message: str) -> None:
    """With the key or the group that is wrong; no reader meets a list of the wrong length."""
    with pytest.raises(ValueError, match=message):
        from_answer(answer)


def large(experiments: int, groups: int, replicas: int) -> StatusResponse:
    """As a router fills it, `json` included, with names and counts of the length that busy fleets have."""
    latency = LatencyHistogram(bounds_s=BOUNDS_SECONDS, counts=[1_000_000] * (len(BOUNDS_SECONDS) + 1), total_s=1234.5)
    status = StatusResponse(
        config={"revision": "0" * 12},
        groups=(
            GroupStatus(
                experiment=f"experiment-with-a-name-{experiment:04d}",
                group=f"treatment-{group}",
                model_version="v1.3.0-beta",
                calls=14_000_000,
                errors=1_000_000,
                fallbacks=1_000_000,
                latency=latency,
            )
            for experiment in range(experiments)
            for group in range(groups)
        ),
        pools=[
            PoolStatus(
                version="v1.3.0-beta",
                available=replicas,
                replicas=(
                    ReplicaStatus(address=f"worker-{n}.models.svc:50061", health="serving", gets_calls=True, load=128)
                    for n in range(replicas)
                ),
            )
        ],
    )
    status.json = json.dumps(as_document(status), separators=(",", ":"))
    return status


def test_a_large_fleet_fits_in_a_message() -> None:
    """1,000 experiments of three groups and 1,000 replicas: far below the 4 MiB that every gRPC client takes."""
    status = large(1000, 3, 1000)
    assert status.ByteSize() < GRPC_DEFAULT_BYTES / 2
    status.ClearField("json")
    assert status.ByteSize() < GRPC_DEFAULT_BYTES / 5


class Told(admin_pb2_grpc.AdminServicer):
    """Answers what the test says."""

    def __init__(self, answer: StatusResponse) -> None:
        self.answer = answer

    async def Status(self, request: object, context: object) -> StatusResponse:
        return self.answer


@asynccontextmanager
async def router(answer: StatusResponse) -> AsyncIterator[RouterAdmin]:
    """A client of an admin port that gives this answer."""
    server = grpc.aio.server()
    admin_pb2_grpc.add_AdminServicer_to_server(Told(answer), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with RouterAdmin(f"127.0.0.1:{port}") as admin:
            yield admin
    finally:
        await server.stop(None)


async def test_more_than_grpc_takes_by_itself() -> None:
    """9,000 groups are above 4 MiB: the client takes them, with all rows."""
    answer = large(1000, 9, 1)
    assert answer.ByteSize() > GRPC_DEFAULT_BYTES
    async with router(answer) as admin:
        assert len((await admin.status()).groups) == 9000


async def test_more_than_the_client_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says that the router answers, and how large that is."""
    monkeypatch.setattr(router_admin, "MOST_BYTES", 10_000)
    async with router(large(100, 1, 1)) as admin:
        with pytest.raises(Unreachable, match=r"answer of 127.0.0.1:\d+ cannot be read: .*larger than max"):
            await admin.status()


async def test_old_and_strange_routers() -> None:
    """One that sends JSON alone is read; one that sends neither is named, with what to look at."""
    async with router(StatusResponse(json=OLD)) as admin:
        assert (await admin.status()).decision_log.lost == 6
    async with router(StatusResponse()) as admin:
        with pytest.raises(Unreachable, match=r"cannot be read \(.*\); the router may be of another release"):
            await admin.status()
