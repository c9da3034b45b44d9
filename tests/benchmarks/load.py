"""Saturating load: one h2load process for each user, so that every connection carries one user's header.

Knows h2load's command line and its summary. It counts HTTP statuses, not gRPC statuses: who reads the throughput checks
the answers with the sender first.
"""

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.sender import Request

METHOD_PATH = "/Recommender/Recommend"
_SUCCEEDED = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored")


@dataclass(frozen=True, slots=True)
class User:
    """A user of the load: an id, where the calls go, and the serialised request."""

    user_id: str
    port: int
    payload: bytes
    path: str = METHOD_PATH
    """Of the method that is called."""

    @property
    def request(self) -> Request:
        return Request.of(port=self.port, path=self.path, payload=self.payload, headers={"x-user-id": self.user_id})


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a pass did: calls with HTTP 200, and those without; wall time from the first start to the last end."""

    calls: int
    failed: int
    elapsed_s: float


def saturate(users: Sequence[User], *, calls: int, in_flight: int, directory: Path, timeout_s: float) -> Loaded:
    """Sends `calls` calls, the same number for each user, about `in_flight` at a time in all."""
    each, at_once = max(1, calls // len(users)), max(1, round(in_flight / len(users)))
    running = []
    began = time.perf_counter()
    try:
        for number, user in enumerate(users):
            body = directory / f"body-{number}"
            body.write_bytes(user.request.message)
            argv = ["h2load", "-n", str(max(each, at_once)), "-c", "1", "-m", str(at_once), "-d", str(body)]
            for header in ("content-type: application/grpc", "te: trailers", f"x-user-id: {user.user_id}"):
                argv += ["-H", header]
            argv.append(f"http://127.0.0.1:{user.port}{user.path}")
            running.append(subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        limit = time.monotonic() + timeout_s
        outputs = [process.communicate(timeout=max(0.1, limit - time.monotonic()))[0] for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    elapsed_s = time.perf_counter() - began
    counted = [_SUCCEEDED.search(output) for output in outputs]
    good = sum(int(match[1]) for match in counted if match)
    asked = max(each, at_once) * len(users)
    return Loaded(good, asked - good, elapsed_s)
