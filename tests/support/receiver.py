"""A receiver of notifications for tests: an HTTP server that refuses as often as it is told, and keeps what it took."""

import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


class Receiver:
    """Listens on a port of its own inside a `with`."""

    def __init__(self, answers: Sequence[int] = ()) -> None:
        """`answers`: statuses of the first requests, after which all get 204."""
        self.taken: list[bytes] = []
        """Bodies that were answered with 204."""
        self.headers: list[dict[str, str]] = []
        self.asked: list[bytes] = []
        """All bodies."""
        self._answers = list(answers)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._serve(self)

            def log_message(self, format: str, *arguments: object) -> None:
                """Tests have no use for it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        status = self._answers.pop(0) if self._answers else 204
        self.asked.append(body)
        if status == 204:
            self.taken.append(body)
            self.headers.append(dict(request.headers))
        request.send_response(status)
        if status == 429:
            request.send_header("Retry-After", "7")
        if status == 302:
            request.send_header("Location", self.url)
        request.send_header("Content-Length", "0")
        request.end_headers()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/verdicts"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
