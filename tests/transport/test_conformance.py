"""Both transports are the same port: every claim of Call and Server holds on each of them, and over TLS."""

import asyncio
import os
import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from abfleet_client import ClientCredentials
from abfleet_process.errors import AddressError
from abfleet_transport.call import Call, Code
from abfleet_transport.client.channel import open_channel
from abfleet_transport.server import ServerPlan, make_server
from grpc_reflection.v1alpha import reflection_pb2

from tests.transport.serving import (
    CARRIED,
    METHODS,
    PATIENCE_SECONDS,
    SECURED,
    Serving,
    adapter,
    certificates,
    echo,
    hold,
    serving,
    shown,
    until,
)

pytestmark = pytest.mark.parametrize("transport", CARRIED)


async def test_a_call_gets_its_answer(transport: str) -> None:
    """The payload arrives as it was sent, under its method's index; the reply's bytes are the answer."""

    def answer(calls: list[Call]) -> None:
        for call in calls:
            call.reply(b"%d:" % call.method + call.payload)

    async with serving(transport, answer) as served:
        assert served.server.transport == adapter(transport)
        assert await served.say(b"\x00\xffbytes") == b"0:\x00\xffbytes"
        assert await served.say(b"", method=METHODS[1]) == b"1:"


async def test_an_empty_reply_is_an_answer(transport: str) -> None:
    """No bytes at all is a valid message."""
    async with serving(transport, lambda calls: [call.reply(b"") for call in calls] and None) as served:
        assert await served.say(b"x") == b""


async def test_many_calls_at_once_each_get_their_own_answer(transport: str) -> None:
    """500 calls in flight, answered in the opposite order: nobody gets another one's answer."""
    held: list[Call] = []

    def answer_late(calls: list[Call]) -> None:
        held.extend(calls)
        if len(held) == 500:
            echo(held[::-1])

    async with serving(transport, answer_late) as served:
        answers = await asyncio.gather(*(served.say(b"%d" % number) for number in range(500)))
    assert answers == [b"%d" % number for number in range(500)]


async def test_another_thread_may_answer(transport: str) -> None:
    """`reply` and `fail` work from a thread that the server knows nothing of."""

    def from_elsewhere(calls: list[Call]) -> None:
        def work() -> None:
            for call in calls:
                if call.payload == b"bad":
                    call.fail(Code.ABORTED, "no")
                else:
                    call.reply(call.payload)

        threading.Thread(target=work).start()

    async with serving(transport, from_elsewhere) as served:
        assert await served.say(b"good") == b"good"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.say(b"bad")
        assert raised.value.code() == grpc.StatusCode.ABORTED


@pytest.mark.parametrize("code", [code for code in Code if code != Code.OK])
async def test_a_failure_has_its_code_and_message(transport: str, code: Code) -> None:
    """Every status code arrives, with a message that may hold percent signs and any script."""
    message = "user_id: 'имя 100%' – не\nразрешено"
    async with serving(transport, lambda calls: [call.fail(code, message) for call in calls] and None) as served:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.say(b"")
        assert raised.value.code().value[0] == code
        assert raised.value.details() == message
        assert "grpc-retry-pushback-ms" not in dict(raised.value.trailing_metadata() or ())


async def test_a_failure_may_carry_a_pushback(transport: str) -> None:
    """`pushback_ms` is a trailer that gRPC clients obey before they retry, and one that they show."""

    def refuse(calls: list[Call]) -> None:
        for call in calls:
            call.fail(Code.RESOURCE_EXHAUSTED, "full", pushback_ms=250)

    async with serving(transport, refuse) as served:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.say(b"")
        trailers = dict(raised.value.trailing_metadata() or ())
        assert trailers["retry-pushback-ms"] == trailers["grpc-retry-pushback-ms"] == "250"


