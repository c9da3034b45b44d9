"""docs/decision-log.md: its block of Python records the outcome that stands there."""

import ast
import re
from types import SimpleNamespace
from typing import Any

import grpc
from abfleet_protos.recommender_pb2 import RecordRequest, RecordResponse
from abfleet_protos.recommender_pb2_grpc import FeedbackServicer, add_FeedbackServicer_to_server

from tests.support.process import ROOT

PAGE = (ROOT / "docs" / "decision-log.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:50051"


class Router(FeedbackServicer):
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.outcomes: list[Any] = []

    async def Record(self, request: RecordRequest, context: Any) -> RecordResponse:
        self.outcomes += request.outcomes
        return RecordResponse(accepted=len(request.outcomes))


async def test_the_block_records_an_outcome() -> None:
    """One purchase, of the request that was answered."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert ADDRESS in block
    router, server = Router(), grpc.aio.server()
    add_FeedbackServicer_to_server(router, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        text = block.replace(ADDRESS, f"127.0.0.1:{port}")
        code = compile(text, "decision-log.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        await eval(code, {"answer": SimpleNamespace(request_id="request-1")})
    finally:
        await server.stop(None)
    (outcome,) = router.outcomes
    assert (outcome.request_id, outcome.type, outcome.value, outcome.currency) == ("request-1", "purchase", 12.5, "EUR")
