"""A router's status as a JSON document, for people and older readers, and back, from older routers. Pure."""

import json
from datetime import UTC
from typing import Any

from abfleet_protos.admin_pb2 import Build, ConfigurationStatus, GroupStatus, PoolStatus, StatusResponse
from google.protobuf.json_format import ParseDict, ParseError


def as_document(status: StatusResponse) -> dict[str, Any]:
    """The document that docs/operations.md describes, as plain JSON values; what is not there yet is None."""
    log = status.decision_log
    return {
        "router": status.router,
        "log_level": status.log_level,
        "serving": status.serving,
        "uptime_s": status.uptime_s,
        "tasks": status.tasks,
        "config": _config(status.config),
        "groups": [_group(group) for group in status.groups],
        "pools": [_pool(pool) for pool in status.pools],
        "waiting": {"calls": status.waiting.calls, "bytes": status.waiting.bytes},
        "shed": status.shed,
        "rejected": status.rejected,
        "retries": status.retries,
        "decision_log": {
            "path": log.path,
            "failing": log.failing,
            "lines": log.lines,
            "lost": log.lost,
            "buffered": log.buffered,
        },
        **({"build": _build(status.build)} if status.HasField("build") else {}),
    }


def from_answer(answer: StatusResponse) -> StatusResponse:
    """The status in a router's answer, from its `json` where it is of the release that sent nothing else.

    Raises ValueError for an answer that makes no sense.
    """
    status = answer if answer.HasField("config") else _from_json(answer.json)
    bounds = status.groups[0].latency.bounds_s if status.groups else ()
    for group in status.groups:
        latency = group.latency
        if latency.bounds_s != bounds or not bounds or len(latency.counts) != len(bounds) + 1:
            raise ValueError(
                f"groups: latency of {group.experiment or 'no experiment'}, {group.group or 'no group'} has "
                f"{len(latency.counts)} counts for {len(latency.bounds_s)} bounds; it needs one more than bounds, and "
                "the bounds of the first group"
            )
    return status


def _from_json(text: str) -> StatusResponse:
    """Keys are the fields' names, `in` that of `gets_calls`; keys that are not known are passed over."""
    document = json.loads(text)
    if not isinstance(document, dict) or "config" not in document:
        raise ValueError("json: has no key `config`")
    try:
        return ParseDict(document, StatusResponse(), ignore_unknown_fields=True)
    except ParseError as error:
        raise ValueError(f"json: {error}") from error


def _build(build: Build) -> dict[str, Any]:
    return {
        "version": build.version,
        "revision": build.revision,
        "python": build.python,
        "grpcio": build.grpcio,
        **({"form": build.form} if build.form else {}),
    }


def _config(config: ConfigurationStatus) -> dict[str, Any]:
    return {
        "revision": config.revision or None,
        "generation": config.generation,
        "activated": config.activated.ToDatetime(UTC).isoformat() if config.HasField("activated") else None,
        "seen_revision": config.seen_revision or None,
        "errors": list(config.errors),
        "default": config.default or None,
    }


def _group(group: GroupStatus) -> dict[str, Any]:
    latency = group.latency
    return {
        "experiment": group.experiment,
        "group": group.group,
        "model_version": group.model_version,
        "calls": group.calls,
        "errors": group.errors,
        "fallbacks": group.fallbacks,
        "latency": {
            "bounds_s": list(latency.bounds_s),
            "counts": list(latency.counts),
            "total_s": latency.total_s,
        },
    }


def _pool(pool: PoolStatus) -> dict[str, Any]:
    return {
        "version": pool.version,
        "available": pool.available,
        "replicas": [
            {
                "address": replica.address,
                "health": replica.health,
                "in": replica.gets_calls,
                "load": replica.load,
            }
            for replica in pool.replicas
        ],
        "ejections": pool.ejections,
    }
