"""Counts RPCs by method and status in plain arrays, which become Prometheus families at each scrape.

A `prometheus_client` counter with labels costs microseconds a call; an array element costs a tenth of one. Each row is
changed by one thread alone: hot methods by whoever answers calls, `other` by the event loop.
"""

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic
from typing import Any

import grpc
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from abfleet_transport.call import Code
from abfleet_transport.histogram import BOUNDS_SECONDS, Histogram
from abfleet_transport.plan import ServerInterceptor

CODES = tuple(code.name for code in Code)
OTHER = "other"


class _Row:
    __slots__ = ("by_code", "duration", "started")

    def __init__(self) -> None:
        self.started = 0
        self.by_code = [0] * len(CODES)
        self.duration = Histogram()


class RpcMetrics(Collector):
    """RPCs by method and status, how long they took and how many are running.

    Two families of names for the same numbers: `grpc_requests_total`, `grpc_request_duration_seconds` and
    `grpc_requests_in_progress`, and those of py-grpc-prometheus (`grpc_server_handled_total` and so on).
    """

    def __init__(self, methods: Sequence[str]) -> None:
        """`methods`: full paths; everything else is counted as `other`."""
        self._methods = [*(path.lstrip("/") for path in methods), OTHER]
        self._rows = [_Row() for _ in self._methods]

    def started(self, method: int, count: int = 1) -> None:
        """`count` calls of a method have arrived; -1 is `other`."""
        self._rows[method].started += count

    def finished(self, method: int, code: int, seconds: float) -> None:
        """One call of a method has been answered, cancelled or has run out of time."""
        row = self._rows[method]
        row.by_code[code] += 1
        duration = row.duration
        duration.counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        duration.total += seconds

    def finished_all(self, method: int, code: int, seconds: Sequence[float]) -> None:
        """Several calls of a method have ended with the same status."""
        row = self._rows[method]
        row.by_code[code] += len(seconds)
        row.duration.observe_all(seconds)

    def handled(self, method: int) -> dict[str, int]:
        """Finished calls of a method by the name of their status."""
        return {CODES[code]: count for code, count in enumerate(self._rows[method].by_code) if count}

    def collect(self) -> Iterable[Metric]:
        """The families, made new at each scrape."""
        requests = CounterMetricFamily(
            "grpc_requests", "RPCs that have finished, by method and status.", labels=["method", "status"]
        )
        duration = HistogramMetricFamily(
            "grpc_request_duration_seconds", "Seconds to answer an RPC, by method.", labels=["method"]
        )
        running = GaugeMetricFamily(
            "grpc_requests_in_progress", "RPCs that are not answered yet, by method.", labels=["method"]
        )
        kind = ["grpc_type", "grpc_service", "grpc_method"]
        started = CounterMetricFamily("grpc_server_started", "RPCs started on the server, by method.", labels=kind)
        handled = CounterMetricFamily(
            "grpc_server_handled", "RPCs finished on the server, by method and status.", labels=[*kind, "grpc_code"]
        )
        handling = HistogramMetricFamily(
            "grpc_server_handling_seconds", "Seconds to answer an RPC, by method.", labels=kind
        )
        for method, row in zip(self._methods, self._rows, strict=True):
            service, _, name = method.rpartition("/")
            labels = ["UNARY" if method != OTHER else OTHER, service or OTHER, name]
            buckets, total = row.duration.cumulative(), row.duration.total
            for code, count in enumerate(row.by_code):
                if count:
                    requests.add_metric([method, CODES[code]], count)
                    handled.add_metric([*labels, CODES[code]], count)
            duration.add_metric([method], buckets, total)
            handling.add_metric(labels, buckets, total)
            running.add_metric([method], row.started - sum(row.by_code))
            started.add_metric(labels, row.started)
        return (requests, duration, running, started, handled, handling)


class OtherMethods(ServerInterceptor):
    """Counts as `other` every RPC that grpc.aio itself serves: health, reflection, unknown methods."""

    def __init__(self, metrics: RpcMetrics, hot: Iterable[str]) -> None:
        self._metrics = metrics
        self._hot = frozenset(hot)

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any]":
        handler = await continuation(handler_call_details)
        if handler_call_details.method in self._hot:
            return handler
        if handler is None:
            self._metrics.started(-1)
            self._metrics.finished(-1, Code.UNIMPLEMENTED, 0.0)
            return handler
        if handler.unary_unary is None:  # a stream lasts as long as its watcher: its time says nothing
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._timed(handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _timed(self, behaviour: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def timed(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            self._metrics.started(-1)
            begun, code = monotonic(), Code.UNKNOWN
            try:
                answer = await behaviour(request, context)
                code = Code.OK
                return answer
            except grpc.aio.AbortError:
                status = context.code()
                code = Code(status.value[0]) if isinstance(status, grpc.StatusCode) else Code.UNKNOWN
                raise
            finally:
                self._metrics.finished(-1, code, monotonic() - begun)

        return timed
