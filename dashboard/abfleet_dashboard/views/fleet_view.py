"""Routers, versions and replicas as rows, from the routers' statuses."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

from abfleet_protos.admin_pb2 import PoolStatus, ReplicaStatus, StatusResponse
from abfleet_transport.client.rates import GroupRate, Rates, between

from abfleet_dashboard.numbers import UNKNOWN, counted, duration, instant, milliseconds, share
from abfleet_dashboard.situation import RouterState

_HEALTH = {
    "connecting": "is being connected to",
    "serving": "is healthy",
    "not_serving": "says that it does not serve",
    "wrong_version": "serves another version",
    "lost": "cannot be reached",
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
    """One router. `level`: ok, warning or bad; `window` says over what time the rates are."""

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


def router_view(state: RouterState) -> RouterView:
    """The router for a page; whatever is wrong is a sentence."""
    if state.status is None:
        why = state.error or "it has not answered yet"
        return RouterView(
            address=state.address,
            name=state.address,
            level="bad",
            summary="cannot be reached",
            error=f"The router at {state.address} cannot be reached: {why}",
        )
    return _known(state, state.status)


def _known(state: RouterState, status: StatusResponse) -> RouterView:
    rates = between(state.earlier, status)
    pools = tuple(_pool(pool, status.config.default) for pool in status.pools)
    return RouterView(
        address=state.address,
        name=status.router,
        level=_level(state, status, pools),
        summary=_summary(state, status, rates, pools),
        error=f"It cannot be reached any more: {state.error}. This is what it said last." if state.error else None,
        facts=_facts(status),
        config_errors=tuple(status.config.errors),
        window=_window(state, status),
        rates=tuple(_rate(one) for one in rates.groups if one.experiment or one.calls),
        total=_rate(rates.total) if rates.groups else None,
        pools=pools,
    )


def _level(state: RouterState, status: StatusResponse, pools: Sequence[PoolView]) -> str:
    if state.error or not status.serving:
        return "bad"
    worrying = status.config.errors or status.decision_log.failing or status.decision_log.lost
    return "warning" if worrying or any(pool.level != "ok" for pool in pools) else "ok"


def _summary(state: RouterState, status: StatusResponse, rates: Rates, pools: Sequence[PoolView]) -> str:
    if state.error:
        return "cannot be reached any more"
    parts = ["serves" if status.serving else "does not serve", f"{rates.total.calls_per_s:,.1f} calls/s"]
    low = [pool.version for pool in pools if pool.level != "ok"]
    parts.append(f"workers missing: {', '.join(low)}" if low else f"{counted(len(pools), 'version')} with all workers")
    if status.config.errors:
        parts.append("the newest configuration was not taken")
    if status.decision_log.failing:
        parts.append("the log cannot be written")
    return ", ".join(parts)


def _facts(status: StatusResponse) -> tuple[tuple[str, str], ...]:
    config, log = status.config, status.decision_log
    since = ""
    if config.HasField("activated"):
        since = f", in force since {instant(config.activated.ToDatetime(UTC), seconds=True)}"
    lost = f", {log.lost:,} lost" if log.lost else ""
    failing = "; writing fails now" if log.failing else ""
    facts = [
        ("State", "serves" if status.serving else "does not serve"),
        ("Up for", duration(status.uptime_s)),
        ("Configuration", f"{config.revision or 'none yet'} (number {config.generation}){since}"),
        ("Default version", config.default or UNKNOWN),
        ("Log", f"{counted(log.lines, 'line')}{lost}, {log.buffered:,} not yet written{failing}"),
        ("Waiting calls", f"{status.waiting.calls:,}"),
        ("Refused", f"{status.shed:,} under overload, {status.rejected:,} for wrong input"),
        ("Second attempts", f"{status.retries:,}"),
    ]
    return tuple(facts)


def _window(state: RouterState, status: StatusResponse) -> str:
    earlier = state.earlier
    if earlier is None or earlier.uptime_s >= status.uptime_s:
        return "since the router started"
    return f"over the last {duration(status.uptime_s - earlier.uptime_s)}"


def _rate(rate: GroupRate) -> RateRow:
    return RateRow(
        experiment=rate.experiment or "no experiment",
        group=rate.group or UNKNOWN,
        version=rate.model_version,
        rate=f"{rate.calls_per_s:,.1f}",
        share=UNKNOWN if rate.share is None else share(rate.share, 1),
        p50=milliseconds(rate.p50_ms),
        p99=milliseconds(rate.p99_ms),
        errors=f"{rate.errors:,}",
        fallbacks=f"{rate.fallbacks:,}",
        troubled=bool(rate.errors or rate.fallbacks),
    )


def _pool(pool: PoolStatus, default: str) -> PoolView:
    replicas = tuple(_replica(replica) for replica in pool.replicas)
    available, all_of_them = pool.available, len(replicas)
    gets = "gets" if all_of_them == 1 else "get"
    level = "bad" if not available else "ok" if available == all_of_them else "warning"
    return PoolView(
        version=pool.version,
        is_default=pool.version == default,
        summary=f"{available} of {counted(all_of_them, 'worker')} {gets} calls"
        if all_of_them
        else "no worker is known",
        level=level,
        ejections=f"taken out {counted(pool.ejections, 'time')} after failures" if pool.ejections else "",
        replicas=replicas,
    )


def _replica(replica: ReplicaStatus) -> ReplicaRow:
    health = _HEALTH.get(replica.health, replica.health)
    taken_out = replica.health == "serving" and not replica.gets_calls
    state = f"{health}, taken out after failures" if taken_out else health
    level = "ok" if replica.gets_calls else "bad"
    gets = "gets calls" if replica.gets_calls else "gets none"
    return ReplicaRow(replica.address, f"{gets}, {state}", f"{replica.load:,}", level)
