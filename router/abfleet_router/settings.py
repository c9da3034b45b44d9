"""Every flag of the router, with its default and why. Reads flags and environment, and opens no file."""

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from abfleet_log.writer.log_settings import Fsync, LogSettings, Policy
from abfleet_process import server_flags
from abfleet_process.addresses import ADMIN_ADDRESS, ROUTER_ADDRESS
from abfleet_process.flags import Flags, SettingsError, address, real, text, whole
from abfleet_process.log_levels import LogFormat
from abfleet_process.tracing.exporter import ENDPOINT_HELP, endpoint_or_none
from abfleet_process.writable_folder import folder_problem
from abfleet_transport.transports import Transport

from abfleet_router.balancing.ejection import EjectionPolicy
from abfleet_router.balancing.picker import SLOW_START_SECONDS
from abfleet_router.fleet.batching import BatchingSettings
from abfleet_router.security import security_settings
from abfleet_router.security.security_settings import SecuritySettings

SECONDS_A_DAY = 86_400
MAX_INFER_BYTES = 16 * 1024 * 1024
"""A fourth of what a worker takes by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingSettings:
    """Deadlines, retries and bounds of the calls on their way through the router."""

    name: str = "router"
    """This router in the decision log."""
    default_deadline_seconds: float = 2.0
    """Seconds that a call has if its caller sets no deadline."""
    attempt_timeout_seconds: float = 0.5
    """An attempt takes at most this and at most half of what remains, so that there is time for another."""
    least_attempt_seconds: float = 0.001
    """With less left, no further attempt is made."""
    retry_per_call: float = 0.2
    retry_per_second: float = 1.0
    retry_banked: float = 100.0
    max_waiting_calls: int = 4096
    max_waiting_bytes: int = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """All settings of one router process."""

    experiments: Path
    fleet: Path | None
    listen: str
    admin_listen: str
    metrics_host: str
    metrics_port: int | None
    """0: any free one; None: no metrics endpoint."""
    transport: Transport
    log_dir: Path
    log: LogSettings
    feedback_window: int
    """How many outcome ids are remembered, to recognise repeats."""
    open_feedback: bool
    user_id_hmac_key_file: Path | None
    """Where the log has keyed hashes instead of user ids."""
    security: SecuritySettings
    log_level: str
    log_format: LogFormat
    otlp_endpoint: str
    """Where spans go; empty: none are made."""
    trace_sample: float
    """Share of the calls without a trace of their own that are traced."""
    reload_interval_seconds: float
    drain_delay_seconds: float
    drain_timeout_seconds: float
    routing: RoutingSettings
    ejection: EjectionPolicy
    batching: BatchingSettings
    max_infer_bytes: int
    """The maximum size of a ModelInfer request in bytes."""
    slow_start_seconds: float
    """From when a replica comes, or comes back, until it gets its full share."""


def check_log_dir(settings: RouterSettings) -> None:
    """Raises SettingsError where the decision log is to go to a folder that cannot be written to."""
    if settings.log.sink == "file" and (problem := folder_problem(settings.log_dir)) is not None:
        raise SettingsError(f"--log-dir (ABFLEET_LOG_DIR): {str(settings.log_dir)!r} {problem}")


def declared(environment: Mapping[str, str] = os.environ) -> Flags:
    """All flags, with the defaults that the environment gives. Raises SettingsError."""
    flags = Flags(
        "abfleet router",
        "Route each call to the model version that its user is assigned, and log it.",
        "abfleet router --experiments experiments/recommender.yaml --listen 127.0.0.1:50051",
        environment,
    )
    _add_process(flags)
    _add_decision_log(flags)
    _add_data_path(flags)
    security_settings.add(flags)
    return flags


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> RouterSettings:
    """Reads flags and environment. Raises SettingsError; `--help` raises SystemExit(0) as argparse does."""
    got = declared(environment).parse(arguments)
    return RouterSettings(
        experiments=got.experiments,
        fleet=Path(got.fleet) if got.fleet else None,
        listen=got.listen,
        admin_listen=got.admin_listen,
        metrics_host=got.metrics_host,
        metrics_port=got.metrics_port,
        transport=cast(Transport, got.transport),
        log_dir=got.log_dir,
        log=LogSettings(
            sink=cast(Literal["file", "stdout"], got.log_sink),
            policy=cast(Policy, got.log_policy),
            flush_interval_seconds=got.flush_interval,
            fsync=cast(Fsync, got.fsync),
            rotate_bytes=got.log_rotate_bytes,
            rotate_seconds=got.log_rotate_seconds,
            compress=cast(Literal["zst", "none"], got.log_compress),
            retention_seconds=got.log_retention * SECONDS_A_DAY,
            max_lines=got.log_buffer_lines,
            max_bytes=got.log_buffer_bytes,
        ),
        feedback_window=got.feedback_window,
        open_feedback=got.open_feedback,
        user_id_hmac_key_file=Path(got.user_id_hmac_key_file) if got.user_id_hmac_key_file else None,
        security=security_settings.read(got),
        log_level=got.log_level,
        log_format=cast(LogFormat, got.log_format),
        otlp_endpoint=got.otlp_endpoint,
        trace_sample=got.trace_sample,
        reload_interval_seconds=got.reload_interval,
        drain_delay_seconds=got.drain_delay,
        drain_timeout_seconds=got.drain_timeout,
        routing=RoutingSettings(
            name=got.router_name,
            default_deadline_seconds=got.default_deadline,
            attempt_timeout_seconds=got.attempt_timeout,
            max_waiting_calls=got.max_waiting_calls,
            max_waiting_bytes=got.max_waiting_bytes,
        ),
        ejection=EjectionPolicy(
            consecutive_failures=got.eject_after,
            base_seconds=got.eject_seconds,
            max_seconds=8 * got.eject_seconds,
            detect_only=got.detect_only,
        ),
        batching=BatchingSettings(max_batch=got.max_batch, max_in_flight=got.max_in_flight),
        max_infer_bytes=got.max_infer_bytes,
        slow_start_seconds=got.slow_start,
    )


def _add_process(flags: Flags) -> None:
    name = f"{socket.gethostname()}-{os.getpid()}"
    add = flags.add
    flags.group("Configuration and addresses")
    server_flags.add_fleet(flags, "experiments file, read again when it changes")
    add("reload-interval", real(0.01, 3600), "0.25", "SECONDS", "time between polls of the files for changes")
    add(
        "listen",
        address,
        ROUTER_ADDRESS,
        "HOST:PORT",
        "address to serve callers on: HOST:PORT (port 0: any free one) or unix:PATH",
    )
    add("admin-listen", address, ADMIN_ADDRESS, "HOST:PORT", "address to serve status and reload on")
    flags.choice("transport", get_args(Transport), "auto", "transport; auto: native unless TLS is configured")
    add("router-name", text, name, "NAME", "name of this router in the decision log")
    flags.group("Metrics, operational log and traces")
    server_flags.add_metrics(flags, "8000")
    server_flags.add_logging(flags)
    add("otlp-endpoint", endpoint_or_none, "", "URL", ENDPOINT_HELP)
    add(
        "trace-sample",
        real(0, 1),
        "0.01",
        "RATIO",
        "share of calls to trace; a caller that sends a traceparent decides itself",
    )
    flags.group("Start and end")
    server_flags.add_drain(flags)


def _add_decision_log(flags: Flags) -> None:
    log, add = LogSettings(), flags.add
    flags.group("Decision log and outcomes")
    add("log-dir", Path, "logs", "DIR", "folder of the decision log")
    flags.choice("log-sink", ("file", "stdout"), log.sink, "where the decision log goes; stdout: for a log collector")
    flags.choice(
        "log-policy",
        get_args(Policy),
        log.policy,
        "what to do while the log cannot be written; refuse: send no answer that is not logged",
    )
    add(
        "flush-interval",
        real(0.001, 60),
        f"{log.flush_interval_seconds:g}",
        "SECONDS",
        "time between writes of the decision log",
    )
    flags.choice(
        "fsync",
        get_args(Fsync),
        log.fsync,
        "when the log is synced to disk: when the system decides, every second, or at each write",
    )
    add("log-rotate-bytes", whole(1024, 2**50), f"{log.rotate_bytes}", "BYTES", "start a new log file at this size")
    add(
        "log-rotate-seconds",
        real(1, 366 * SECONDS_A_DAY),
        f"{log.rotate_seconds:g}",
        "SECONDS",
        "start a new log file at this age",
    )
    flags.choice("log-compress", ("zst", "none"), log.compress, "compression of closed log files")
    add("log-retention", real(0, 36_500), "0", "DAYS", "remove log files whose last line is older than this; 0: never")
    add(
        "log-buffer-lines",
        whole(1, 100_000_000),
        f"{log.max_lines}",
        "N",
        "maximum number of unwritten lines; further lines are dropped",
    )
    add(
        "log-buffer-bytes",
        whole(65_536, 2**40),
        f"{log.max_bytes}",
        "BYTES",
        "maximum size of unwritten lines in bytes",
    )
    add("user-id-hmac-key-file", str, "", "FILE", "file with the key; log keyed hashes instead of user ids")
    add(
        "feedback-window",
        whole(1, 100_000_000),
        "500000",
        "N",
        "number of outcome ids to remember, to recognise repeats at once",
    )
    flags.switch("open-feedback", "accept outcomes without a token on addresses other than loopback")


def _add_data_path(flags: Flags) -> None:
    routing, ejection, batching = RoutingSettings(), EjectionPolicy(), BatchingSettings()
    seconds = real(0.001, 3600)
    add = flags.add
    flags.group("Deadlines, retries, batches and ejection")
    add(
        "default-deadline",
        seconds,
        f"{routing.default_deadline_seconds:g}",
        "SECONDS",
        "deadline of calls that have none",
    )
    add(
        "attempt-timeout",
        seconds,
        f"{routing.attempt_timeout_seconds:g}",
        "SECONDS",
        "maximum time of one attempt; at most half of the remaining time, unless it is the last possible attempt",
    )
    add(
        "max-waiting-calls",
        whole(1, 10_000_000),
        f"{routing.max_waiting_calls}",
        "N",
        "number of waiting calls above which new calls are refused",
    )
    add(
        "max-waiting-bytes",
        whole(1, 2**40),
        f"{routing.max_waiting_bytes}",
        "BYTES",
        "size of waiting requests in bytes above which new calls are refused",
    )
    add(
        "max-infer-bytes",
        whole(1024, 2**30),
        f"{MAX_INFER_BYTES}",
        "BYTES",
        "maximum size of a ModelInfer request in bytes",
    )
    add("max-batch", whole(1, 4096), f"{batching.max_batch}", "N", "maximum number of calls in one batch")
    add(
        "max-in-flight",
        whole(1, 64),
        f"{batching.max_in_flight}",
        "N",
        "maximum number of batches in flight to one replica",
    )
    add(
        "eject-after",
        whole(1, 1_000_000),
        f"{ejection.consecutive_failures}",
        "N",
        "failures in a row that eject a replica",
    )
    add(
        "eject-seconds",
        real(0.01, 3600),
        f"{ejection.base_seconds:g}",
        "SECONDS",
        "duration of the first ejection; it doubles, up to 8 times this",
    )
    add(
        "slow-start",
        real(0, 3600),
        f"{SLOW_START_SECONDS:g}",
        "SECONDS",
        "time until a new or readmitted replica gets its full share; 0: at once",
    )
    flags.switch("detect-only", "count ejections that are due, but eject no replica")
