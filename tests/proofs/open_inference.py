"""MLServer and KServe behind a router, beside themselves asked directly; Triton's own client in front of it.

`./run prove open-inference [--requests N] [--seconds S]`, each server in an environment of its own. Two of each serve
the treatment, a worker the control. Answers must be equal to those of a server that is asked directly; of calls that go
on, one server is killed and then the other: none may fail; a server that is back must be taken up within ten seconds.
"""

import argparse
import asyncio
import json
import random
import socket
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from abfleet_protos.inference_pb2 import ModelInferRequest, ModelInferResponse, ModelReadyRequest, ModelReadyResponse

from tests.support import small_graphs
from tests.support.fleet import Fleet, wait_until
from tests.support.oip_tools import PYTHON as TRITON
from tests.support.process import ROOT
from tests.support.small_graphs import add_model

HERE = Path(__file__).parent / "servers"
WORKER, SERVER = "v1.0.0", "v2.0.0"
"""Versions of control and treatment."""
TAKEN_UP_SECONDS = 10.0
CALLERS = 8
START_SECONDS = 120.0
SERVICE = "/inference.GRPCInferenceService"


@dataclass(frozen=True, slots=True)
class Kind:
    """A server that is not ours."""

    name: str
    version: str
    """Of the model, as the file gives it; "" where the server knows none."""
    python: Path
    prepare: Callable[[Path, int, int], Sequence[str]]
    """Writes what it needs into a folder, for a port of gRPC and one of HTTP; gives its arguments."""


def mlserver(folder: Path, port: int, http_port: int) -> Sequence[str]:
    """One model, in the process that serves."""
    settings = {"host": "127.0.0.1", "grpc_port": port, "http_port": http_port, "metrics_endpoint": None}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    model = {"name": "ranker", "implementation": "mlserver_ranker.Ranker", "parameters": {"version": "3"}}
    (folder / "model-settings.json").write_text(json.dumps(model))
    (folder / "mlserver_ranker.py").write_text((HERE / "mlserver_ranker.py").read_text())
    return ["-c", "from mlserver.cli import main; main()", "start", str(folder)]


def kserve(folder: Path, port: int, http_port: int) -> Sequence[str]:
    """One model."""
    return [str(HERE / "kserve_ranker.py"), "--grpc_port", str(port), "--http_port", str(http_port)]


KINDS = (
    Kind("MLServer 1.7.1", "3", ROOT / ".cache/mlserver/bin/python", mlserver),
    Kind("KServe 0.21.0", "", ROOT / ".cache/kserve/bin/python", kserve),
)


def free_port() -> int:
    """One that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ForeignServer:
    """One process; it can be killed, and started again where it was."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        folder.mkdir()
        self.address = f"127.0.0.1:{(port := free_port())}"
        self._kind = kind
        self._folder = folder
        self._arguments = kind.prepare(folder, port, free_port())
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it says that the model is ready."""
        with (self._folder / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                [self._kind.python, *self._arguments], cwd=self._folder, stdout=log, stderr=log, start_new_session=True
            )
        wait_until(self.is_ready, f"{self._kind.name} is ready: {self._folder / 'log'}", START_SECONDS)

    def is_ready(self) -> bool:
        """What it says itself."""
        question = ModelReadyRequest(name="ranker", version=self._kind.version)
        with channel_to(self.address) as channel:
            call = channel.unary_unary(
                f"{SERVICE}/ModelReady", ModelReadyRequest.SerializeToString, ModelReadyResponse.FromString
            )
            try:
                return bool(call(question, timeout=2).ready)
            except grpc.RpcError:
                return False

    def kill(self) -> None:
        """SIGKILL, and waits until it is gone."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()


def channel_to(address: str) -> grpc.Channel:
    return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


@contextmanager
def two_servers(kind: Kind, folder: Path) -> Iterator[list[ForeignServer]]:
    """Both ready; killed at the end."""
    servers = [ForeignServer(kind, folder / f"server-{number}") for number in range(2)]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.kill()


