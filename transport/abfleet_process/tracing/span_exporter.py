"""Sends spans to an OTLP receiver over HTTP, from a thread of its own. The messages are made in otlp.py.

Whoever hands a span over never waits and never fails: what cannot be kept or sent is dropped and counted.
"""

import http.client
import ssl
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from prometheus_client.core import CounterMetricFamily, Metric

from abfleet_process.backoff import backoff_seconds
from abfleet_process.tracing import otlp
from abfleet_process.tracing.spans import Resource, Span

log = structlog.get_logger("abfleet.transport.tracing")

PATH = "/v1/traces"
RETRYABLE = (429, 502, 503, 504)
"""https://opentelemetry.io/docs/specs/otlp/#failures-1"""
MAX_ANSWER_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ExporterSettings:
    """Intervals, bounds and timeouts of sending spans."""

    interval_seconds: float = 0.25
    max_waiting: int = 8192
    """Spans kept for a receiver that is slow or away: some 8 MB."""
    max_batch: int = 128
    """Spans in one request: encoding holds Python's lock, 128 of them for about a millisecond."""
    timeout_seconds: float = 5.0
    first_backoff_seconds: float = 1.0
    max_backoff_seconds: float = 30.0
    close_seconds: float = 1.0
    """How long the end of the process waits for the last spans."""


@dataclass(slots=True)
class SpanCounts:
    """`dropped` is changed by whoever exports, the others by the exporter's thread."""

    sent: int = 0
    dropped: int = 0
    failed: int = 0


class SpanExporter:
    """A bounded queue and the thread that empties it. `export` may be called from any thread."""

    def __init__(self, endpoint: str, resource: Resource, settings: ExporterSettings | None = None) -> None:
        """`endpoint`: `http://HOST:PORT` or https, with or without a path; `/v1/traces` is added if it is missing."""
        parts = urlsplit(endpoint)
        self._secure = parts.scheme == "https"
        self._host, self._port = parts.hostname or "", parts.port or (443 if self._secure else 4318)
        path = parts.path.rstrip("/")
        self._path = path if path.endswith(PATH) else path + PATH
        self._resource = resource
        self._settings = settings or ExporterSettings()
        self._waiting: deque[Span] = deque()
        self._closing = threading.Event()
        self._connection: http.client.HTTPConnection | None = None  # changed only by the thread
        self._failures = 0  # in a row; changed only by the thread
        self._thread = threading.Thread(target=self._work, name="export spans", daemon=True)
        self.counts = SpanCounts()

    def start(self) -> None:
        """Starts the thread; nothing is connected before there is a span."""
        self._thread.start()

    def export(self, span: Span) -> None:
        """Hands a span over; past the bound it is dropped."""
        if len(self._waiting) >= self._settings.max_waiting:
            self.counts.dropped += 1
        else:
            self._waiting.append(span)

    def close(self) -> None:
        """Sends what waits, for as long as the settings allow; what is left then is lost."""
        self._closing.set()
        self._thread.join(self._settings.close_seconds)

    def families(self) -> Iterable[Metric]:
        """The counts as a Prometheus family, read at each scrape."""
        spans = CounterMetricFamily("abfleet_spans", "Spans by result: sent, dropped or failed.", labels=["result"])
        for result in ("sent", "dropped", "failed"):
            spans.add_metric([result], getattr(self.counts, result))
        yield spans

    def _work(self) -> None:
        while not self._closing.wait(self._settings.interval_seconds + self._backoff_seconds()):
            self._send_all()
        self._send_all()
        self.counts.failed += len(self._waiting)  # there is no next time for what is left
        self._waiting.clear()
        self._disconnect()

    def _send_all(self) -> None:
        waiting = self._waiting
        while waiting:
            spans = [waiting.popleft() for _ in range(min(len(waiting), self._settings.max_batch))]
            try:
                status, answer = self._post(otlp.request(self._resource, spans))
            except (OSError, http.client.HTTPException) as error:
                self._disconnect()
                self._refused(spans, str(error) or type(error).__name__, again=True)
                return
            except Exception as error:  # whatever it is, it must not end the thread
                log.exception("spans could not be encoded", spans=len(spans))
                self._disconnect()
                self._refused(spans, str(error), again=False)
                return
            if status // 100 != 2:
                self._refused(spans, f"HTTP status {status}", again=status in RETRYABLE)
                return
            self._failures = 0
            refused = min(otlp.rejected(answer), len(spans))
            self.counts.failed += refused
            self.counts.sent += len(spans) - refused

    def _refused(self, spans: list[Span], why: str, *, again: bool) -> None:
        settings = self._settings
        self._failures += 1
        if again and not self._closing.is_set() and len(self._waiting) + len(spans) <= settings.max_waiting:
            self._waiting.extendleft(reversed(spans))
        else:
            self.counts.failed += len(spans)
        log.warning(
            "spans were not sent",
            endpoint=f"{self._host}:{self._port}",
            error=why,
            next_try_seconds=self._backoff_seconds(),
        )

    def _backoff_seconds(self) -> float:
        settings = self._settings
        return backoff_seconds(self._failures, first=settings.first_backoff_seconds, most=settings.max_backoff_seconds)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request("POST", self._path, body, {"Content-Type": otlp.CONTENT_TYPE})
        answer = self._connection.getresponse()
        content = answer.read(MAX_ANSWER_BYTES)
        if not answer.isclosed():  # an answer this long is not from an OTLP receiver
            self._disconnect()
        return answer.status, content

    def _connect(self) -> http.client.HTTPConnection:
        timeout_seconds = self._settings.timeout_seconds
        if self._secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout_seconds, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout_seconds)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
