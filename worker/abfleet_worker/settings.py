"""Every flag of the worker, with its default and its range. Reads flags and environment, and opens no file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from abfleet_process import flags, server_flags
from abfleet_process.log_levels import LogFormat
from abfleet_process.security import tls_flags
from abfleet_process.security.tls_flags import ServerSecurity
from abfleet_process.tracing.exporter import ENDPOINT_HELP, endpoint_or_none
from abfleet_transport.transports import Transport

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A router holds at most so many bytes of waiting calls, so no batch of it is larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """All settings of one worker process."""

    registry: Path
    model_key_file: Path | None
    """Only versions that were signed with this key are served; None: any whose files are intact."""
    version: str
    """A version of the registry, or an alias such as `production`."""
    model_name: str
    """What callers of the Open Inference Protocol name the model."""
    follow_interval_seconds: float
    """How often an alias is polled; 0: only when SIGHUP asks."""
    listen: str
    """`host:port` (port 0: any free one) or `unix:path`."""
    metrics_host: str
    metrics_port: int | None
    """0: any free one; None: no metrics endpoint."""
    transport: Transport
    intra_op_threads: int
    spinning: bool
    max_batch: int
    """Most requests in one run of the model."""
    security: ServerSecurity
    drain_delay_seconds: float
    drain_timeout_seconds: float
    log_level: str
    log_format: LogFormat
    otlp_endpoint: str
    """Where spans go; empty: none are made."""


def declared(environment: Mapping[str, str] = os.environ) -> flags.Flags:
    """All flags, with the defaults that the environment gives. Raises flags.SettingsError."""
    known = flags.Flags(
        "abfleet worker",
        "Serve one ONNX model of the registry over gRPC.",
        "abfleet worker --registry models --version production --listen 127.0.0.1:50061",
        environment,
    )
    known.group("Model")
    known.add("registry", Path, "models", "DIR", "folder of the model registry")
    known.add(
        "model-key-file",
        str,
        "",
        "FILE",
        "serve only versions signed with the key in this file; abfleet models sign signs them",
    )
    known.add("version", flags.text, "production", "NAME", "version to serve, or alias such as production")
    known.add("model-name", flags.text, "recommender", "NAME", "name of the model in the Open Inference Protocol")
    known.add(
        "follow-interval",
        flags.real(0, 3600),
        "1",
        "SECONDS",
        "time between polls of the alias for a new version to serve; 0: only on SIGHUP",
    )
    known.group("Address")
    known.add(
        "listen",
        flags.address,
        "127.0.0.1:50061",
        "ADDRESS",
        "address to serve on: HOST:PORT (port 0: any free one) or unix:PATH",
    )
    known.choice("transport", get_args(Transport), "auto", "transport; auto: native unless TLS is configured")
    known.group("Inference")
    known.add("intra-op-threads", flags.whole(1, 256), "1", "N", "threads that ONNX Runtime uses in one run")
    known.switch("spinning", "let waiting threads of ONNX Runtime spin; this takes CPU from other processes")
    known.add("max-batch", flags.whole(1, 4096), "128", "N", "maximum number of requests in one run of the model")
    known.group("Security and limits")
    tls_flags.add(known, MAX_MESSAGE_BYTES)
    known.group("Start and end")
    server_flags.add_drain(known)
    known.group("Metrics, operational log and traces")
    server_flags.add_metrics(known, "8001")
    server_flags.add_logging(known)
    known.add("otlp-endpoint", endpoint_or_none, "", "URL", ENDPOINT_HELP)
    return known


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> WorkerSettings:
    """Reads flags and environment. Raises flags.SettingsError; `--help` raises SystemExit(0)."""
    values = declared(environment).parse(arguments)
    return WorkerSettings(
        registry=values.registry,
        model_key_file=Path(values.model_key_file) if values.model_key_file else None,
        version=values.version,
        model_name=values.model_name,
        follow_interval_seconds=values.follow_interval,
        listen=values.listen,
        metrics_host=values.metrics_host,
        metrics_port=values.metrics_port,
        transport=cast(Transport, values.transport),
        intra_op_threads=values.intra_op_threads,
        spinning=values.spinning,
        max_batch=values.max_batch,
        security=tls_flags.read(values),
        drain_delay_seconds=values.drain_delay,
        drain_timeout_seconds=values.drain_timeout,
        log_level=values.log_level,
        log_format=cast(LogFormat, values.log_format),
        otlp_endpoint=values.otlp_endpoint,
    )