def experiments(kind: Kind, servers: Sequence[ForeignServer]) -> str:
    """Half of the users get the worker, half the servers."""
    behind = {"target": [server.address for server in servers], "protocol": "oip", "model": "ranker"}
    groups = [{"name": "control", "model": WORKER, "weight": 50}, {"name": "treatment", "model": SERVER, "weight": 50}]
    overrides = {"on-worker": "control", "on-server": "treatment"}
    document = {
        "version": 1,
        "default": WORKER,
        "models": {
            WORKER: {"target": "127.0.0.1:1"},
            SERVER: {**behind, **({"version": kind.version} if kind.version else {})},
        },
        "experiments": [{"name": "ranking", "overrides": overrides, "groups": groups}],
    }
    return json.dumps(document)


def drawn(generator: random.Random, *, columns: int = 4) -> ModelInferRequest:
    """Features of some rows."""
    rows = generator.randrange(1, 17)
    features = [generator.gauss(0, 1) for _ in range(rows * columns)]
    request = ModelInferRequest(model_name="recommender", id=f"r{generator.getrandbits(64):x}")
    request.raw_input_contents.append(struct.pack(f"<{len(features)}f", *features))
    request.inputs.add(name="features", datatype="FP32", shape=[rows, columns])
    return request


@dataclass(slots=True)
class Seen:
    """What was seen with one kind of server."""

    name: str
    compared: int = 0
    different: int = 0
    error: str = ""
    """Of a wrong tensor, where both ways gave the same; else both."""
    asked: set[str] = field(default_factory=set)
    """Ids of the calls that were made while servers were killed."""
    failed: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    """Answers that are not the model's."""
    unlogged: int = 0
    fallbacks: int = 0
    taken_up_seconds: float = 0.0
    triton: str = ""

    @property
    def holds(self) -> bool:
        """Whether all was as it must be."""
        return (
            not (self.different or self.failed or self.wrong or self.unlogged)
            and self.fallbacks > 0
            and self.error == "INVALID_ARGUMENT"
            and self.taken_up_seconds <= TAKEN_UP_SECONDS
            and self.triton.split()[1:] == ["0", "StatusCode.INVALID_ARGUMENT"]
        )

    def text(self) -> str:
        """For people."""
        failed = f"{sum(self.failed.values())} failed {dict(self.failed) or ''}".strip()
        return "\n".join(
            (
                f"{self.name}: {self.compared} answers compared, {self.different} different",
                f"  a wrong tensor, asked both ways: {self.error}",
                f"  {len(self.asked)} calls while both servers were killed: {failed}, {self.wrong} wrong",
                f"  {self.unlogged} calls not logged, {self.fallbacks} fallbacks logged",
                f"  taken up {self.taken_up_seconds:.1f} s after the server was ready again",
                f"  tritonclient in front (calls, wrong answers, error of a wrong tensor): {self.triton}",
            )
        )


def infer(channel: grpc.Channel, request: ModelInferRequest, user: str = "") -> ModelInferResponse:
    call = channel.unary_unary(
        f"{SERVICE}/ModelInfer", ModelInferRequest.SerializeToString, ModelInferResponse.FromString
    )
    metadata = (("x-user-id", user),) if user else ()
    answer: ModelInferResponse = call(request, timeout=30, metadata=metadata)
    return answer


def tensors(answer: ModelInferResponse) -> tuple[Any, ...]:
    """All but what the router says of itself."""
    others = {name: value for name, value in answer.parameters.items() if name not in ("experiment", "group")}
    return (list(answer.outputs), list(answer.raw_output_contents), others)


def compare(kind: Kind, fleet: Fleet, server: ForeignServer, seen: Seen, requests: int) -> None:
    """The same requests by way of the router and to a server itself."""
    generator = random.Random(20_261_130)
    with channel_to(fleet.address) as behind, channel_to(server.address) as direct:
        for _ in range(requests):
            request = drawn(generator)
            routed = infer(behind, request, "on-server")
            request.model_name, request.model_version = "ranker", kind.version
            seen.compared += 1
            seen.different += tensors(routed) != tensors(infer(direct, request)) or routed.model_version != SERVER
        errors = []
        for channel, name, version in ((behind, "recommender", ""), (direct, "ranker", kind.version)):
            request = drawn(generator, columns=3)
            request.inputs[0].shape[0] = 2
            request.raw_input_contents[0] = bytes(24)
            request.model_name, request.model_version = name, version
            try:
                infer(channel, request, "on-server")
            except grpc.RpcError as error:
                errors.append((error.code().name, error.details()))
        seen.error = errors[0][0] if len(errors) == 2 and errors[0] == errors[1] else str(errors)


