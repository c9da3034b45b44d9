"""A pool named by an alias: whatever version stands for it now serves, and is the one that is named everywhere."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from abfleet_protos.worker_pb2 import RecommendBatchResponse
from abfleet_router.fleet.health_watch import serves_pool
from hypothesis import given
from hypothesis import strategies as st

from tests.router.bench import Bench
from tests.router.fakes import turns, worker_answer

names = st.sampled_from(["", "v1", "v2", "production", 'v1","fallback":"', "v" * 65])


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """Pools v1, v2 and v3, of which v3 is taken for an alias; the default is v1."""
    opened = Bench()
    await opened.open()
    yield opened
    await opened.close()


def answer_as(bench: Bench, version: str, alias: str) -> Any:
    """Lets the worker of v3 answer as another version; gives its replica."""
    ((replica, sent),) = bench.open_batches("v3")
    answer = RecommendBatchResponse.FromString(worker_answer(version, sent.requests))
    answer.alias = alias
    sent.answer(answer.SerializeToString())
    return replica


@given(pool=st.sampled_from(["v1", "production"]), version=names, alias=names)
def test_who_stands_for_a_pool(pool: str, version: str, alias: str) -> None:
    """The pool's own version, or any version by name that follows the pool's alias; nothing that is no name."""
    is_name = version in ("v1", "v2", "production")
    assert serves_pool(pool, version, alias) == (version == pool or (alias == pool and is_name))


async def test_the_version_that_stands_for_the_alias_serves(bench: Bench) -> None:
    """The caller and the log get the version that answered; the log keeps the alias as what was assigned, and calls it
    no fallback; another version after it, as when the alias has moved, is as welcome."""
    for version in ("v8", "v9"):
        call = bench.call("on-v3", [5], request_id=version)
        await bench.arrive(call)
        replica = answer_as(bench, version, "v3")
        await turns()
        assert call.response.model_version == version
        assert list(call.response.item_ids) == [6, 7]
        assert replica in bench.fleet.pools["v3"].available
        line = next(line for line in bench.log.exposures() if line["request_id"] == version)
        logged = (line["model_version"], line["served_version"], line["fallback"], line["status"])
        assert logged == ("v3", version, None, "OK")


@pytest.mark.parametrize(("version", "alias"), [("v9", ""), ("v9", "staging"), ('v9","', "v3"), ("", "v3")])
async def test_who_does_not_stand_for_it_is_out_at_once(bench: Bench, version: str, alias: str) -> None:
    """Another alias, none, or a version that is no name: the replica is ejected, and the default serves."""
    call = bench.call("on-v3", [5], request_id="r")
    await bench.arrive(call)
    replica = answer_as(bench, version, alias)
    await turns()
    assert replica not in bench.fleet.pools["v3"].available
    await bench.run_dry()
    assert call.response.model_version == "v1"
