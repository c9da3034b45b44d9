"""Every flag of the autopilot, with its default."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from abfleet_process import server_flags
from abfleet_process.flags import Flags, SettingsError, real, whole
from abfleet_process.log_levels import LogFormat

STATE_NAME: Final = "notifications.json"
LEAST_MEMORY: Final = 64 * 1024 * 1024
MOST_ROUTERS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AutopilotSettings:
    """The flags of one autopilot process, parsed."""

    experiments: Path
    fleet: Path | None
    logs: Path
    actions: Path
    routers: int
    """How many must write before traffic climbs; 0: whichever write."""
    once: bool
    dry_run: bool
    apply_command: str | None
    every_seconds: float = 0.25
    memory_limit_bytes: int = 2**30
    notify_url: str | None = None
    notify_command: str | None = None
    notify_secret_file: Path | None = None
    notify_state: Path | None = None
    """What was notified of; None: a file in the folder of actions."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    log_level: str = "info"
    log_format: LogFormat = "auto"


def declared(environment: Mapping[str, str] = os.environ) -> Flags:
    """All flags, with the defaults that the environment gives. Raises SettingsError."""
    flags = Flags(
        "abfleet autopilot",
        "Halt what harms users and raise traffic by evidence, in the experiments file, as its `autopilot` keys allow.",
        "abfleet autopilot --logs logs --experiments experiments/recommender.yaml",
        environment,
    )
    add = flags.add
    flags.group("What it follows, and what it changes")
    server_flags.add_fleet(flags, "the experiments file, followed and edited")
    add("logs", Path, "logs", "DIR", "folder of the decision log of all routers")
    add("actions", str, "", "DIR", "folder of what it has done; empty: that of the log")
    add("routers", whole(0, MOST_ROUTERS), "0", "N", "traffic climbs only while so many routers write; 0: any number")
    add(
        "apply-command", str, "", "CMD", "gets the new file on stdin and a sentence, where the file is not to be edited"
    )
    flags.switch("once", "read what there is, do what it asks for, and end")
    flags.switch("dry-run", "say what would be done, and do nothing")
    flags.group("Whom it notifies of what it does")
    add("notify-url", str, "", "URL", "POST each act to this URL as JSON, and retry until it is accepted")
    add("notify-command", str, "", "COMMAND", "run this program for each act, with the JSON on stdin; no shell")
    add("notify-secret-file", str, "", "FILE", "the secret that signs notifications (HMAC-SHA256)")
    add("notify-state", str, "", "FILE", f"what was notified of; empty: {STATE_NAME} in the folder of actions")
    flags.group("How it works")
    add("every", real(0.05, 60), "0.25", "SECONDS", "time between polls of log and file")
    add("memory-limit", whole(LEAST_MEMORY, 2**50), f"{2**30}", "BYTES", "of reports; what needs more goes to disk")
    server_flags.add_metrics(flags, "off")
    server_flags.add_logging(flags)
    return flags


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> AutopilotSettings:
    """Reads flags and environment. Raises SettingsError; `--help` raises SystemExit(0) as argparse does."""
    got = declared(environment).parse(arguments)
    if not got.logs.is_dir():
        raise SettingsError(f"--logs (ABFLEET_LOGS): {str(got.logs)[:64]!r} is not a folder")
    return AutopilotSettings(
        experiments=got.experiments,
        fleet=Path(got.fleet) if got.fleet else None,
        logs=got.logs,
        actions=Path(got.actions) if got.actions else got.logs,
        routers=got.routers,
        once=got.once,
        dry_run=got.dry_run,
        apply_command=got.apply_command or None,
        every_seconds=got.every,
        memory_limit_bytes=got.memory_limit,
        notify_url=got.notify_url or None,
        notify_command=got.notify_command or None,
        notify_secret_file=Path(got.notify_secret_file) if got.notify_secret_file else None,
        notify_state=Path(got.notify_state) if got.notify_state else None,
        metrics_host=got.metrics_host,
        metrics_port=got.metrics_port,
        log_level=got.log_level,
        log_format=cast(LogFormat, got.log_format),
    )
