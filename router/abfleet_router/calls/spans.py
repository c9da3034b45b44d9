"""Spans of a call: which calls have them, and what they say. Knows calls and their ends, no encoding, no network.

Spans are made once, when a call has ended, from what the routed call holds anyway. Attribute names follow
OpenTelemetry's semantic conventions (rpc, feature_flag, server) where there is one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from abfleet_experiments import assign
from abfleet_process.tracing import traceparent
from abfleet_process.tracing.spans import Attribute, Export, Span, SpanEvent, SpanKind, span_id, trace_id
from abfleet_process.tracing.traceparent import TraceContext
from abfleet_transport.call import Call, Code

from abfleet_router.calls.call_trace import CallTrace
from abfleet_router.calls.routed_call import RoutedCall

METHODS = ("Recommender/Recommend", "inference.GRPCInferenceService/ModelInfer")
"""By `Call.method`."""
SERVER_FAULTS = frozenset(
    {Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
)
"""Codes that make a server's span an error; the others are the caller's doing, or (shed) as it should be:
https://opentelemetry.io/docs/specs/semconv/rpc/grpc/#grpc-status"""
REASONS = {
    assign.ALLOCATED: "split",
    assign.OVERRIDE: "targeting_match",
    assign.NOT_IN_AUDIENCE: "default",
    assign.NOT_IN_TRAFFIC: "default",
    assign.HOLDOUT: "default",
    assign.NO_USER_ID: "default",
    assign.NO_EXPERIMENT: "default",
    assign.PINNED: "static",
}
"""https://opentelemetry.io/docs/specs/semconv/feature-flags/feature-flags-events/"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How and when a call ended; times on the clock of its call."""

    code: Code
    served: str
    at: float
    wall_offset: float
    """Seconds from that clock to the epoch."""


class CallTracer:
    """Decides which calls are recorded, and makes their spans. Keeps nothing between calls."""

    def __init__(
        self,
        export: Export,
        sample_ratio: float,
        *,
        draw: Callable[[], float],
        bits: Callable[[int], int],
        hashed: Callable[[str], str] | None = None,
    ) -> None:
        """`draw` gives 0 to 1, `bits(n)` n random bits; `hashed`: a user's id is in no span but as this."""
        self._export = export
        self._ratio = sample_ratio
        self._draw = draw
        self._bits = bits
        self._hashed = hashed

    def begin(self, parent: TraceContext | None) -> CallTrace | None:
        """The trace of a new call: the caller's decision counts, without one the ratio does."""
        if parent is None:
            if self._draw() >= self._ratio:
                return None
            return CallTrace(TraceContext(trace_id(self._bits), span_id(self._bits), True), None, self._bits)
        if not parent.sampled:
            return CallTrace(parent)
        return CallTrace(TraceContext(parent.trace_id, span_id(self._bits), True), parent.span_id, self._bits)

    def refused(self, call: Call, code: Code, now: float, wall_offset: float) -> None:
        """Exports the span of a call that was not admitted, if the call is traced."""
        trace = self.begin(traceparent.parse(dict(call.metadata).get(traceparent.HEADER)))
        if trace is not None and trace.recorded:
            self._export(refused_span(METHODS[call.method], trace, code, call.arrived + wall_offset, now + wall_offset))

    def ended(self, routed: RoutedCall, code: Code, served: str, now: float, wall_offset: float) -> None:
        """A call has ended; its spans are sent, if it has any."""
        trace = routed.trace
        if trace is None or not trace.recorded:
            return
        end = Ended(code, served, now, wall_offset)
        self._export(call_span(routed, trace, end, self._hashed))
        for span in attempt_spans(routed, trace, end):
            self._export(span)


