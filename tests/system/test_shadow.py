"""A version in the shadow of another, with real processes: whatever it does, users' calls do not notice."""

import json
import re
import signal
import urllib.request
from collections import Counter, deque
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.shadow.compare import compare_answers
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub

from tests.support.fleet import Fleet, experiments_file, wait_until

pytestmark = pytest.mark.system
SERVED, SHADOWED = "v1.2.3", "v1.4.0-rc1"
BENDS: tuple[tuple[str, dict[str, Any], set[str]], ...] = (
    ("straight", {}, {"OK"}),
    ("garbage", {"garbage": True}, {"INTERNAL"}),
    ("refused", {"fail_calls": True}, {"INTERNAL"}),
    ("another", {"says": "v9"}, {"INTERNAL"}),
    ("failing", {"fail_share": 0.5}, {"OK", "INTERNAL"}),
    ("hanging", {"hang": True}, {"DEADLINE_EXCEEDED", "UNAVAILABLE"}),  # where its silence ends the connection
)


def shadowed(percent: float) -> str:
    """Everybody gets one version, and another is asked with so many percent of the calls."""
    file = json.loads(experiments_file(100, 0, 0))
    return json.dumps(file | {"shadow": [{"model": SHADOWED, "percent": percent, "of": [SERVED]}]})


def call_all(stub: RecommenderStub, prefix: str, count: int, *, at_once: int) -> Counter[str]:
    """So many calls, as many of them at once; how they ended."""
    ended: Counter[str] = Counter()
    under_way: deque[Any] = deque()
    for number in range(count):
        if len(under_way) >= at_once:
            ended[under_way.popleft().code().name] += 1
        request = RecommendRequest(
            item_ids=[1, 2, number + 1], user_id=f"user-{number % 50}", request_id=f"{prefix}-{number}", limit=5
        )
        under_way.append(stub.Recommend.future(request, timeout=20))
    return ended + Counter(one.code().name for one in under_way)


def counted(fleet: Fleet, name: str) -> Counter[str]:
    """A counter of the shadow by reason or status."""
    with urllib.request.urlopen(f"http://{fleet.metrics_address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    pattern = rf'^abfleet_shadow_{name}_total\{{.*(?:reason|status)="(\w+)".*\}} (\S+)$'
    return Counter({label: int(float(value)) for label, value in re.findall(pattern, text, re.MULTILINE)})


def shadows(fleet: Fleet) -> list[dict[str, Any]]:
    return [line for line in fleet.log() if line["event"] == "shadow"]


def settled(fleet: Fleet, calls: int) -> list[dict[str, Any]]:
    """The lines, once each of so many calls has one or is counted as shed."""
    wait_until(
        lambda: len(shadows(fleet)) + counted(fleet, "shed").total() == calls,
        f"{calls} calls in the shadow have a line or are counted as shed",
        seconds=60,
    )
    return shadows(fleet)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_whatever_it_does_users_do_not_notice(tmp_path: Path, transport: str) -> None:
    """Garbage, errors, another version, hanging, dying: each user's call is answered by its own version at the first
    attempt, and each call in the shadow has one line that says what it did, or is counted as shed."""
    with (
        Fleet(
            tmp_path, experiments=shadowed(100), transport=transport, bent=True, versions=(SERVED, SHADOWED)
        ) as fleet,
        fleet.stub() as stub,
    ):
        fleet.wait_for_serving(SHADOWED)
        calls = 0
        for name, bend, statuses in BENDS:
            fleet.bend(SHADOWED, **bend)
            assert call_all(stub, name, 40, at_once=8) == {"OK": 40}
            calls += 40
            lines = [line for line in settled(fleet, calls) if line["request_id"].startswith(name)]
            assert lines, name
            assert {line["status"] for line in lines} <= statuses, name
        fleet.workers[SHADOWED, 0].popen.send_signal(signal.SIGKILL)
        assert call_all(stub, "dead", 40, at_once=8) == {"OK": 40}
        settled(fleet, calls + 40)
        exposures = fleet.exposures(calls + 40)
        assert {(line["served_version"], line["attempts"], line["fallback"]) for line in exposures} == {
            (SERVED, 1, None)
        }
        keys = [(line["request_id"], line["version"]) for line in shadows(fleet)]
        assert len(keys) == len(set(keys))
        assert all(len(line["items"]) == 5 for line in shadows(fleet) if line["status"] == "OK")
        (found,) = compare_answers([fleet.log_dir]).comparisons
        assert (found.version, found.primary, found.without_answer) == (SHADOWED, SERVED, 0)
        assert found.compared == counted(fleet, "answers")["OK"] >= 40
        assert found.primary_errors == 0


def test_it_is_shed_first(tmp_path: Path) -> None:
    """While calls wait all the time, those in the shadow are shed, and not one of a user is. They may wait long."""
    flags = ("--max-batch", "4", "--attempt-timeout", "20")
    with (
        Fleet(tmp_path, experiments=shadowed(100), bent=True, versions=(SERVED, SHADOWED), router_flags=flags) as fleet,
        fleet.stub() as stub,
    ):
        fleet.wait_for_serving(SHADOWED)
        fleet.bend(SERVED, delay_s=0.03)
        assert call_all(stub, "full", 300, at_once=16) == {"OK": 300}
        settled(fleet, 300)
        shed = counted(fleet, "shed")
        assert shed["busy"] + shed["full"] > 50, shed
        assert set(shed) <= {"busy", "full"}