async def test_a_delivery_that_raises_fails_its_calls_alone(transport: str) -> None:
    """A mistake behind the port is INTERNAL for the calls it had, without its words, and the server goes on."""

    def clumsy(calls: list[Call]) -> None:
        if any(call.payload == b"bad" for call in calls):
            raise RuntimeError("a secret")
        echo(calls)

    async with serving(transport, clumsy) as served:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.say(b"bad")
        assert raised.value.code() == grpc.StatusCode.INTERNAL
        assert "secret" not in (raised.value.details() or "")
        assert await served.say(b"good") == b"good"


async def test_a_second_answer_does_nothing(transport: str) -> None:
    """The first answer counts, whatever follows."""

    def twice(calls: list[Call]) -> None:
        for call in calls:
            call.reply(b"first")
            call.reply(b"second")
            call.fail(Code.INTERNAL, "third")

    async with serving(transport, twice) as served:
        assert await served.say(b"") == b"first"
        assert await served.say(b"") == b"first"


async def test_metadata_arrives(transport: str) -> None:
    """Text and `-bin` values arrive as str and bytes, repeated keys in order, keys in lower case."""
    sent = [("x-user-id", "u-1"), ("x-user-id-bin", b"\x00\xff\xc3\xa4"), ("x-many", "1"), ("x-many", "2")]
    async with serving(transport) as served:
        await served.say(b"", metadata=sent)
        (call,) = served.delivered.calls
        found = [(key, value) for key, value in call.metadata if key.startswith("x-")]
        assert sorted(found, key=lambda item: item[0]) == sorted(sent, key=lambda item: item[0])
        assert call.peer


async def test_the_deadline_is_seen(transport: str) -> None:
    """A call's deadline is its timeout after its arrival, on the monotonic clock; without one it is None."""
    before = time.monotonic()
    async with serving(transport) as served:
        await served.say(b"", timeout=50)
        await served.say(b"", timeout=None)
        after = time.monotonic()
        limited, unlimited = served.delivered.calls
        assert before <= limited.arrived <= unlimited.arrived <= after
        assert limited.deadline is not None
        assert limited.arrived < limited.deadline <= after + 51  # gRPC rounds timeouts up a little on the wire
        assert unlimited.deadline is None


async def test_a_caller_that_goes_is_told_once(transport: str) -> None:
    """When the client cancels, the same call comes back through `cancelled`, once, with its owner; a late answer
    does nothing, and other calls are not touched."""
    async with serving(transport, hold) as served:
        leaving, staying = served.say(b"leave", timeout=None), served.say(b"stay")
        await until(lambda: len(served.delivered.calls) == 2)
        assert served.server.in_progress == 2
        call, other = sorted(served.delivered.calls, key=lambda call: call.payload)
        assert call.owner is None
        call.owner = self_made = object()
        leaving.cancel()
        await until(lambda: bool(served.delivered.gone))
        call.reply(b"too late")
        call.fail(Code.INTERNAL, "too late")
        other.reply(b"here")
        assert await staying == b"here"
        assert served.delivered.gone == [call]
        assert served.delivered.gone[0].owner is self_made
        await until(lambda: served.server.in_progress == 0)


async def test_a_call_that_runs_out_of_time_is_told_once(transport: str) -> None:
    """The client's deadline passes: it sees DEADLINE_EXCEEDED, and the call comes back through `cancelled`."""
    async with serving(transport, hold) as served:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.say(b"", timeout=0.3)
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: served.delivered.gone == served.delivered.calls)
        assert len(served.delivered.gone) <= 1


async def test_an_answered_call_is_never_told_as_gone(transport: str) -> None:
    """Cancelling after the answer, or leaving altogether, tells nothing of calls that were answered."""
    async with serving(transport) as served:
        calls = [served.say(b"%d" % number) for number in range(20)]
        await asyncio.gather(*calls)
        for call in calls:
            call.cancel()
        await served.channel.close()
        assert len(served.delivered.calls) == 20
        assert not served.delivered.gone