def refused_span(method: str, trace: CallTrace, code: Code, begun: float, ended: float) -> Span:
    """The router's part in a call that was not admitted: nothing is known of it but how it ended."""
    attributes = {"rpc.system.name": "grpc", "rpc.method": method, "rpc.response.status_code": code.name}
    failed = code.name if code in SERVER_FAULTS else None
    return Span(method, SpanKind.SERVER, trace.context, trace.parent_id, begun, ended, attributes, failed)


def call_span(routed: RoutedCall, trace: CallTrace, end: Ended, hashed: Callable[[str], str] | None) -> Span:
    """The router's part in a call, from its arrival to its end."""
    begun = routed.call.arrived + end.wall_offset
    method = METHODS[routed.call.method]
    attributes: dict[str, Attribute] = {
        "rpc.system.name": "grpc",
        "rpc.method": method,
        "rpc.response.status_code": end.code.name,
        "abfleet.request_id": routed.request_id,
        "abfleet.assigned_version": routed.arm.served_by,
        "abfleet.attempts": routed.attempts,
        "abfleet.synthetic": routed.synthetic,
    }
    if end.served:
        attributes["abfleet.served_version"] = end.served
    if routed.fallback is not None:
        attributes["abfleet.fallback"] = routed.fallback.value
    failed = end.code.name if end.code in SERVER_FAULTS else None
    if failed:
        attributes["error.type"] = failed
    event = SpanEvent("feature_flag.evaluation", begun, evaluation(routed, hashed))
    return Span(
        method,
        SpanKind.SERVER,
        trace.context,
        trace.parent_id,
        begun,
        end.at + end.wall_offset,
        attributes,
        failed,
        (event,),
    )


def evaluation(routed: RoutedCall, hashed: Callable[[str], str] | None) -> dict[str, Attribute]:
    """How the version was chosen, as an evaluation of a feature flag: the experiment is the flag, the group the value.

    User ids are in the decision log alone, so the context has an id only where ids are hashed.
    """
    arm = routed.arm
    attributes: dict[str, Attribute] = {
        "feature_flag.key": arm.experiment or "default",
        "feature_flag.provider.name": "abfleet",
        "feature_flag.result.variant": arm.group or arm.model_version,
        "feature_flag.result.reason": REASONS[arm.reason],
        "feature_flag.version": routed.snapshot.revision,
        "abfleet.reason": arm.reason,
    }
    if arm.layer is not None:
        attributes["feature_flag.set.id"] = arm.layer
    if hashed is not None and routed.user_id:
        attributes["feature_flag.context.id"] = hashed(routed.user_id)
    return attributes


def attempt_spans(routed: RoutedCall, trace: CallTrace, end: Ended) -> Iterator[Span]:
    """One span for each attempt. An attempt whose batch never came back ended when the next one began, or the call;
    where two versions were asked, when the call did."""
    attempts = trace.attempts
    together = routed.arm.interleave is not None
    for number, attempt in enumerate(attempts, 1):
        last = together or number == len(attempts)
        until = end.at if last else attempts[number].batch.sent
        if (answered := attempt.batch.answered) is not None:
            until = min(until, answered)
        batch = attempt.batch
        method = batch.path.lstrip("/")
        host, _, port = attempt.address.rpartition(":")
        served = last and bool(end.served)
        if together:
            served = answered is not None and end.code is Code.OK and end.served in ("", attempt.version)
        attributes: dict[str, Attribute] = {
            "rpc.system.name": "grpc",
            "rpc.method": method,
            "server.address": host or attempt.address,
            "abfleet.version": attempt.version,
            "abfleet.attempt": number,
            "abfleet.batch_size": len(attempt.batch.calls),
        }
        if port.isdecimal():
            attributes["server.port"] = int(port)
        yield Span(
            method,
            SpanKind.CLIENT,
            trace.context._replace(span_id=attempt.span_id),
            trace.context.span_id,
            attempt.batch.sent + end.wall_offset,
            max(until, attempt.batch.sent) + end.wall_offset,
            attributes,
            None if served else "the call ended, or had another attempt, without an answer from this one",
        )
