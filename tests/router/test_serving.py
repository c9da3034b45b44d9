"""A whole router in this process, on both transports: real gRPC callers, a real worker, real files."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import orjson
import pytest
import zstandard
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_log.schema import problems
from abfleet_process.errors import AddressError
from abfleet_protos import admin_pb2, admin_pb2_grpc
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_router.serving import Serving
from abfleet_router.settings import parse
from abfleet_transport.client.status_document import as_document
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.router.stub_worker import StubWorker
from tests.transport.grpcio.test_hostile_path import send_hostile

SECONDS = 30
RECOMMEND = "/Recommender/Recommend"
NO_FLAGS: Mapping[str, str] = {}


def write_experiments(file: Path, *workers: StubWorker, share: int = 50) -> None:
    """One experiment over v1 and v2, by rename."""
    models = "".join(f'  {one.version}: {{target: "{one.address}"}}\n' for one in workers)
    new = file.with_name("new")
    new.write_text(
        f"version: 1\ndefault: v1\nmodels:\n{models}experiments:\n  - name: ranking\n    overrides: {{qa: treatment}}\n"
        f"    groups: [{{name: control, model: v1, weight: {100 - share}}},"
        f" {{name: treatment, model: v2, weight: {share}}}]\n"
    )
    new.replace(file)


class Scene:
    """A router, its workers, and a caller."""

    def __init__(self, folder: Path, transport: str) -> None:
        self.folder, self.transport = folder, transport
        self.file = folder / "recommender.yaml"
        self.v1, self.v2 = StubWorker("v1"), StubWorker("v2")
        self.serving: Serving | None = None
        self.channel: grpc.aio.Channel | None = None
        self.admin: grpc.aio.Channel | None = None

    def arguments(self, more: Mapping[str, str] = NO_FLAGS) -> list[str]:
        """Flags with ports of their own."""
        flags = {
            "experiments": str(self.file),
            "listen": "127.0.0.1:0",
            "admin-listen": "127.0.0.1:0",
            "metrics-port": "0",
            "transport": self.transport,
            "log-dir": str(self.folder / "logs"),
            "reload-interval": "0.02",
            **more,
        }
        return [f"--{name}={value}" for name, value in flags.items()]

    async def open(self, more: Mapping[str, str] = NO_FLAGS, *, start_v1: bool = True) -> Serving:
        """Starts the workers and the router, and connects."""
        if start_v1:
            await self.v1.start()
        await self.v2.start()
        write_experiments(self.file, self.v1, self.v2)
        self.serving = await Serving(parse(self.arguments(more), {})).__aenter__()
        self.channel = grpc.aio.insecure_channel(self.serving.address)
        self.admin = grpc.aio.insecure_channel(self.serving.admin_address)
        return self.serving

    async def recommend(self, user_id: str = "qa", history: tuple[int, ...] = (1, 2), **fields: Any) -> Any:
        """One call, as a client makes it."""
        assert self.channel is not None
        call = self.channel.unary_unary(
            RECOMMEND,
            request_serializer=RecommendRequest.SerializeToString,
            response_deserializer=RecommendResponse.FromString,
        )
        return await call(RecommendRequest(user_id=user_id, item_ids=history, **fields), timeout=SECONDS)

    async def health(self) -> int:
        """What grpc.health.v1 says of the whole server."""
        assert self.channel is not None
        answer = await health_pb2_grpc.HealthStub(self.channel).Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        return int(answer.status)

    async def status(self) -> admin_pb2.StatusResponse:
        """What `abfleet status` would read."""
        answer: admin_pb2.StatusResponse = await self.operator.Status(admin_pb2.StatusRequest(), timeout=SECONDS)
        return answer

    async def reload(self) -> Any:
        """What `abfleet reload` would do."""
        return await self.operator.Reload(admin_pb2.ReloadRequest(), timeout=SECONDS)

    @property
    def operator(self) -> Any:
        """A client of the admin port."""
        assert self.admin is not None
        return admin_pb2_grpc.AdminStub(self.admin)  # type: ignore[no-untyped-call]  # generated code has no types

    def lines(self) -> list[dict[str, Any]]:
        """What is in the log's files, each line held against the schema."""
        found = []
        for file in sorted((self.folder / "logs").glob("*.jsonl*")):
            with zstandard.open(file, "rb") if file.suffix == ".zst" else file.open("rb") as lines:
                found += [orjson.loads(line) for line in lines.read().splitlines()]
        assert [problem for line in found for problem in problems(line)] == []
        return found

    async def close(self) -> None:
        """In the order in which a deployment goes."""
        for channel in (self.channel, self.admin):
            if channel is not None:
                await channel.close(None)
        if self.serving is not None:
            serving, self.serving = self.serving, None
            await serving.__aexit__(None, None, None)
        await self.v1.stop()
        await self.v2.stop()