async def under_load(fleet: Fleet, servers: Sequence[ForeignServer], seen: Seen, seconds: float) -> None:
    """Calls without a pause; the servers are killed one after the other, and started again."""
    stop = asyncio.Event()
    callers = [asyncio.create_task(_call(fleet.address, number, seen, stop)) for number in range(CALLERS)]
    await asyncio.sleep(seconds / 3)
    servers[0].kill()
    await asyncio.sleep(seconds / 3)
    servers[1].kill()
    await asyncio.sleep(seconds / 3)
    await asyncio.to_thread(servers[0].start)
    begun = time.monotonic()
    await asyncio.to_thread(fleet.wait_for_serving, SERVER)
    seen.taken_up_seconds = time.monotonic() - begun
    await asyncio.to_thread(servers[1].start)
    await asyncio.to_thread(fleet.wait_for_serving, SERVER, 2)
    stop.set()
    await asyncio.gather(*callers)


async def _call(address: str, number: int, seen: Seen, stop: asyncio.Event) -> None:
    generator = random.Random(number)
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        call = channel.unary_unary(
            f"{SERVICE}/ModelInfer", ModelInferRequest.SerializeToString, ModelInferResponse.FromString
        )
        while not stop.is_set():
            request = drawn(generator)
            seen.asked.add(request.id)
            try:
                answer = await call(request, timeout=30, metadata=(("x-user-id", f"u{generator.randrange(1000)}"),))
            except grpc.aio.AioRpcError as error:
                seen.failed[f"{error.code().name}: {error.details()}"] += 1
            else:
                seen.wrong += answer.id != request.id or list(answer.outputs[0].shape) != [
                    request.inputs[0].shape[0],
                    1,
                ]


def read_log(fleet: Fleet, seen: Seen) -> None:
    """Once the router has ended: each call has a line, and those that the default version answered say why."""
    lines = [line for line in fleet.log() if line["event"] == "exposure"]
    seen.unlogged = len(seen.asked - {line["request_id"] for line in lines})
    seen.fallbacks = sum(line["fallback"] is not None and line["served_version"] == WORKER for line in lines)


def prove(kind: Kind, folder: Path, *, requests: int, seconds: float) -> Seen:
    """All of it, with one kind of server."""
    seen = Seen(kind.name)
    with two_servers(kind, folder) as servers:
        registry = folder / "models"
        add_model(registry, WORKER, small_graphs.ranker())
        with Fleet(
            folder,
            experiments=experiments(kind, servers),
            registry=registry,
            versions=[WORKER],
            # Generous: what is shown is what becomes of calls, not how fast the machine is.
            router_flags=("--default-deadline", "30", "--attempt-timeout", "5"),
        ) as fleet:
            fleet.wait_for_serving(SERVER, 2)
            compare(kind, fleet, servers[0], seen, requests)
            done = subprocess.run(
                [TRITON, HERE / "triton_ranker.py", fleet.address, str(requests)],
                capture_output=True,
                text=True,
                check=False,
            )
            seen.triton = done.stdout.strip() or done.stderr[-500:]
            asyncio.run(under_load(fleet, servers, seen, seconds))
        read_log(fleet, seen)
    return seen


def main() -> int:
    """Each kind in its turn."""
    parser = argparse.ArgumentParser(prog="./run prove open-inference", description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=2000, help="whose answers are compared (2,000)")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load until a server is started again (30)")
    got = parser.parse_args()
    missing = [str(path) for path in (TRITON, *(kind.python for kind in KINDS)) if not path.exists()]
    if missing:
        parser.error(f"{missing[0]} is not here: ./run oip-tools and ./run oip-servers fetch what this needs")
    holds = True
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            seen = prove(kind, Path(folder), requests=got.requests, seconds=got.seconds)
        print(seen.text(), flush=True)
        holds = holds and seen.holds
    return 0 if holds else 1


if __name__ == "__main__":
    raise SystemExit(main())
