"""One configuration in force: assignment, pools, and the bytes that every answer of an arm shares. Immutable."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import orjson
from abfleet_experiments.assign import Arm, Assigner
from abfleet_experiments.config import Config
from abfleet_process.base128 import varint

from abfleet_router.errors import LIMITS
from abfleet_router.fleet.pool import Pool
from abfleet_router.metrics import ArmStats, RouterMetrics

EXPERIMENT_TAG, GROUP_TAG, MODEL_VERSION_TAG, REQUEST_ID_TAG = b"\x1a", b"\x22", b"\x2a", b"\x12"
"""Tags of RecommendResponse: field number << 3 | 2 (length-delimited)."""


@dataclass(frozen=True, slots=True)
class ArmRoute:
    """What the router needs for every user of an arm, computed once."""

    arm: Arm
    pool: Pool
    stats: ArmStats
    suffix: bytes
    """End of the answer when the assigned version serves."""
    log_constant: bytes
    """The part of a log line that all users of the arm share."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is computed from one configuration. A call keeps the snapshot that it began with to its end."""

    config: Config
    assigner: Assigner
    arms: tuple[Arm, ...]
    routes: tuple[ArmRoute, ...]
    """One for each arm, at its `Arm.index`."""
    default_pool: Pool
    log_attributes: frozenset[str]
    revision: str
    generation: int
    """1 for the first snapshot of this process; one more for each that follows."""
    activated: datetime


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
        ArmRoute(
            arm,
            pools[arm.model_version],
            metrics.arm(arm),
            reply_suffix(arm, arm.model_version),
            log_constant(arm, config.revision, router),
        )
        for arm in assigner.arms
    )
    return Snapshot(
        config=config,
        assigner=assigner,
        arms=assigner.arms,
        routes=routes,
        default_pool=pools[config.default],
        log_attributes=frozenset(config.log_attributes),
        revision=config.revision,
        generation=generation,
        activated=at,
    )


REQUEST_ID_HEADS = tuple(REQUEST_ID_TAG + varint(size) for size in range(LIMITS.request_id_bytes + 1))
"""What stands before a request id of so many bytes."""


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
            "model_version": arm.model_version,
            "config_revision": revision,
            "router": router,
        }
    )[1:-1]
