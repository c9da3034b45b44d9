"""Targets that are processes: a router on either transport before hostile callers, and before hostile workers.

Beside them an honest caller goes on, whose every call must be answered.
"""

import asyncio
import contextlib
import random
import socket
import struct
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import grpc
import psutil
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_protos.recommender_pb2_grpc import RecommenderStub
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame

from tests.fuzz import frames, wire
from tests.fuzz.target import Target, Trial
from tests.support.fleet import Fleet, experiments_file
from tests.support.frames import FrameReader

VERSION = "v1.2.3"
PAUSE_SECONDS = 0.01
"""Between the honest caller's calls."""
WARM_TRIALS = 300
GROWTH_MB = 64.0
HOSTILE_WORKERS = 1
AT_ONCE = 20
"""Connections of one trial."""


class Honest:
    """Calls one after the other; `failed` has what went wrong."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.calls = 0
        self.failed: list[str] = []

    async def run(self) -> None:
        """Until it is cancelled."""
        async with grpc.aio.insecure_channel(self._address) as channel:
            stub = RecommenderStub(channel)  # type: ignore[no-untyped-call]
            while True:
                try:
                    answer = await stub.Recommend(RecommendRequest(item_ids=[1, 2, 3, 10, 15]), timeout=10)
                except grpc.aio.AioRpcError as error:
                    self.failed.append(f"{error.code().name}: {error.details()}")
                else:
                    self.calls += 1
                    assert answer.model_version == VERSION
                await asyncio.sleep(PAUSE_SECONDS)


@asynccontextmanager
async def besieged(fleet: Fleet) -> AsyncIterator[Callable[[], None]]:
    """An honest caller beside what happens inside; at the end all of its calls were answered and memory has not grown.

    What it gives is to be called after each trial.
    """
    assert fleet.router is not None
    process = psutil.Process(fleet.router.popen.pid)
    honest = Honest(fleet.address)
    calling = asyncio.ensure_future(honest.run())
    trials, warm_mb = 0, 0.0

    def tried() -> None:
        nonlocal trials, warm_mb
        trials += 1
        if trials == WARM_TRIALS:
            warm_mb = process.memory_info().rss / 1e6
        assert process.is_running(), "the router has gone"
        assert not honest.failed, honest.failed[:3]

    yield tried
    before = honest.calls
    async with asyncio.timeout(30):
        while honest.calls < before + 3:  # it still answers when all is over
            await asyncio.sleep(PAUSE_SECONDS)
    calling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await calling
    assert not honest.failed, honest.failed[:3]
    grown = process.memory_info().rss / 1e6 - warm_mb if warm_mb else 0.0
    print(
        f'{{"router_mb": {process.memory_info().rss / 1e6:.0f}, "honest_calls": {honest.calls}}}',
        flush=True,
    )
    assert grown < GROWTH_MB, f"the router has grown by {grown:.0f} MB"


def callers(transport: str) -> Callable[[], AbstractAsyncContextManager[Trial]]:
    """Connections with mutated beginnings, calls and frames, many at once."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Trial]:
        with tempfile.TemporaryDirectory(prefix="abfleet-fuzz-") as name:
            fleet = Fleet(
                Path(name),
                experiments=experiments_file(),
                versions=(VERSION,),
                transport=transport,
                router_flags=("--log-level", "error"),
            )
            with fleet:
                async with besieged(fleet) as tried:
                    host, _, port = fleet.address.rpartition(":")

                    async def one(data: bytes) -> int:
                        reader, writer = await asyncio.open_connection(host, int(port))
                        # Closed with a reset, or the ports of this machine would soon all be waiting.
                        sock = writer.get_extra_info("socket")
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        try:
                            writer.write(data)
                            await writer.drain()
                            async with asyncio.timeout(0.05):
                                return int(bool(await reader.read(65_536)))
                        except (TimeoutError, ConnectionError):
                            return 0
                        finally:
                            writer.close()

                    async def trial(source: random.Random) -> int:
                        hostile = [frames.client_bytes(source, wire.REQUESTS) for _ in range(AT_ONCE)]
                        answered = await asyncio.gather(*map(one, hostile))
                        tried()
                        return sum(answered)

                    yield trial

    return opened


class HostileWorker(asyncio.Protocol):
    """Says that it serves, and answers whatever comes with mutated frames."""

    source = random.Random(1)
    sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._reader = FrameReader(2**24)
        self._begun = False
        transport.write(frame(http2.SETTINGS, 0, 0))  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self._begun:
            data, self._begun = data.removeprefix(frames.PREFACE), True
        for got in self._reader.feed(data):
            if got.kind != http2.DATA or not got.flags & http2.END_STREAM:
                continue
            head = frame(http2.HEADERS, http2.END_HEADERS, got.stream, frames.HEADS[0])
            if got.stream == 1:  # the health watch, which comes first
                said = head + frame(http2.DATA, 0, 1, http2.MESSAGE_PREFIX.pack(0, 2) + b"\x08\x01")
            else:
                HostileWorker.sent += 1
                said = frames.server_bytes(self.source, (got.stream, 1), (*wire.ANSWERS, *wire.HEALTH))
            self._transport.write(said)  # type: ignore[attr-defined]


@asynccontextmanager
async def workers() -> AsyncIterator[Trial]:
    """One of three workers is hostile: no caller notices. (With two of them a call and its retry may both meet one.)"""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(HostileWorker, "127.0.0.1", 0) for _ in range(HOSTILE_WORKERS)]
    addresses = [f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers]
    with tempfile.TemporaryDirectory(prefix="abfleet-fuzz-") as name:
        fleet = Fleet(
            Path(name),
            experiments=experiments_file(),
            versions=(VERSION,),
            replicas=2,
            router_flags=("--log-level", "error", "--eject-seconds", "0.05", "--slow-start", "0"),
        )
        with fleet:
            async with besieged(fleet) as tried:
                fleet.write_fleet({VERSION: [*fleet.worker_addresses.values(), *addresses]})

                async def trial(source: random.Random) -> int:
                    HostileWorker.source = source
                    before = HostileWorker.sent
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(5):
                            while HostileWorker.sent < before + AT_ONCE:
                                await asyncio.sleep(0.005)
                    tried()
                    return 0

                yield trial
    for server in servers:
        server.close()


TARGETS = (
    Target(name="callers, native", inputs=15_000, each=AT_ONCE, open=callers("native")),
    Target(name="callers, grpcio", inputs=15_000, each=AT_ONCE, open=callers("grpcio")),
    Target(name="hostile workers", inputs=200, each=AT_ONCE, open=workers),
)
