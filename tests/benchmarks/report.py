"""The figures of a run as a table, as JSON, and against the targets. Measures nothing."""

import math
import os
import platform
import statistics
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
    shown = Table(title=f"{result.model} workers", title_justify="left", caption=_CAPTION, caption_justify="left")
    shown.add_column(f"{plan.in_flight[0]} calls in flight", no_wrap=True)
    for label in _headings(result):
        shown.add_column(label, justify="right")
    for name, cells, last in _rows(result, plan):
        shown.add_row(name, *cells, end_section=last)
    return shown


def remarks(result: ModelResult) -> Iterator[str]:
    """Yields what the table does not say: what was missing, what failed, what there was no time for."""
    if result.workers_mb:
        yield f"{result.model} workers: {max(result.workers_mb):.0f} MB at most, each"
    for name, reason in result.skipped.items():
        yield f"not here: {result.model}, {name}: {reason}"
    for name, reason in result.failed.items():
        yield f"FAILED: {result.model}, {name}: {reason}"
    for path in result.paths.values():
        for note in path.notes:
            yield f"FAILED (!): {result.model}, {path.label}: {note}"
        for timed in path.latencies:
            if timed.not_ok:
                yield f"not OK: {result.model}, {path.label} at {timed.label}: {timed.failures}"
    if result.left_out:
        yield f"no time: {result.model}: {'; '.join(result.left_out)}"


def markdown(results: Sequence[ModelResult], plan: Plan) -> str:
    """Returns the tables of all models in Markdown, and the targets."""
    lines: list[str] = []
    for result in results:
        headings = _headings(result)
        if headings:
            lines += [f"### {result.model} workers, {plan.in_flight[0]} calls in flight", ""]
            lines += ["| | " + " | ".join(headings) + " |", "|---|" + "---:|" * len(headings)]
            lines += [f"| {name.strip()} | {' | '.join(cells)} |" for name, cells, _ in _rows(result, plan)]
            lines.append("")
    reached = targets(results, plan)
    if reached:
        lines += ["### Targets", "", "| target | bound | reached | |", "|---|---:|---:|---|"]
    for target in reached:
        sign, word = ("≥" if target.at_least else "≤"), ("met" if target.met else "missed")
        lines.append(f"| {target.text} | {sign} {target.bound:g} | {target.reached:.2f} | {word} |")
    return "\n".join(lines).rstrip() + "\n"


def _headings(result: ModelResult) -> list[str]:
    return [path.label + (" (!)" if path.notes else "") for path in result.paths.values()]


def _rows(result: ModelResult, plan: Plan) -> Iterator[tuple[str, list[str], bool]]:
    """Yields name, a cell for each path, and whether a group of rows ends here."""
    first, *more = plan.in_flight

    def row(name: str, cell: Callable[[PathResult], str], *, last: bool = False) -> tuple[str, list[str], bool]:
        return name, [cell(path) for path in result.paths.values()], last

    yield row("calls/s", lambda path: _number(path.median(first, "calls_per_s"), 0))
    yield row("CPU µs a call: router", lambda path: _number(path.median(first, "router_us"), 1))
    yield row("CPU µs a call: workers", lambda path: _number(path.median(first, "workers_us"), 1))
    yield row("CPU µs a call: total", lambda path: _number(path.median(first, "total_us"), 1))
    yield row("  total × Envoy", lambda path: _number(result.ratio(path.path, "envoy", first), 2))
    yield row("calls in a batch", lambda path: _number(path.median(first, "batch_size"), 1), last=True)
    for level in more:
        if all(math.isnan(path.median(level, "total_us")) for path in result.paths.values()):
            continue
        yield row(f"{level:,} in flight: total µs", lambda path, at=level: _number(path.median(at, "total_us"), 1))
        yield row("  total × Envoy", lambda path, at=level: _number(result.ratio(path.path, "envoy", at), 2), last=True)
    yield row("one at a time: p50 µs", lambda path: _number(path.one_at_a_time_p50_us, 0), last=True)
    for label in _labels(result):
        for name, shown_as in (("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9")):
            yield row(f"{label}: {shown_as} ms", lambda path, at=label, of=name: _number(_median(path, at, of), 2))
        yield row(f"{label}: router, % of a core", lambda path, at=label: _core(path, at))
        yield row(f"{label}: not OK", lambda path, at=label: _not_ok(path, at), last=True)
    yield row("log lines a call", lambda path: _number(path.log_lines_a_call, 2))
    yield row("router MB", lambda path: _number(path.resident_mb, 0))


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
    fixed = f"{plan.fixed_rate:g}/s"
    yield Target("identity, half of capacity: p99 in ms", _median(ours, "50%", "p99_ms"), 5.0)
    yield Target(f"identity, {fixed}: p99 in ms", _median(ours, fixed, "p99_ms"), 5.0)
    yield Target(f"identity, {fixed}: router, percent of a core", _median(ours, fixed, "router_core_percent"), 50.0)
    if plan.connections:
        yield Target(f"memory in MB with {plan.connections} connections", ours.resident_mb, 150.0)


def as_json(results: Sequence[ModelResult], plan: Plan) -> dict[str, object]:
    """Returns the whole run as plain values; what was not measured is null."""
    load = [round(one, 2) for one in os.getloadavg()]  # at the end: it holds the run's own load too
    machine = {
        "load_average": load,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    models = {
        result.model: {
            "paths": {name: path.as_json() for name, path in result.paths.items()},
            "workers_mb": result.workers_mb,
            "skipped": result.skipped,
            "failed": result.failed,
            "left_out": result.left_out,
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


def _timed(path: PathResult, label: str) -> list[Latency]:
    return [one for one in path.latencies if one.label == label]


def _median(path: PathResult, label: str, name: str) -> float:
    """Returns the median of a figure over the rounds; nan when there was none."""
    values = [getattr(one, name) for one in _timed(path, label)]
    return statistics.median(values) if values else math.nan


def _core(path: PathResult, label: str) -> str:
    percent = _median(path, label, "router_core_percent")
    return _number(percent, 0) if percent else "–"


def _not_ok(path: PathResult, label: str) -> str:
    timed = _timed(path, label)
    return str(sum(one.not_ok for one in timed)) if timed else "–"


def _number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:,.{digits}f}"
