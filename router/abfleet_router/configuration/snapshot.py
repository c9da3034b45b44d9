"""One configuration in force: assignment, pools, and the bytes that every answer of an arm shares. Immutable."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

import orjson
from abfleet_experiments.assign import PINNED, AllocationEvent, Arm, Assigner
from abfleet_experiments.bucketing import shadow_salt
from abfleet_experiments.config import Config, LoggedOutputs
from abfleet_process.base128 import varint

from abfleet_router.errors import LIMITS
from abfleet_router.fleet.pool import Pool
from abfleet_router.metrics import ArmStats, RouterMetrics

EXPERIMENT_TAG, GROUP_TAG, MODEL_VERSION_TAG, REQUEST_ID_TAG = b"\x1a", b"\x22", b"\x2a", b"\x12"
"""Tags of RecommendResponse: field number << 3 | 2 (length-delimited)."""
INFER_NAME_TAG, INFER_VERSION_TAG, INFER_ID_TAG, INFER_PARAMETERS_TAG = b"\x0a", b"\x12", b"\x1a", b"\x22"
"""The same of ModelInferResponse."""
KEY_TAG, VALUE_TAG, STRING_PARAM_TAG = b"\x0a", b"\x12", b"\x1a"
"""The same of an entry of `parameters`, and of an InferParameter."""


@dataclass(frozen=True, slots=True)
class ArmRoute:
    """What the router needs for every user of an arm, computed once."""

    arm: Arm
    pool: Pool
    """The assigned version's; where two are interleaved, the first one's."""
    stats: ArmStats
    suffix: bytes
    """End of the answer to Recommend when the assigned version serves."""
    infer_suffix: bytes
    """End of the answer to ModelInfer when the assigned version serves."""
    log_constant: bytes
    """The part of a log line that all users of the arm share."""


@dataclass(frozen=True, slots=True)
class ShadowRoute:
    """A version that is asked with a sample of answered calls.

    Attributes:
        salt, below: Of the bucket of a request id: calls with one below are in the sample.
        of: The versions whose calls these are; empty: of all but the one that is asked.
    """

    pool: Pool
    salt: str
    below: int
    of: frozenset[str]


class Assigns(Protocol):
    """Who gets which arm."""

    @property
    def allocations(self) -> tuple[AllocationEvent, ...]: ...

    @property
    def next_change(self) -> datetime | None: ...

    def assign(self, user_id: str, attributes: Mapping[str, str]) -> tuple[Arm, int | None]: ...


class PinnedAssigner:
    """Gives everybody one arm."""

    allocations: tuple[AllocationEvent, ...] = ()
    next_change: datetime | None = None

    def __init__(self, arm: Arm) -> None:
        self._arm = arm

    def assign(self, user_id: str, attributes: Mapping[str, str]) -> tuple[Arm, int | None]:
        return self._arm, None


class PinnedSnapshots:
    """Snapshots for callers who name a version: it is everybody's and the default, so it answers or nobody does.

    Each is made when it is first asked for. Changed only on the event loop.
    """

    def __init__(self, pools: Mapping[str, Pool], metrics: RouterMetrics, router: str) -> None:
        self.whole: Snapshot | None = None
        """Whose configuration it is; set once, by whoever makes that."""
        self._pools = pools
        self._metrics = metrics
        self._router = router
        self._made: dict[str, Snapshot] = {}

    def of(self, version: str) -> "Snapshot | None":
        """The one for a version; None where the file has no such version."""
        whole, made = self.whole, self._made.get(version)
        if made is None and whole is not None and version in whole.config.models:
            arm = Arm(0, None, None, None, PINNED, None, None, version)
            pool = self._pools[version]
            route = arm_route(arm, pool, self._metrics, whole.config, self._router)
            made = self._made[version] = replace(
                whole, assigner=PinnedAssigner(arm), arms=(arm,), routes=(route,), default_pool=pool
            )
        return made


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is computed from one configuration. A call keeps the snapshot that it began with to its end."""

    config: Config
    assigner: Assigns
    arms: tuple[Arm, ...]
    routes: tuple[ArmRoute, ...]
    """One for each arm, at its `Arm.index`."""
    default_pool: Pool
    log_attributes: frozenset[str]
    revision: str
    generation: int
    """1 for the first snapshot of this process; one more for each that follows."""
    activated: datetime
    pinned: PinnedSnapshots
    """For callers of ModelInfer who name a version."""
    shadows: tuple[ShadowRoute, ...] = ()
    teams: Mapping[int, "Teams"] = field(default_factory=dict)
    """Of arms whose lists are out of two, by `Arm.index`."""


