"""Each call gets one answer, and its own, whatever happens to the calls around it.

Callers with different histories go through one router over the real models, many at once; some hang up, some have
hardly any time. Whoever is answered gets what the model that served says of that very history, computed here beside the
fleet; the decision log has one exposure for each call, with the same end. `./run prove exactly-once` makes 100,000
calls on each transport; the suite a few thousand.
"""

import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from abfleet_models.runtime import onnxruntime
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub

from tests.support.fleet import MODELS, VERSIONS, Fleet, experiments_file, wait_until

HISTORIES = 400
AT_ONCE = 150


def main() -> int:
    """Runs it at full length on both transports."""
    for transport in ("native", "grpcio"):
        with (
            tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name,
            Fleet(Path(name), experiments=experiments_file(), transport=transport) as fleet,
        ):
            for version in VERSIONS:
                fleet.wait_for_serving(version)
            print(f"{transport}: {each_call_gets_its_own_answer(fleet, calls=100_000, seed=1)}", flush=True)
    return 0


@dataclass(frozen=True, slots=True)
class Ended:
    """What a caller saw."""

    request_id: str
    history: int
    how: str
    """`OK`, `hung up`, or the name of a status."""
    version: str = ""
    item_ids: tuple[int, ...] = ()


def histories(seed: int) -> list[list[int]]:
    """Different histories of ids that the models know, 1 to 40 items long."""
    shuffled = random.Random(seed)
    known = [1, 2, 3, 10, 15, *range(16, 400)]
    return [shuffled.sample(known, shuffled.randrange(1, 41)) for _ in range(HISTORIES)]


def expected(version: str, rows: list[list[int]]) -> list[tuple[int, ...]]:
    """The ten best items of each history, from the model file itself, one row at a time."""
    session = onnxruntime.InferenceSession(str(MODELS / version / "model.onnx"), providers=["CPUExecutionProvider"])
    return [
        tuple(session.run(["item_ids"], {"history": np.array([row], dtype=np.int64)})[0][0][:10].tolist())
        for row in rows
    ]


async def call_them(address: str, rows: list[list[int]], calls: int, seed: int) -> list[Ended]:
    """Makes the calls, `AT_ONCE` at a time on a few connections."""
    shuffled = random.Random(seed)
    gate = asyncio.Semaphore(AT_ONCE)
    channels = [grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(4)]
    stubs = [RecommenderStub(channel) for channel in channels]

    async def one(number: int, kind: float, patience: float) -> Ended:
        history = number % len(rows)
        request = RecommendRequest(
            item_ids=rows[history], user_id=f"user-{number % 1000}", request_id=f"once-{seed}-{number}"
        )
        async with gate:
            timeout = patience if 0.1 < kind < 0.2 else 30.0
            call = stubs[number % len(stubs)].Recommend(request, timeout=timeout)
            if kind < 0.1:
                asyncio.get_running_loop().call_later(patience, call.cancel)
            try:
                answer = await call
            except asyncio.CancelledError:
                return Ended(request.request_id, history, "hung up")
            except grpc.aio.AioRpcError as error:
                return Ended(request.request_id, history, error.code().name)
            assert answer.request_id == request.request_id
            return Ended(request.request_id, history, "OK", answer.model_version, tuple(answer.item_ids))

    try:
        jobs = [one(number, shuffled.random(), shuffled.uniform(0.001, 0.03)) for number in range(calls)]
        return await asyncio.gather(*jobs)
    finally:
        for channel in channels:
            await channel.close()


def each_call_gets_its_own_answer(fleet: Fleet, calls: int, seed: int) -> str:
    """See the module's first words; says what was seen."""
    rows = histories(seed)
    right = {version: expected(version, rows) for version in VERSIONS}
    begun = time.monotonic()
    ended = asyncio.run(call_them(fleet.address, rows, calls, seed))
    seconds = time.monotonic() - begun
    assert len({one.request_id for one in ended}) == calls
    how = Counter(one.how for one in ended)
    assert how.keys() <= {"OK", "hung up", "DEADLINE_EXCEEDED"}, how
    for one in ended:
        if one.how == "OK":
            assert one.item_ids == right[one.version][one.history], one
    prefix = f"once-{seed}-"

    def logged() -> dict[str, list[dict[str, object]]] | None:
        found: dict[str, list[dict[str, object]]] = {}
        for line in fleet.log():
            if line["event"] == "exposure" and line["request_id"].startswith(prefix):
                found.setdefault(line["request_id"], []).append(line)
        return found if found.keys() >= {one.request_id for one in ended if one.how == "OK"} else None

    lines = wait_until(logged, "a line for every answer", 60)
    assert all(len(of_one) == 1 for of_one in lines.values()), "one line a call"
    for one in ended:
        line = lines.get(one.request_id, [None])[0]
        if one.how == "OK":
            assert line is not None
            assert line["status"] == "OK"
            assert tuple(line["items"]) == one.item_ids
            assert line["served_version"] == one.version
        elif line is not None:  # a caller may be gone before its call has reached the router
            assert line["status"] in ("OK", "CANCELLED", "DEADLINE_EXCEEDED"), line
    unseen = sum(one.request_id not in lines for one in ended)
    statuses = Counter(of_one[0]["status"] for of_one in lines.values())
    wait_until(lambda: fleet.status().waiting.calls == 0, "nothing waits")
    return (
        f"{calls} calls in {seconds:.0f} s; callers saw {dict(how)}; the log has {len(lines)} lines, "
        f"{dict(statuses)}; {unseen} calls were given up before they reached the router"
    )


if __name__ == "__main__":
    raise SystemExit(main())
