"""Too many calls, which is a short form of `./run prove overload`; and what is refused once they are gone: nothing."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub

from tests.proofs.overload import check, overload
from tests.support.fleet import VERSIONS, Fleet, experiments_file, wait_until

pytestmark = pytest.mark.system


def test_too_many_calls_are_refused_alike(tmp_path: Path) -> None:
    """Three times what the workers can do: calls are served or refused with a pushback, each refused one is logged with
    its group, and no group is refused more than another."""
    check(overload(tmp_path, seconds=3, seed=2))


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_nothing_is_refused_once_a_burst_is_over(tmp_path: Path, transport: str) -> None:
    """A burst of large calls is more than may wait; when all of it has ended, every call of the next ones is taken."""
    flags = ("--max-batch", "4")
    with (
        Fleet(tmp_path, experiments=experiments_file(), transport=transport, bent=True, router_flags=flags) as fleet,
        fleet.stub() as stub,
    ):
        for version in VERSIONS:
            fleet.wait_for_serving(version)
            fleet.bend(version, delay_s=0.1)
        together(stub, requests("warm", 60, items=5))  # until the time of a batch is known
        burst = together(stub, requests("burst", 600, items=3000))
        assert burst["RESOURCE_EXHAUSTED"] > 100, burst
        wait_until(lambda: is_idle(fleet), "nothing waits and nothing is under way")
        alone: Counter[str] = Counter()
        for one in requests("alone", 25, items=5):
            alone += together(stub, [one])
        assert alone == {"OK": 25}


def requests(prefix: str, count: int, *, items: int) -> Iterator[RecommendRequest]:
    """So many calls of different users, with so long a history."""
    for number in range(count):
        request_id = f"{prefix}-{number}"
        yield RecommendRequest(item_ids=range(1, items + 1), user_id=f"user-{number}", request_id=request_id)


def together(stub: RecommenderStub, calls: Iterable[RecommendRequest]) -> Counter[str]:
    """Makes the calls at once; how they ended."""
    made = [stub.Recommend.future(one, timeout=2) for one in list(calls)]
    return Counter(one.code().name for one in made)  # which waits for it


def is_idle(fleet: Fleet) -> bool:
    """Whether the router has no call."""
    status = fleet.status()
    loads = [replica.load for pool in status.pools for replica in pool.replicas]
    return status.waiting.calls == 0 and not any(loads)