@pytest.fixture(params=["native", "grpcio"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    """Closed at the end, if the test has not done it."""
    one = Scene(tmp_path, request.param)
    yield one
    await one.close()


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something holds that has no event."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


async def test_from_start_to_end(scene: Scene) -> None:
    """Not serving, ready, calls, drained: and every call is in the log when the router has closed."""
    serving = await scene.open()
    async with asyncio.timeout(SECONDS):
        await serving.ready()
    assert await scene.health() == health_pb2.HealthCheckResponse.SERVING
    v2 = serving.parts.fleet.pools["v2"]
    await until(lambda: len(v2.available) == 1)
    answers = await asyncio.gather(*(scene.recommend(f"user-{n}", (n,), request_id=f"r{n}") for n in range(40)))
    assert [(list(answer.item_ids), answer.request_id) for answer in answers] == [
        ([n + 1, n + 2], f"r{n}") for n in range(40)
    ]
    assert {(answer.group, answer.model_version) for answer in answers} == {("control", "v1"), ("treatment", "v2")}
    with pytest.raises(grpc.aio.AioRpcError, match="limit: 101 is not allowed; allowed: 1 to 100") as caught:
        await scene.recommend(limit=101)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    text = await asyncio.to_thread(lambda: urlopen(f"http://{serving.metrics_address}/metrics").read().decode())
    assert 'grpc_requests_total{method="Recommender/Recommend",status="OK"} 40.0' in text
    await serving.drain()
    await scene.close()
    lines = scene.lines()
    assert sorted(line["request_id"] for line in lines if line["event"] == "exposure") == sorted(
        f"r{n}" for n in range(40)
    )
    assert {line["event"] for line in lines} == {"exposure", "rejected", "allocation"}


async def test_it_is_not_ready_without_its_default(scene: Scene) -> None:
    """Until a worker of the default version serves: NOT_SERVING, UNAVAILABLE, and the status says what it waits for."""
    await scene.v1.start()
    await scene.v1.stop()
    serving = await scene.open(start_v1=False)
    ready = asyncio.create_task(serving.ready())
    await until(lambda: bool(serving.parts.reloader.state.errors))
    assert await scene.health() == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError, match="starting") as caught:
        await scene.recommend()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    status = await scene.status()
    assert (status.serving, status.config.revision, status.config.HasField("activated")) == (False, "", False)
    assert "waits for a worker that serves v1" in status.config.errors[0]
    await scene.v1.start()
    async with asyncio.timeout(SECONDS):
        await ready
    assert await scene.health() == health_pb2.HealthCheckResponse.SERVING


async def test_status_and_reload(scene: Scene) -> None:
    """Operators see what is in force, and can have a change taken at once or told why not."""
    serving = await scene.open({"reload-interval": "3600"})
    async with asyncio.timeout(SECONDS):
        await serving.ready()
    await until(lambda: len(serving.parts.fleet.pools["v2"].available) == 1)
    await scene.recommend("qa")
    before = await scene.status()
    assert (before.serving, before.config.generation, before.config.errors) == (True, 1, [])
    assert {pool.version: pool.available for pool in before.pools} == {"v1": 1, "v2": 1}
    assert [group.calls for group in before.groups if group.group == "treatment"] == [1]
    write_experiments(scene.file, scene.v1, scene.v2, share=10)
    answer = await scene.reload()
    after = await scene.status()
    assert answer.active
    assert answer.config_revision == after.config.revision != before.config.revision
    scene.file.write_text("nonsense")
    answer = await scene.reload()
    assert not answer.active
    assert len(answer.errors) >= 1
    assert answer.config_revision == after.config.revision
    assert (await scene.status()).config.errors == list(answer.errors)


async def test_a_drain_lets_calls_end(scene: Scene) -> None:
    """A call that is under way when the drain begins is answered; health says NOT_SERVING meanwhile."""
    serving = await scene.open()
    async with asyncio.timeout(SECONDS):
        await serving.ready()
    scene.v1.hang.clear()
    call = asyncio.create_task(scene.recommend("", request_id="last"))
    async with asyncio.timeout(SECONDS):
        await scene.v1.came.wait()
    draining = asyncio.create_task(serving.drain())
    await until(lambda: not serving.parts.health.serving)
    scene.v1.hang.set()
    assert (await call).request_id == "last"
    async with asyncio.timeout(SECONDS):
        await draining
    await scene.close()
    assert [line["status"] for line in scene.lines() if line["event"] == "exposure"] == ["OK"]


async def test_a_caller_that_gives_up_is_logged(scene: Scene) -> None:
    """CANCELLED when it went, and the worker is told to stop."""
    serving = await scene.open({"attempt-timeout": "20", "default-deadline": "60"})
    async with asyncio.timeout(SECONDS):
        await serving.ready()
    scene.v1.hang.clear()
    call = asyncio.create_task(scene.recommend("", request_id="gone"))
    async with asyncio.timeout(SECONDS):
        await scene.v1.came.wait()
        call.cancel()
        await scene.v1.given_up.wait()
    await until(lambda: serving.parts.rpc_metrics.handled(0) == {"CANCELLED": 1})
    await scene.close()
    (line,) = [line for line in scene.lines() if line["event"] == "exposure"]
    assert (line["status"], line["served_version"], line["attempts"]) == ("CANCELLED", None, 1)


async def test_the_admin_port_outlives_a_path_that_is_no_text(scene: Scene) -> None:
    """Such a call would end the library's server; operators are answered afterwards."""
    serving = await scene.open()
    await send_hostile(serving.admin_address)
    assert (await scene.status()).serving in (True, False)


async def test_a_wrong_beginning(tmp_path: Path) -> None:
    """A wrong file or a taken port ends the start, and leaves nothing open."""
    scene = Scene(tmp_path, "grpcio")
    scene.file.write_text("nonsense")
    with pytest.raises(ConfigErrors):
        await Serving(parse(scene.arguments(), {})).__aenter__()
    serving = await scene.open()
    for flag in ("listen", "admin-listen"):
        with pytest.raises(AddressError, match="cannot listen"):
            await Serving(parse(scene.arguments({flag: serving.address}), {})).__aenter__()
    await scene.close()


async def test_every_key_of_the_status_is_documented(scene: Scene) -> None:
    """docs/operations.md names each key, those of groups, pools and replicas included, and no key that is not there."""
    await (await scene.open()).ready()
    await scene.recommend()
    page = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text()
    table = page.split("The keys of the document")[1].split("\n\n")[1]
    documented = set(re.findall(r"`([\w.\[\]]+)`", "\n".join(row.split("|")[1] for row in table.splitlines())))
    whole_rows = {key.removesuffix("[]") for key in documented if key.endswith("[]")}
    status = await scene.status()
    assert orjson.loads(status.json) == as_document(status), "older readers are told the same"
    assert (await scene.operator.Status(admin_pb2.StatusRequest(without_json=True), timeout=SECONDS)).json == ""
    keys = set(paths(as_document(status)))
    for key in keys - documented:
        row, _, name = key.rpartition(".")
        assert row.removesuffix("[]") in whole_rows, key
        (line,) = [line for line in table.splitlines() if line.startswith(f"| `{row}` |")]
        assert f"`{name}`" in line, key
    assert documented - keys - {"admin", "autopilot", "error"} <= {row + "[]" for row in whole_rows}


def paths(value: Any, before: str = "") -> Iterator[str]:
    """Every key that has no keys below it, as in `pools[].replicas[].address`; histograms count as one."""
    if isinstance(value, dict) and "bounds_s" not in value:
        for name, inner in value.items():
            yield from paths(inner, f"{before}.{name}" if before else name)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from paths(value[0], f"{before}[]")
    else:
        yield before
