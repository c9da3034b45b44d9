"""A worker that comes back gets its calls slowly: `--slow-start`."""

import asyncio
import time
from pathlib import Path

import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.load import SEED_HISTORY, call_all

pytestmark = pytest.mark.system
VERSION = "v1.2.3"
CALLS = 100
SECONDS = 5.0


def test_a_worker_that_comes_back(tmp_path: Path) -> None:
    """Of the first hundred calls after it is back, a worker that was killed and started again gets far less than its
    half where its share rises over five seconds."""
    slow_start = SECONDS
    with Fleet(
        tmp_path,
        experiments=experiments_file(),
        versions=(VERSION,),
        replicas=2,
        bent=True,
        router_flags=("--slow-start", str(slow_start)),
    ) as fleet:
        fleet.wait_for_serving(VERSION, 2)
        both_in = time.monotonic()
        fleet.workers[VERSION, 1].kill()
        fleet.wait_for_serving(VERSION, 1)
        # The other one must have had its slow start: what counts is the ratio of the two.
        wait_until(lambda: time.monotonic() > both_in + slow_start, "the first slow start is over")
        fleet.restart_worker(VERSION, 1)
        fleet.wait_for_serving(VERSION, 2)
        asyncio.run(call_all(fleet.address, [RecommendRequest(item_ids=SEED_HISTORY)] * CALLS, at_once=1))
        came = fleet.requests_to(VERSION, 1)
        assert came + fleet.requests_to(VERSION, 0) == CALLS
        assert came < 0.32 * CALLS
