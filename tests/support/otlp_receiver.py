"""A small OTLP/HTTP receiver for tests: keeps the spans that come, and can be slow, refuse, or be told to hang."""

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.fleet import wait_until


@dataclass(frozen=True)
class Received:
    """A span as it came, with whose it is."""

    resource: dict[str, Any]
    span: Span

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def trace_id(self) -> str:
        return self.span.trace_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return values(self.span.attributes)


def values(pairs: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class OtlpReceiver:
    """A context manager; `spans` is what has come, oldest first. `hang` holds every answer until it is cleared."""

    def __init__(self, statuses: tuple[int, ...] = (), *, hang: bool = False, rejects: int = 0) -> None:
        """`statuses`: of the answers to the first requests; `rejects`: spans that each answer says were refused."""
        self._statuses = list(statuses)
        self._rejects = rejects
        self.spans: list[Received] = []
        self.paths: list[str] = []
        self.came = 0
        """Requests, whether they were answered or are held."""
        self.let_go = threading.Event()
        if not hang:
            self.let_go.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.came += 1
                receiver.let_go.wait(60)
                status = receiver.take(self.path, self.headers["Content-Type"], body)
                answer = ExportTraceServiceResponse()
                answer.partial_success.rejected_spans = receiver._rejects
                content = answer.SerializeToString()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, content_type: str, body: bytes) -> int:
        """Keeps what has come; gives the status of the answer."""
        self.paths.append(path)
        assert content_type == "application/x-protobuf"
        status = self._statuses.pop(0) if self._statuses else 200
        if status == 200:
            for whose in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = values(whose.resource.attributes)
                self.spans += [Received(resource, span) for scope in whose.scope_spans for span in scope.spans]
        return status

    def wait_for(self, count: int) -> list[Received]:
        """The spans, once there are at least `count`."""
        wait_until(lambda: len(self.spans) >= count, f"{count} spans")
        return self.spans

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._server.server_close()