@dataclass(frozen=True, slots=True)
class Teams:
    """The two versions of an interleaving.

    Attributes:
        of: A configuration for each, in which it is the default, so that no other version stands in for it.
        logged: What is logged of each one's answers to ModelInfer.
        salt: The experiment's.
    """

    of: tuple[Snapshot, Snapshot]
    logged: tuple[LoggedOutputs, LoggedOutputs]
    salt: str


def make_snapshot(
    config: Config,
    pools: Mapping[str, Pool],
    metrics: RouterMetrics,
    *,
    router: str,
    generation: int,
    at: datetime,
) -> Snapshot:
    """Compiles a configuration for one instant. `pools` has every version that the configuration uses."""
    assigner = Assigner(config, at)
    routes = tuple(
        arm_route(arm, pools[(arm.interleave or (arm.model_version,))[0]], metrics, config, router)
        for arm in assigner.arms
    )
    teams: dict[int, Teams] = {}
    pinned = PinnedSnapshots(pools, metrics, router)
    snapshot = pinned.whole = Snapshot(
        config=config,
        assigner=assigner,
        arms=assigner.arms,
        routes=routes,
        default_pool=pools[config.default],
        log_attributes=frozenset(config.log_attributes),
        revision=config.revision,
        generation=generation,
        activated=at,
        pinned=pinned,
        shadows=tuple(
            ShadowRoute(pools[one.model], shadow_salt(one.model), one.percent_bp, frozenset(one.of))
            for one in config.shadow
        ),
        teams=teams,
    )
    for arm in assigner.arms:
        if arm.interleave is not None and arm.experiment is not None:
            a, b = arm.interleave
            teams[arm.index] = Teams(
                (replace(snapshot, default_pool=pools[a]), replace(snapshot, default_pool=pools[b])),
                (config.logged_outputs(a), config.logged_outputs(b)),
                config.experiment(arm.experiment).salt,
            )
    return snapshot


def arm_route(arm: Arm, pool: Pool, metrics: RouterMetrics, config: Config, router: str) -> ArmRoute:
    """What all calls of an arm share."""
    return ArmRoute(
        arm,
        pool,
        metrics.arm(arm),
        reply_suffix(arm, arm.model_version),
        infer_suffix(config.name, arm, arm.model_version),
        log_constant(arm, config.revision, router),
    )


REQUEST_ID_HEADS = tuple(REQUEST_ID_TAG + varint(size) for size in range(LIMITS.request_id_bytes + 1))
"""What stands before a request id of so many bytes."""
INFER_ID_HEADS = tuple(INFER_ID_TAG + varint(size) for size in range(LIMITS.request_id_bytes + 1))
"""The same of ModelInferResponse."""


def string_field(tag: bytes, text: str) -> bytes:
    """A protobuf string field; b"" for the empty string, which proto3 leaves out."""
    raw = text.encode()
    return tag + varint(len(raw)) + raw if raw else b""


def reply_suffix(arm: Arm, served: str) -> bytes:
    """Fields 3 to 5 of RecommendResponse, to append to the worker's answer without reading it.

    Messages merge by concatenation: https://protobuf.dev/programming-guides/encoding/#last-one-wins.
    """
    return (
        string_field(EXPERIMENT_TAG, arm.experiment or "")
        + string_field(GROUP_TAG, arm.group or "")
        + string_field(MODEL_VERSION_TAG, served)
    )


def infer_suffix(name: str, arm: Arm, served: str) -> bytes:
    """Fields 1, 2 and 4 of ModelInferResponse, to append likewise: of a map, too, the last entry of a key counts."""
    return (
        string_field(INFER_NAME_TAG, name)
        + string_field(INFER_VERSION_TAG, served)
        + _parameter("experiment", arm.experiment or "")
        + _parameter("group", arm.group or "")
    )


def _parameter(key: str, text: str) -> bytes:
    raw = text.encode()
    value = STRING_PARAM_TAG + varint(len(raw)) + raw
    entry = string_field(KEY_TAG, key) + VALUE_TAG + varint(len(value)) + value
    return INFER_PARAMETERS_TAG + varint(len(entry)) + entry


def log_constant(arm: Arm, revision: str, router: str) -> bytes:
    """The members of an exposure that depend on the arm and the configuration alone, without the braces."""
    return orjson.dumps(
        {
            "layer": arm.layer,
            "experiment": arm.experiment,
            "group": arm.group,
            "reason": arm.reason,
            "allocation": arm.allocation,
            "propensity": arm.propensity,
            "model_version": arm.model_version or None,
            **({} if arm.interleave is None else {"versions": arm.interleave}),
            "config_revision": revision,
            "router": router,
        }
    )[1:-1]
