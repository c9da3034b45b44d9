"""What is compiled once for each arm: bytes that complete an answer without its being read."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import orjson
from abfleet_experiments.assign import Arm
from abfleet_experiments.file.load import load_text
from abfleet_protos.recommender_pb2 import RecommendResponse
from abfleet_router.configuration.snapshot import (
    REQUEST_ID_HEADS,
    REQUEST_ID_TAG,
    log_constant,
    make_snapshot,
    reply_suffix,
    string_field,
)
from abfleet_router.fleet.pool import Pool
from abfleet_router.metrics import RouterMetrics
from hypothesis import given
from hypothesis import strategies as st

from tests.router.bench import CONFIG

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
AT = datetime(2026, 11, 1, tzinfo=UTC)


def arm(experiment: str | None, group: str | None) -> Arm:
    """An arm with these names."""
    return Arm(0, None, experiment, group, "allocated", None, None, "v1")


@given(
    TEXT,
    TEXT,
    TEXT,
    st.text(st.characters(exclude_categories=["Cs"]), max_size=32),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
)
def test_an_answer_is_completed_by_appending(
    experiment: str, group: str, served: str, request_id: str, items: list[int]
) -> None:
    """A worker's bytes, a request id and the suffix are one message with all of their fields."""
    worker = RecommendResponse(item_ids=items, scores=[1.0] * len(items))
    raw = request_id.encode()
    whole = b"".join(
        (worker.SerializeToString(), REQUEST_ID_HEADS[len(raw)], raw, reply_suffix(arm(experiment, group), served))
    )
    assert RecommendResponse.FromString(whole) == RecommendResponse(
        item_ids=items,
        scores=[1.0] * len(items),
        request_id=request_id,
        experiment=experiment,
        group=group,
        model_version=served,
    )


def test_a_worker_cannot_say_who_the_user_is() -> None:
    """Fields that a worker sets itself are overruled: the last one counts."""
    worker = RecommendResponse(item_ids=[1], request_id="w", experiment="w", group="w", model_version="w")
    whole = worker.SerializeToString() + string_field(REQUEST_ID_TAG, "r") + reply_suffix(arm("e", "g"), "v1")
    got = RecommendResponse.FromString(whole)
    assert (got.request_id, got.experiment, got.group, got.model_version) == ("r", "e", "g", "v1")


def test_what_is_empty_is_left_out() -> None:
    """As proto3 does it: an arm without experiment adds the version alone."""
    assert reply_suffix(arm(None, None), "v1") == b"\x2a\x02v1"
    assert string_field(REQUEST_ID_TAG, "") == b""


def test_every_request_id_has_its_head() -> None:
    """0 to 128 bytes, of which 128 takes two bytes of length."""
    assert len(REQUEST_ID_HEADS) == 129
    assert REQUEST_ID_HEADS[127] == b"\x12\x7f"
    assert REQUEST_ID_HEADS[128] == b"\x12\x80\x01"


def test_routes_are_found_by_the_arms_number() -> None:
    """Each arm's route has the arm, the pool of its version, its bytes, and counts that outlive the snapshot."""
    config = load_text(CONFIG)
    pools = {version: cast(Pool, SimpleNamespace(version=version)) for version in config.models}
    metrics = RouterMetrics()
    first, second = (make_snapshot(config, pools, metrics, router="r", generation=number, at=AT) for number in (1, 2))
    assert len(first.routes) == len(first.arms) > 3
    for index, route in enumerate(first.routes):
        assert route.arm.index == index
        assert route.pool is pools[route.arm.model_version]
        assert route.suffix == reply_suffix(route.arm, route.arm.model_version)
        assert route.log_constant == log_constant(route.arm, config.revision, "r")
        assert route.stats is second.routes[index].stats
    assert first.default_pool is pools["v1"]
    assert (first.revision, first.generation, second.generation) == (config.revision, 1, 2)
    assert first.log_attributes == {"country"}


@given(TEXT)
def test_the_constant_part_of_a_line(name: str) -> None:
    """It is the inside of an object, so that what belongs to a call can stand around it."""
    members = orjson.loads(b"{%s}" % log_constant(arm(name, name), "0" * 12, name))
    assert (members["experiment"], members["group"], members["router"]) == (name, name, name)
