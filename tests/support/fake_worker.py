"""A worker in raw HTTP/2 that ends batches as a test says: resets, statuses, goodbyes, few streams. For tests alone."""

import asyncio
from collections.abc import Callable
from typing import Literal, NamedTuple

import hpack
from abfleet_protos.worker_pb2 import RecommendBatchRequest
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame
from grpc_health.v1 import health_pb2

from tests.router.fakes import worker_answer
from tests.support.frames import Frame, FrameReader

HEADERS = b"\x88\x0f\x10" + http2.literal("application/grpc")
SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()


class Ending(NamedTuple):
    """How a batch ends that is not answered: `code` is HTTP/2's of a reset, or gRPC's of a status.

    `goodbye`: GOAWAY that leaves the batch out; `last`: GOAWAY after which it is answered. Both close the connection.
    """

    kind: Literal["reset", "status", "goodbye", "last"]
    code: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.kind} {self.code}" if self.kind in ("reset", "status") else self.kind


def trailers(status: int) -> bytes:
    """The header block that ends an answer."""
    return b"\x00" + http2.literal("grpc-status") + http2.literal(str(status))


def message(payload: bytes) -> bytes:
    """A message with its prefix."""
    return http2.MESSAGE_PREFIX.pack(0, len(payload)) + payload


class FakeWorker:
    """Serves v1 and its health on a port of its own. `due` is asked of each batch how it ends; None: with an answer."""

    def __init__(self, due: Callable[[], Ending | None] = lambda: None, most_streams: int | None = None) -> None:
        self.due = due
        self.port = 0
        self.batches = 0
        """That came whole."""
        self.ended = 0
        """That ended otherwise."""
        self.most_open = 0
        """Streams that were open at the same time, once the client had taken the settings."""
        self._settings = {} if most_streams is None else {http2.MAX_CONCURRENT_STREAMS: most_streams}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> "FakeWorker":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            await reader.readexactly(len(http2.PREFACE))
            writer.write(http2.settings_frame(self._settings))
            connection = Connection(self, writer)
            frames = FrameReader(2**24)
            while not connection.left and (data := await reader.read(2**16)):
                for got in frames.feed(data):
                    connection.take(got)
            if connection.left:  # read to its end, so that what was written is not lost
                writer.write_eof()
                while await reader.read(2**16):
                    pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # cancelled by the end of the worker alone
        finally:
            writer.close()


class Connection:
    """One client's."""

    def __init__(self, worker: FakeWorker, writer: asyncio.StreamWriter) -> None:
        self.left = False
        self._worker = worker
        self._write = writer.write
        self._decoder = hpack.Decoder()
        self._open: dict[int, tuple[str, bytearray]] = {}  # path and body
        self._acknowledged = False

    def take(self, got: Frame) -> None:
        """Reads one frame."""
        if got.kind == http2.SETTINGS:
            if got.flags & http2.ACK:
                self._acknowledged = True
            else:
                self._write(frame(http2.SETTINGS, http2.ACK, 0))
        elif got.kind == http2.PING and not got.flags & http2.ACK:
            self._write(frame(http2.PING, http2.ACK, 0, got.payload))
        elif got.kind == http2.RST_STREAM:
            self._open.pop(got.stream, None)
        elif got.kind == http2.HEADERS:
            fields = {
                str(name): str(value)
                for name, value in self._decoder.decode(http2.unpadded(got.kind, got.flags, got.payload))
            }
            self._open[got.stream] = (fields[":path"], bytearray())
            if self._acknowledged:
                self._worker.most_open = max(self._worker.most_open, len(self._open))
        elif got.kind == http2.DATA and got.stream in self._open and not self.left:
            path, body = self._open[got.stream]
            body += http2.unpadded(got.kind, got.flags, got.payload)
            if got.payload:
                self._write(http2.window_update(0, len(got.payload)))
            if got.flags & http2.END_STREAM:
                self._on_call(got.stream, path, bytes(body[5:]))

    def _on_call(self, stream: int, path: str, payload: bytes) -> None:
        if path.endswith("/Watch"):
            self._send(stream, SERVING)  # and stays open
        elif path.endswith("/Check"):
            self._answer(stream, SERVING)
        else:
            self._on_batch(stream, payload)

    def _on_batch(self, stream: int, payload: bytes) -> None:
        self._worker.batches += 1
        ending = self._worker.due()
        if ending is not None:
            self._worker.ended += 1
        if ending is None or ending.kind == "last":
            if ending is not None:
                self._write(http2.goaway(stream, http2.NO_ERROR))
            self._answer(stream, worker_answer("v1", RecommendBatchRequest.FromString(payload).requests))
        elif ending.kind == "reset":
            del self._open[stream]
            self._write(http2.reset(stream, ending.code))
        elif ending.kind == "status":
            del self._open[stream]
            self._write(frame(http2.HEADERS, 5, stream, HEADERS + trailers(ending.code)))
        else:
            self._write(http2.goaway(stream - 2, http2.NO_ERROR))
        self.left |= ending is not None and ending.kind in ("goodbye", "last")

    def _send(self, stream: int, payload: bytes) -> None:
        self._write(frame(http2.HEADERS, 4, stream, HEADERS) + frame(http2.DATA, 0, stream, message(payload)))

    def _answer(self, stream: int, payload: bytes) -> None:
        del self._open[stream]
        self._send(stream, payload)
        self._write(frame(http2.HEADERS, 5, stream, trailers(0)))