async def test_a_message_past_the_limit_is_refused(transport: str) -> None:
    """One byte over the limit is RESOURCE_EXHAUSTED and never delivered; the limit itself is fine."""
    async with serving(transport, max_message_bytes=1000) as served:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.say(b"x" * 1001)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1001" in (raised.value.details() or "")
        assert "1000" in (raised.value.details() or "")
        assert await served.say(b"x" * 1000) == b"x" * 1000
        assert len(served.delivered.calls) == 1
        assert served.server.in_progress == 0


@pytest.mark.parametrize("method", ["/test.Echo/Whisper", "/test.Nobody/Say"])
async def test_an_unknown_method_is_unimplemented(transport: str, method: str) -> None:
    """Neither another method of a known service nor another service is delivered."""
    async with serving(transport) as served:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.say(b"", method=method)
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert not served.delivered.calls


async def test_a_taken_port_is_an_address_error(transport: str) -> None:
    """The port of a server that runs cannot be had, and the error names it."""
    async with serving(transport) as first:
        with pytest.raises(AddressError, match=str(first.server.port)):
            async with serving(transport, address=f"127.0.0.1:{first.server.port}"):
                pass
        assert await first.say(b"x") == b"x"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(AddressError):
        async with serving(transport, address=f"127.0.0.1:{taken.getsockname()[1]}"):
            pass


@pytest.mark.parametrize("address", ["192.0.2.1:0", "127.0.0.1:99999", "no such host:1"])
async def test_an_impossible_address_is_an_address_error(transport: str, address: str) -> None:
    """An address of another machine or no address at all is an AddressError that names it."""
    plan = ServerPlan(address=address, methods=METHODS, add_services=lambda server: None)
    server = make_server(adapter(transport), plan, echo, lambda call: None)
    with pytest.raises(AddressError) as raised:
        await server.start()
    assert address in str(raised.value)
    await server.close()


