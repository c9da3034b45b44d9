"""Random messages of the Open Inference Protocol through a router to a server that keeps them: not a byte is changed.

`./run prove infer-bytes [--messages N] [--transport NAME]`. The server gets the caller's bytes and after them its own
names, the caller the server's bytes and after them what the router says of the call. The suite has a short form.
"""

import argparse
import asyncio
import json
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse
from google.protobuf.message import DecodeError

from tests.support.fleet import Fleet
from tests.support.infer_messages import drawn, drawn_answer
from tests.support.oip_server import MODEL, OipServer

CALLERS = 16
VERSION = "v3"
ENDING = b"\x0a\x06ranker\x12\x013"
"""What a request for the pool has in the end."""


class Recorder(OipServer):
    """Answers at random, and keeps what it was asked and what it answered, by the number in the id."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: dict[str, list[bytes]] = {}
        self.answers: dict[str, bytes] = {}

    async def _infer(self, payload: bytes, context: object) -> bytes:
        number = ModelInferRequest.FromString(payload).id
        self.requests.setdefault(number, []).append(payload)
        answer = self.answers[number] = drawn_answer(random.Random(number))
        return answer


@dataclass(slots=True)
class Seen:
    """What became of the messages."""

    transport: str
    messages: int = 0
    wrong: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """A line."""
        changed = f"{sum(self.wrong.values())} changed {dict(self.wrong) or ''}".rstrip()
        return f"{self.transport}: {self.messages} messages, {changed}"


def check(seen: Seen, recorder: Recorder, number: str, payload: bytes, reply: bytes) -> None:
    """One call: both messages byte for byte, and what was added."""
    if recorder.requests.pop(number, []) != [payload + ENDING]:
        seen.wrong["request"] += 1
    answer = recorder.answers.pop(number, b"")
    if not reply.startswith(answer):
        seen.wrong["answer"] += 1
        return
    try:
        added = ModelInferResponse.FromString(reply[len(answer) :])
    except DecodeError:
        seen.wrong["ending"] += 1
        return
    expected = ModelInferResponse(model_name="recommender", model_version=VERSION, id=number)
    for name in ("experiment", "group"):
        expected.parameters[name].string_param = ""
    if added != expected:
        seen.wrong["added"] += 1


async def run(folder: Path, transport: str, messages: int, seed: int = 1) -> Seen:
    """So many messages over one transport."""
    seen = Seen(transport)
    recorder = Recorder()
    await recorder.start()
    model = {"target": recorder.address, "protocol": "oip", "model": MODEL, "version": "3"}
    experiments = json.dumps({"version": 1, "default": VERSION, "models": {VERSION: model}})
    flags = ("--default-deadline", "60", "--attempt-timeout", "60", "--log-level", "warning")
    fleet = Fleet(folder, experiments=experiments, versions=[], transport=transport, router_flags=flags)
    fleet.fleet_path.write_text(json.dumps({"version": 1, "models": {VERSION: {"target": recorder.address}}}))
    try:
        await asyncio.to_thread(fleet.start_router)
        await asyncio.gather(*(_call(fleet.address, seen, recorder, messages, seed, place) for place in range(CALLERS)))
    finally:
        await asyncio.to_thread(fleet.stop)
        await recorder.stop()
    return seen


async def _call(address: str, seen: Seen, recorder: Recorder, messages: int, seed: int, place: int) -> None:
    generator = random.Random(f"{seed} {place}")
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for number in range(place, messages, CALLERS):
            payload = drawn(generator, number)
            reply = await answered(call, payload)
            seen.messages += 1
            check(seen, recorder, f"r{number}", payload, reply)


async def answered(call: Callable[..., Awaitable[bytes]], payload: bytes) -> bytes:
    """The answer; a call that is refused because the machine is busy never reached the server, and is made again."""
    while True:
        try:
            return await call(payload, timeout=60)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise
        await asyncio.sleep(0.2)


def main() -> int:
    """Over both transports."""
    parser = argparse.ArgumentParser(prog="./run prove infer-bytes", description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=100_000, help="(100,000)")
    parser.add_argument("--transport", choices=("native", "grpcio"), default="native", help="(native)")
    got = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seen = asyncio.run(run(Path(folder), got.transport, got.messages))
    print(seen.text())
    return 1 if seen.wrong or seen.messages != got.messages else 0


if __name__ == "__main__":
    raise SystemExit(main())
