"""What the stories of calls share: ways to fail, users, and what the log says of a call."""

from collections.abc import Callable
from typing import Any

from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_router.fleet.failure import BatchFailed, FailureReason

from tests.router.bench import Bench
from tests.router.fakes import FakeCall

Make = Callable[..., Any]
TIMED_OUT = BatchFailed(FailureReason.TIMEOUT, "late", connection_broke=False)
OVERLOADED = BatchFailed(FailureReason.OVERLOAD, "full", connection_broke=False)
MODEL_ERROR = BatchFailed(FailureReason.MODEL_ERROR, "INTERNAL: a fault", connection_broke=False)
USERS = ("on-v1", "on-v2", "on-v3", "user-1", "")


def line_of(bench: Bench, call: FakeCall) -> dict[str, Any]:
    """The one exposure of a call."""
    request_id = RecommendRequest.FromString(call.payload).request_id
    (line,) = [line for line in bench.log.exposures() if line["request_id"] == request_id]
    return line


def outcome(bench: Bench, call: FakeCall) -> tuple[str, str | None, str | None, int]:
    """What the log says of a call: status, who served, why not the assigned one, attempts."""
    line = line_of(bench, call)
    return line["status"], line["served_version"], line["fallback"], line["attempts"]
