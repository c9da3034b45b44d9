"""Health: one state for the whole server and each of its names, watched live, on both transports."""

import grpc
import pytest
from abfleet_transport.server import Transport, choose
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.transport.serving import PATIENCE_SECONDS, TRANSPORTS, serving

States = health_pb2.HealthCheckResponse


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("name", ["", "name"])
async def test_a_watch_follows_the_state(transport: Transport, name: str) -> None:
    """A watcher of the server or of a name sees NOT_SERVING, SERVING, NOT_SERVING as they are set."""
    async with serving(transport) as served:
        await served.health.set_serving(False)
        stub = health_pb2_grpc.HealthStub(served.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_SECONDS)
        assert (await watch.read()).status == States.NOT_SERVING
        await served.health.set_serving(True)
        assert (await watch.read()).status == States.SERVING
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_SECONDS)
        assert answer.status == States.SERVING
        await served.health.set_serving(False)
        assert (await watch.read()).status == States.NOT_SERVING


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_names_can_be_replaced(transport: Transport) -> None:
    """A new name serves, a removed one is SERVICE_UNKNOWN to those who watch it, the server itself stays."""
    async with serving(transport) as served:
        await served.health.set_serving(True)
        stub = health_pb2_grpc.HealthStub(served.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="name"), timeout=PATIENCE_SECONDS)
        assert (await watch.read()).status == States.SERVING
        await served.health.set_names(("other",))
        assert (await watch.read()).status == States.SERVICE_UNKNOWN
        for name in ("", "other"):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE_SECONDS)
            assert answer.status == States.SERVING


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_unknown_name_is_not_found(transport: Transport) -> None:
    """Check of a name that the server does not have is NOT_FOUND, as the protocol asks."""
    async with serving(transport) as served:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await health_pb2_grpc.HealthStub(served.channel).Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_auto_is_native() -> None:
    """Where nothing is asked that it lacks; each can be had by its name."""
    assert choose("auto") == choose("native") == "native"
    assert choose("grpcio") == "grpcio"
