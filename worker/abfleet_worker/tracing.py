"""Spans of requests in a worker: of the batch that brought them, and of the run of the model.

A worker records what its caller records, and decides nothing itself. A run serves requests of many traces: each has a
span of its own for it, with links to the others'.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from abfleet_process.tracing.spans import MAX_LINKS, Attribute, Export, Span, SpanKind, span_id
from abfleet_process.tracing.traceparent import HEADER, TraceContext, parse
from abfleet_transport.call import Call, Code


@dataclass(frozen=True, slots=True)
class ModelRun:
    """One run of the model, for so many requests; times on the service's clock."""

    begun: float
    ended: float
    size: int
    traced: Sequence[TraceContext]
    """Where the traced requests among them belong."""


@dataclass(slots=True)
class Traced:
    """What is known of the traced items of one gathering, by their index; changed only by the service."""

    parents: dict[int, TraceContext] = field(default_factory=dict)
    runs: dict[int, ModelRun] = field(default_factory=dict)

    def ran(self, indexes: Sequence[int], begun: float, ended: float) -> None:
        """The model ran for these items together."""
        traced = [index for index in indexes if index in self.parents]
        run = ModelRun(begun, ended, len(indexes), [self.parents[index] for index in traced])
        for index in traced:
            self.runs[index] = run


class InferenceTracer:
    """Makes and exports the spans of traced requests."""

    def __init__(self, export: Export, bits: Callable[[int], int], wall: Callable[[], float]) -> None:
        """`bits(n)` gives n random bits; `wall` seconds since the epoch."""
        self._export = export
        self._bits = bits
        self._wall = wall

    def arrived(self, traced: Traced, start: int, traceparents: Mapping[int, str], count: int) -> None:
        """A batch of `count` requests that begins at index `start`."""
        for index, header in traceparents.items():
            context = parse(header)
            if context is not None and context.sampled and index < count:
                traced.parents[start + index] = context

    def arrived_alone(self, traced: Traced, start: int, call: Call) -> None:
        """A request that came without a router."""
        context = parse(dict(call.metadata).get(HEADER))
        if context is not None and context.sampled:
            traced.parents[start] = context

    def answered(
        self, traced: Traced, index: int, *, call: Call, method: str, code: Code, version: str, now: float
    ) -> None:
        """An item of `traced.parents` has its answer."""
        parent, wall_offset = traced.parents[index], self._wall() - now
        context = parent._replace(span_id=span_id(self._bits))
        failed = None if code is Code.OK else code.name
        attributes: dict[str, Attribute] = {
            "rpc.system.name": "grpc",
            "rpc.method": method.lstrip("/"),
            "rpc.response.status_code": code.name,
            "abfleet.version": version,
        }
        name, begun = method.lstrip("/"), call.arrived + wall_offset
        ended = now + wall_offset
        self._export(Span(name, SpanKind.SERVER, context, parent.span_id, begun, ended, attributes, failed))
        if (run := traced.runs.get(index)) is not None:
            self._export(self._run_span(context, parent, run, version, wall_offset, failed))

    def _run_span(
        self,
        above: TraceContext,
        parent: TraceContext,
        run: ModelRun,
        version: str,
        wall_offset: float,
        failed: str | None,
    ) -> Span:
        others = [context for context in run.traced if context != parent]
        return Span(
            "inference",
            SpanKind.INTERNAL,
            above._replace(span_id=span_id(self._bits)),
            above.span_id,
            run.begun + wall_offset,
            run.ended + wall_offset,
            {"abfleet.version": version, "abfleet.run_size": run.size},
            failed,
            links=tuple(others[:MAX_LINKS]),
            dropped_links=max(0, len(others) - MAX_LINKS),
        )
