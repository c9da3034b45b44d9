"""A server that goes while calls come, seen by gRPC's own client that has another address: no call fails."""

import asyncio
import socket
from contextlib import suppress

import grpc
from abfleet_transport.call import Call
from abfleet_transport.http2.server import Http2Server
from abfleet_transport.plan import ServerPlan

from tests.transport.serving import METHODS, PATIENCE_SECONDS

CALLS_AT_ONCE = 8
ROUND = [("grpc.lb_policy_name", "round_robin"), ("grpc.use_local_subchannel_pool", 1)]


async def begin(answered: list[bytes], name: bytes) -> Http2Server:
    """A server that answers with its name, in a later turn of the loop, as one does that asks a worker."""
    loop = asyncio.get_running_loop()

    def deliver(calls: list[Call]) -> None:
        answered.extend([name] * len(calls))
        for call in calls:
            loop.call_later(0.002, call.reply, name)

    plan = ServerPlan(address="127.0.0.1:0", methods=METHODS, add_services=lambda server: None)
    server = Http2Server(plan, deliver, lambda call: None)
    await server.start()
    return server


async def test_no_call_fails_while_a_server_goes() -> None:
    """One of two goes, under calls without a pause and without a retry policy: each is answered, none is taken
    twice, and the server that goes has ended by itself, long before its time is over.

    What gRPC's client had not sent when the server said that it goes, it sends to the other one by itself (gRFC A6,
    transparent retries); with `grpc.enable_retries` at 0 it fails such a call, whatever the server does.
    """
    answered: list[bytes] = []
    servers = [await begin(answered, b"a"), await begin(answered, b"b")]
    addresses = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    going = True
    done = 0

    async with grpc.aio.insecure_channel(f"ipv4:{addresses}", ROUND) as channel:
        say = channel.unary_unary(METHODS[0])

        async def call() -> None:
            nonlocal done
            while going:
                assert await say(b"x", timeout=PATIENCE_SECONDS) in (b"a", b"b")
                done += 1

        callers = [asyncio.create_task(call()) for _ in range(CALLS_AT_ONCE)]
        while answered.count(b"a") < 50 or answered.count(b"b") < 50:
            await asyncio.sleep(0.01)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await servers[0].close(24 * 3600)
        before = done
        while done < before + 100:
            await asyncio.sleep(0.01)
        going = False
        await asyncio.gather(*callers)
    await servers[1].close()
    assert len(answered) == done


async def test_a_client_that_has_gone_silent_holds_a_drain_for_the_grace_at_most() -> None:
    """A process that was stopped, say: it answers no PING and closes nothing."""
    server = await begin([], b"a")
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await server.close(0.2)
        silent.settimeout(PATIENCE_SECONDS)
        with suppress(ConnectionResetError):
            while silent.recv(65_536):
                pass
