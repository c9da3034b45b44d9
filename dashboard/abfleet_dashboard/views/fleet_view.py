"""Routers, versions and replicas as rows, from the routers' statuses."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC

from abfleet_protos.admin_pb2 import PoolStatus, ReplicaStatus, StatusResponse
from abfleet_transport.client.rates import GroupRate, Rates, between
from markupsafe import Markup

from abfleet_dashboard.numbers import counted, duration, instant, milliseconds, share
from abfleet_dashboard.pictures.fleet_graph import Target, fleet_graph
from abfleet_dashboard.situation import RouterState

_HEALTH = {
    "connecting": "connecting",
    "serving": "healthy",
    "not_serving": "not serving",
    "wrong_version": "serving another version",
    "lost": "unreachable",
}


@dataclass(frozen=True, slots=True)
class RateRow:
    """Calls of one group, as text."""

    experiment: str
    group: str
    version: str
    rate: str
    share: str
    p50: str
    p99: str
    errors: str
    fallbacks: str
    troubled: bool


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One worker. `level`: ok or bad; `state` says the same in words."""

    address: str
    state: str
    load: str
    level: str


@dataclass(frozen=True, slots=True)
class PoolView:
    """One version with its replicas, as text."""

    version: str
    is_default: bool
    summary: str
    level: str
    ejections: str
    replicas: tuple[ReplicaRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterView:
    """One router. `level`: ok, warning or bad; `window` says over what time the rates are; `graph` draws them."""

    address: str
    name: str
    level: str
    summary: str
    error: str | None
    facts: tuple[tuple[str, str], ...] = ()
    config_errors: tuple[str, ...] = ()
    window: str = ""
    rates: tuple[RateRow, ...] = ()
    total: RateRow | None = None
    pools: tuple[PoolView, ...] = ()
    graph: Markup = field(default_factory=Markup)


def router_view(state: RouterState, number: int = 1) -> RouterView:
    """The router for a page; whatever is wrong is a sentence. number: Among the routers of the page, from 1."""
    if state.status is None:
        why = state.error or "it has not answered yet"
        return RouterView(
            address=state.address,
            name=state.address,
            level="bad",
            summary="unreachable",
            error=f"The router at {state.address} cannot be reached: {why}",
        )
    return _known(state, state.status, number)


def _known(state: RouterState, status: StatusResponse, number: int) -> RouterView:
    rates = between(state.earlier, status)
    pools = tuple(_pool(pool, status.config.default) for pool in status.pools)
    return RouterView(
        address=state.address,
        name=status.router,
        level=_level(state, status, pools),
        summary=_summary(state, status, rates, pools),
        error=f"The router can no longer be reached: {state.error}. This is its last known state."
        if state.error
        else None,
        facts=_facts(status),
        config_errors=tuple(status.config.errors),
        window=_window(state, status),
        rates=tuple(_rate(one) for one in rates.groups if one.experiment or one.calls),
        total=_rate(rates.total) if rates.groups else None,
        pools=pools,
        graph=_graph(f"r{number}-graph", state, status, rates, pools),
    )


def _versions_of(rate: GroupRate) -> list[str]:
    """The version that a group's calls go to, or both where two are interleaved."""
    return rate.model_version.split(" + ")


def _graph(id_: str, state: RouterState, status: StatusResponse, rates: Rates, pools: Sequence[PoolView]) -> Markup:
    """The router with its versions; those that only calls name, such as one that was removed, come last."""
    versions = {pool.version: pool for pool in pools}
    called = dict.fromkeys(name for one in rates.groups for name in _versions_of(one))
    names = [*versions, *(name for name in called if name not in versions)]
    targets = []
    for name in names:
        mine, pool = [one for one in rates.groups if name in _versions_of(one)], versions.get(name)
        if pool is None and not any(one.calls for one in mine):
            continue
        calls, total = sum(one.calls for one in mine), rates.total.calls
        targets.append(
            Target(
                name=name,
                calls_per_s=f"{sum(one.calls_per_s for one in mine):,.1f}",
                errors=sum(one.errors for one in mine),
                fallbacks=sum(one.fallbacks for one in mine),
                part=calls / total if total else 0.0,
                workers="no workers" if pool is None else pool.summary,
                level="bad" if pool is None else pool.level,
            )
        )
    level = "bad" if state.error or not status.serving else "ok"
    return fleet_graph(id_, status.router, level, f"{rates.total.calls_per_s:,.1f}", targets) if targets else Markup("")


def _level(state: RouterState, status: StatusResponse, pools: Sequence[PoolView]) -> str:
    if state.error or not status.serving:
        return "bad"
    worrying = status.config.errors or status.decision_log.failing or status.decision_log.lost
    return "warning" if worrying or any(pool.level != "ok" for pool in pools) else "ok"


def _summary(state: RouterState, status: StatusResponse, rates: Rates, pools: Sequence[PoolView]) -> str:
    if state.error:
        return "unreachable"
    parts = ["serving" if status.serving else "not serving", f"{rates.total.calls_per_s:,.1f} calls/s"]
    low = [pool.version for pool in pools if pool.level != "ok"]
    if low:
        parts.append(f"workers missing: {', '.join(low)}")
    elif pools:
        parts.append("all workers up")
    if status.config.errors:
        parts.append("newest configuration rejected")
    if status.decision_log.failing:
        parts.append("decision log cannot be written")
    return ", ".join(parts)


def _facts(status: StatusResponse) -> tuple[tuple[str, str], ...]:
    config, log = status.config, status.decision_log
    since = ""
    if config.HasField("activated"):
        since = f", in force since {instant(config.activated.ToDatetime(UTC), seconds=True)}"
    lost = f", {log.lost:,} lost" if log.lost else ""
    failing = "; writing is failing" if log.failing else ""
    facts = [
        ("State", "serving" if status.serving else "not serving"),
        ("Up for", duration(status.uptime_s)),
        ("Configuration", f"revision {config.revision}{since}" if config.revision else "none yet"),
        ("Configurations so far", f"{config.generation:,}"),
        ("Default version", config.default or "none yet"),
        ("Decision log", f"{counted(log.lines, 'line')}{lost}, {log.buffered:,} not yet written{failing}"),
        ("Calls queued or in progress", f"{status.waiting.calls:,}"),
        ("Refused calls", f"{status.shed:,} under overload, {status.rejected:,} for invalid input"),
        ("Retries", f"{status.retries:,}"),
    ]
    return tuple(facts)


def _window(state: RouterState, status: StatusResponse) -> str:
    earlier = state.earlier
    if earlier is None or earlier.uptime_s >= status.uptime_s:
        return "since the router started"
    return f"in the last {duration(status.uptime_s - earlier.uptime_s)}"


def _rate(rate: GroupRate) -> RateRow:
    return RateRow(
        experiment=rate.experiment or "no experiment",
        group=rate.group or "none",
        version=rate.model_version,
        rate=f"{rate.calls_per_s:,.1f}",
        share="no calls" if rate.share is None else share(rate.share, 1),
        p50="no calls" if rate.p50_ms is None else milliseconds(rate.p50_ms),
        p99="no calls" if rate.p99_ms is None else milliseconds(rate.p99_ms),
        errors=f"{rate.errors:,}",
        fallbacks=f"{rate.fallbacks:,}",
        troubled=bool(rate.errors or rate.fallbacks),
    )


def _pool(pool: PoolStatus, default: str) -> PoolView:
    replicas = tuple(_replica(replica) for replica in pool.replicas)
    available, all_of_them = pool.available, len(replicas)
    level = "bad" if not available else "ok" if available == all_of_them else "warning"
    return PoolView(
        version=pool.version,
        is_default=pool.version == default,
        summary=f"{available} of {counted(all_of_them, 'worker')} up" if all_of_them else "no workers",
        level=level,
        ejections=f"ejected {counted(pool.ejections, 'time')} after failures" if pool.ejections else "",
        replicas=replicas,
    )


def _replica(replica: ReplicaStatus) -> ReplicaRow:
    health = _HEALTH.get(replica.health, replica.health)
    taken_out = replica.health == "serving" and not replica.gets_calls
    state = "ejected after failures" if taken_out else health
    level = "ok" if replica.gets_calls else "bad"
    gets = "" if replica.gets_calls else ", receives no calls"
    return ReplicaRow(
        replica.address, f"{state}{gets}", counted(replica.load, "call") + " queued or in progress", level
    )
