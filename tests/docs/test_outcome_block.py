"""docs/decision-log.md: its block of Python records the outcome that stands there."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from abfleet_protos import recommender_pb2 as messages
from abfleet_protos import recommender_pb2_grpc as services

from tests.support.process import ROOT

PAGE = (ROOT / "docs" / "decision-log.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:50051"


class Router(services.RecommenderServicer, services.FeedbackServicer):
    """Answers with one film, and keeps what is recorded."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []

    def Recommend(self, request: messages.RecommendRequest, context: Any) -> messages.RecommendResponse:
        return messages.RecommendResponse(item_ids=[318], scores=[1.0], request_id="request-1", model_version="v1")

    def Record(self, request: messages.RecordRequest, context: Any) -> messages.RecordResponse:
        self.outcomes += request.outcomes
        return messages.RecordResponse(accepted=len(request.outcomes))


def test_the_block_records_an_outcome() -> None:
    """One purchase, of the request that was answered."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert ADDRESS in block
    router, server = Router(), grpc.server(ThreadPoolExecutor(2))
    services.add_RecommenderServicer_to_server(router, server)  # type: ignore[no-untyped-call]
    services.add_FeedbackServicer_to_server(router, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        exec(compile(block.replace(ADDRESS, f"127.0.0.1:{port}"), "decision-log.md", "exec"), {})
    finally:
        server.stop(None).wait()
    (outcome,) = router.outcomes
    assert (outcome.request_id, outcome.type, outcome.value, outcome.currency) == ("request-1", "purchase", 12.5, "EUR")
    assert outcome.item_id == 318
