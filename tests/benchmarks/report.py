"""The figures of a run as a table, as JSON, and against the targets. Measures nothing."""

import math
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from rich.table import Table

from tests.benchmarks.measure import Latency, PathResult
from tests.benchmarks.run import UNBATCHED, ModelResult, Plan

_CAPTION = (
    "CPU and calls/s: medians over the rounds, saturated. Latency: open loop at a share of a path's own calls/s or at "
    "a fixed rate, from when each call was due."
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a ratio or a figure was to be, and what it was; nan when it was not measured."""

    text: str
    reached: float
    bound: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if math.isnan(self.reached):
            return None
        return self.reached >= self.bound if self.at_least else self.reached <= self.bound


def table(result: ModelResult, plan: Plan) -> Table:
    """Returns the table of one model: a column for each path, a row for each figure."""
    first, *more = plan.in_flight
    paths = list(result.paths.values())
    shown = Table(title=f"{result.model} workers", title_justify="left", caption=_CAPTION, caption_justify="left")
    shown.add_column(f"{first} calls in flight", no_wrap=True)
    for path in paths:
        shown.add_column(path.label + (" (!)" if path.notes else ""), justify="right")

    def row(name: str, cell: Callable[[PathResult], str], *, last: bool = False) -> None:
        shown.add_row(name, *(cell(path) for path in paths), end_section=last)

    row("calls/s", lambda path: _number(path.median(first, "calls_per_s"), 0))
    row("CPU µs a call: router", lambda path: _number(path.median(first, "router_us"), 1))
    row("CPU µs a call: workers", lambda path: _number(path.median(first, "workers_us"), 1))
    row("CPU µs a call: total", lambda path: _number(path.median(first, "total_us"), 1))
    row("  total × Envoy", lambda path: _number(result.ratio(path.path, "envoy", first), 2))
    row("calls in a batch", lambda path: _number(path.median(first, "batch_size"), 1), last=True)
    for level in more:
        row(f"{level:,} in flight: total µs", lambda path, at=level: _number(path.median(at, "total_us"), 1))
        row("  total × Envoy", lambda path, at=level: _number(result.ratio(path.path, "envoy", at), 2), last=True)
    row("one at a time: p50 µs", lambda path: _number(path.one_at_a_time_p50_us, 0), last=True)
    for label in _labels(result):
        for name, shown_as in (("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9")):
            row(f"{label}: {shown_as} ms", lambda path, at=label, of=name: _latency(path, at, of))
        row(f"{label}: router, % of a core", lambda path, at=label: _core(path, at))
        row(f"{label}: not OK", lambda path, at=label: _not_ok(path, at), last=True)
    row("log lines a call", lambda path: _number(path.log_lines_a_call, 2))
    row("router MB", lambda path: _number(path.resident_mb, 0))
    return shown


def targets(results: Sequence[ModelResult], plan: Plan) -> list[Target]:
    """Returns the targets of the data path with what was reached, for the figures that there are."""
    found: list[Target] = []
    for result in results:
        if "native" in result.paths or "grpcio" in result.paths:
            found += _targets(result, plan)
    return [target for target in found if target.met is not None]


def _targets(result: ModelResult, plan: Plan) -> Iterator[Target]:
    first = plan.in_flight[0]
    about, ratio = f"{result.model}, {first} in flight: ", result.ratio
    if result.model == "identity":
        yield Target(about + "total CPU, native / Envoy", ratio("native", "envoy", first), 0.95)
        yield Target(about + "total CPU, native / nginx", ratio("native", "nginx", first), 1.1)
        yield Target(about + "total CPU, native / HAProxy (ambition)", ratio("native", "haproxy", first), 1.0)
        yield Target(about + "total CPU, plain grpc.aio / native", ratio("aio", "native", first), 6.0, at_least=True)
        yield Target(
            about + "throughput, native / Envoy", ratio("native", "envoy", first, "calls_per_s"), 1.0, at_least=True
        )
        yield Target(
            about + "throughput, grpcio / plain grpc.aio",
            ratio("grpcio", "aio", first, "calls_per_s"),
            0.9,
            at_least=True,
        )
        if 400 in plan.in_flight:
            yield Target("identity, 400 in flight: total CPU, native / Envoy", ratio("native", "envoy", 400), 0.85)
        yield from _latency_targets(result, plan)
    elif result.model == "real":
        yield Target(about + "total CPU, native / Envoy", ratio("native", "envoy", first), 0.95)
    else:
        yield Target(about + "total CPU, native / Envoy without batching", ratio("native", UNBATCHED, first), 0.5)


def _latency_targets(result: ModelResult, plan: Plan) -> Iterator[Target]:
    ours, envoy = result.paths.get("native"), result.paths.get("envoy")
    if ours is None:
        return
    if envoy is not None:
        alone = ours.one_at_a_time_p50_us / envoy.one_at_a_time_p50_us
        yield Target("identity, one call at a time: p50, native / Envoy", alone, 2.0)
    for one in ours.latencies:
        if one.label == "50%":
            yield Target("identity, half of capacity: p99 in ms", one.p99_ms, 5.0)
        if one.rate == plan.fixed_rate:
            yield Target(f"identity, {one.label}: p99 in ms", one.p99_ms, 5.0)
            yield Target(f"identity, {one.label}: router, percent of a core", one.router_core_percent, 50.0)
    if plan.connections:
        yield Target(f"memory in MB with {plan.connections} connections", ours.resident_mb, 150.0)


def as_json(results: Sequence[ModelResult], plan: Plan) -> dict[str, object]:
    """Returns the whole run as plain values; what was not measured is null."""
    machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    models = {
        result.model: {
            "paths": {name: path.as_json() for name, path in result.paths.items()},
            "skipped": result.skipped,
            "total_cpu_to_envoy": {
                str(level): {name: result.ratio(name, "envoy", level) for name in result.paths}
                for level in plan.in_flight
            },
        }
        for result in results
    }
    reached = [
        {"target": target.text, "reached": target.reached, "bound": target.bound, "met": target.met}
        for target in targets(results, plan)
    ]
    return _without_nan({"machine": machine, "plan": asdict(plan), "models": models, "targets": reached})


def _without_nan(value):
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _labels(result: ModelResult) -> list[str]:
    return list(dict.fromkeys(one.label for path in result.paths.values() for one in path.latencies))


def _timed(path: PathResult, label: str) -> Latency | None:
    return next((one for one in path.latencies if one.label == label), None)


def _latency(path: PathResult, label: str, name: str) -> str:
    one = _timed(path, label)
    return "–" if one is None else _number(getattr(one, name), 2)


def _core(path: PathResult, label: str) -> str:
    one = _timed(path, label)
    return f"{one.router_core_percent:.0f}" if one is not None and one.router_us else "–"


def _not_ok(path: PathResult, label: str) -> str:
    one = _timed(path, label)
    return "–" if one is None else str(one.not_ok)


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