async def test_a_unix_socket_is_served(transport: str, tmp_path: Path) -> None:
    """`unix:PATH` carries calls, has no port, and leaves no file."""
    path = tmp_path / "s"
    async with serving(transport, address=f"unix:{path}") as served:
        assert served.server.port == 0
        assert await served.say(b"x") == b"x"
    assert not path.exists()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_is_served_beside_the_calls(transport: str, version: str) -> None:
    """The services that are not delivered as calls are found on the same address, by either name of reflection."""
    async with serving(transport) as served:
        reflect = served.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )
        call = reflect(timeout=PATIENCE_SECONDS)
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        await call.done_writing()
        answer = await call.read()
        names = {service.name for service in answer.list_services_response.service}
        assert names == {"Recommender", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
        assert await call.code() is grpc.StatusCode.OK


async def test_a_refusal_is_not_lost_under_many_streams(transport: str) -> None:
    """An unknown method says UNIMPLEMENTED however its messages and the refusal cross: never INTERNAL."""
    if transport == SECURED:
        pytest.skip("the client here speaks plain text")

    def codes(port: int) -> set[grpc.StatusCode]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, ThreadPoolExecutor(8) as pool:
            ask = channel.stream_stream("/other.Service/Method")

            def code(_: int) -> grpc.StatusCode:
                call = ask(iter([b"x", b"y"]), timeout=PATIENCE_SECONDS)
                return call.code()

            return set(pool.map(code, range(400)))

    async with serving(transport) as served:
        assert await asyncio.to_thread(codes, served.server.port) == {grpc.StatusCode.UNIMPLEMENTED}


async def test_closing_leaves_nothing(transport: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `close` there is no thread, no file and no listener of the server; closing twice is harmless."""
    if transport == SECURED:
        certificates()  # made before the folder is looked at
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with serving(transport) as served:
        await served.say(b"x")
        port = served.server.port
    await served.server.close()
    assert os.listdir(tmp_path) == []
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


async def test_closing_with_grace_waits_for_running_calls(transport: str) -> None:
    """`close` with grace returns when the last call has been answered, and that answer arrives."""
    async with serving(transport, hold) as served:
        pending = served.say(b"x")
        await until(lambda: bool(served.delivered.calls))
        closing = asyncio.create_task(served.server.close(PATIENCE_SECONDS))
        await asyncio.sleep(0)
        assert not closing.done()
        echo(served.delivered.calls)
        assert await pending == b"x"
        await closing


async def test_closing_without_grace_cuts(transport: str) -> None:
    """`close` alone ends calls that nobody answered; their callers get an error."""
    async with serving(transport, hold) as served:
        pending = served.say(b"x")
        await until(lambda: bool(served.delivered.calls))
        await served.server.close()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await pending
        assert raised.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_a_watcher_of_health_does_not_hold_up_a_drain(transport: str) -> None:
    """A stream that lasts as long as its watcher does not make `close` wait for the whole grace."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with serving(transport) as served:
        await served.health.set_serving(True)
        watch = health_pb2_grpc.HealthStub(served.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        async with asyncio.timeout(PATIENCE_SECONDS):
            await served.server.close(24 * 3600)


# --- limits ----------------------------------------------------------------------------------------------------------


async def test_a_message_past_the_limit_is_refused_and_counted(transport: str) -> None:
    """The same words everywhere; a message of the size allowed passes, and nobody is handed the larger one."""
    async with serving(transport, max_message_bytes=2048) as served:
        assert await served.say(b"x" * 2048) == b"x" * 2048
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.say(b"x" * 2049)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert raised.value.details() == "message: 2049 bytes; at most 2048 bytes are allowed"
        assert len(served.delivered.calls) == 1
        assert served.server.oversized == 1
        assert served.server.in_progress == 0


async def test_metadata_past_the_limit_is_refused(transport: str) -> None:
    """And the connection goes on."""
    async with serving(transport, max_metadata_bytes=4096) as served:
        assert await served.say(b"x", metadata=[("x-note", "a" * 2000)]) == b"x"
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await served.say(b"x", metadata=[("x-note", "a" * 5000)])
        assert raised.value.code() in {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN}
        assert len(served.delivered.calls) == 1
        assert await served.say(b"y") == b"y"


async def test_calls_past_the_limit_of_a_connection_wait(transport: str) -> None:
    """A client is told how many streams it may open, and opens the next when one has ended."""
    async with serving(transport, hold, max_concurrent_streams=2) as served:
        pending = [served.say(b"%d" % number) for number in range(3)]
        await until(lambda: len(served.delivered.calls) == 2)
        served.delivered.calls[0].reply(b"")
        await until(lambda: len(served.delivered.calls) == 3)
        for call in served.delivered.calls[1:]:
            call.reply(b"")
        await asyncio.gather(*pending)


async def test_connections_past_the_limit_are_refused(transport: str) -> None:
    """Those that are there are not touched, and one that ends makes room."""
    async with serving(transport, max_connections=2) as served:
        assert await served.say(b"x") == b"x"
        async with another(served, transport) as second:
            assert await second.unary_unary(METHODS[0])(b"x", timeout=PATIENCE_SECONDS) == b"x"
            async with another(served, transport) as third:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await third.unary_unary(METHODS[0])(b"x", timeout=PATIENCE_SECONDS)
                assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await served.say(b"x") == b"x"
        async with another(served, transport) as fourth:
            answer = await fourth.unary_unary(METHODS[0])(b"x", timeout=PATIENCE_SECONDS, wait_for_ready=True)
            assert answer == b"x"


def another(served: Serving, transport: str) -> grpc.aio.Channel:
    """A channel with a connection of its own."""
    access = shown(certificates()) if transport == SECURED else ClientCredentials()
    return open_channel(served.address, access, [("grpc.use_local_subchannel_pool", 1)])


async def test_only_a_certificate_says_who_calls(transport: str) -> None:
    """With certificates on both sides each call has its client's name; without, it has none."""
    async with serving(transport) as served:
        await served.say(b"x")
    assert served.delivered.calls[0].client == ("client.example" if transport == SECURED else None)
