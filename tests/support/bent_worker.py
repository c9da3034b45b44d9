"""The real worker, bent while it runs: slow, hung, failing, talking garbage or as another version. For tests alone.

`python -m tests.support.bent_worker --bend FILE …`, with the worker's own flags behind. The file is JSON, read again
for whatever comes together; without it the worker is straight. How many requests came is written beside it.
"""

import json
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from abfleet_protos.worker_pb2 import Failure, RecommendBatchRequest, RecommendBatchResponse
from abfleet_transport.call import Call, Code
from abfleet_worker import app
from abfleet_worker.service import ModelService

LOOK_SECONDS = 0.02
"""Between looks, while it hangs, whether it still should."""


class Bend:
    """What the file says; every key may be absent.

    `delay_s`: before anything is answered. `hang`: nothing is answered until it says otherwise. `fail_share`: of the
    requests fail. `fail_calls`: whole batches are refused. `garbage`: bytes that are no answer. `says`: the version.
    """

    def __init__(self, path: Path, seed: int = 1) -> None:
        self._path = path
        self._draw = random.Random(seed).random
        self._requests = 0
        self._came = path.with_suffix(".came").open("wb", buffering=0)

    def now(self) -> dict[str, Any]:
        """The bend in force."""
        try:
            said: dict[str, Any] = json.loads(self._path.read_text())
        except FileNotFoundError:
            said = {}
        return said

    def came(self, requests: int) -> None:
        """So many requests have come."""
        self._requests += requests
        self._came.seek(0)
        self._came.write(b"%020d" % self._requests)  # in one go, so that nobody reads half of it

    def hold(self) -> dict[str, Any]:
        """Waits as long as the file says; gives what is to be done with the answers."""
        while (how := self.now()).get("hang"):
            time.sleep(LOOK_SECONDS)
        time.sleep(how.get("delay_s", 0.0))
        return how

    def answer(self, payload: bytes, how: dict[str, Any]) -> bytes:
        """The answer that goes out instead of the right one."""
        if how.get("garbage"):
            return b"\xff" * len(payload)
        right = RecommendBatchResponse.FromString(payload)
        right.model_version = how.get("says", right.model_version)
        for index in range(len(right.responses)):
            if self._draw() < how.get("fail_share", 0.0):
                right.responses[index] = b""
                right.failures[index].CopyFrom(Failure(code=int(Code.INTERNAL), message="bent"))
        return right.SerializeToString()


class BentCall:
    """A call whose answer is bent on its way out."""

    def __init__(self, call: Call, bend: Bend, how: dict[str, Any]) -> None:
        self._call = call
        self._bend = bend
        self._how = how
        self.method, self.payload, self.metadata = call.method, call.payload, call.metadata
        self.deadline, self.peer, self.arrived, self.owner = call.deadline, call.peer, call.arrived, call.owner

    def reply(self, payload: bytes) -> None:
        """Answers, but not with this."""
        if self._how.get("fail_calls"):
            self._call.fail(Code.INTERNAL, "bent")
        else:
            self._call.reply(self._bend.answer(payload, self._how))

    def fail(self, code: Code, message: str, *, pushback_ms: int | None = None) -> None:
        """As it is."""
        self._call.fail(code, message, pushback_ms=pushback_ms)


def bent_service(bend: Bend) -> type[ModelService]:
    """The worker's service, under a bend."""

    class BentService(ModelService):
        def answer(self, calls: Sequence[Call]) -> None:
            bend.came(sum(len(RecommendBatchRequest.FromString(call.payload).requests) for call in calls))
            how = bend.hold()
            super().answer([BentCall(call, bend, how) for call in calls] if how else calls)

    return BentService


def main() -> int:
    """Runs the worker with a service that is bent."""
    assert sys.argv[1] == "--bend", sys.argv
    app.ModelService = bent_service(Bend(Path(sys.argv[2])))  # type: ignore[misc]
    return app.main(sys.argv[3:])


if __name__ == "__main__":
    sys.exit(main())
