"""Flags that several of the fleet's servers have, each with one default and one text."""

from pathlib import Path
from typing import get_args

from abfleet_process.addresses import EXPERIMENTS_FILE
from abfleet_process.flags import Flags, port_or_off, real, text
from abfleet_process.log_levels import LOG_LEVELS, LogFormat


def add_fleet(flags: Flags, experiments_help: str) -> None:
    """The experiments file and the fleet file over it."""
    flags.add("experiments", Path, EXPERIMENTS_FILE, "FILE", experiments_help)
    flags.add("fleet", str, "", "FILE", "fleet file; its targets replace those of the experiments file")


def add_metrics(flags: Flags, port: str) -> None:
    """Where /metrics is."""
    flags.add("metrics-host", text, "127.0.0.1", "HOST", "host to serve /metrics on")
    flags.add("metrics-port", port_or_off, port, "PORT", "port of /metrics; 0: any free one; off: none")


def add_logging(flags: Flags) -> None:
    """What is written to stderr."""
    flags.choice("log-level", LOG_LEVELS, "info", "lowest severity that is logged to stderr")
    flags.choice(
        "log-format",
        get_args(LogFormat),
        "auto",
        "format of the operational log; auto: text on a terminal, else JSON lines",
    )


def add_drain(flags: Flags) -> None:
    """How a server of calls ends."""
    seconds = real(0, 3600)
    flags.add("drain-delay", seconds, "0", "SECONDS", "time after SIGTERM in which new calls are still answered")
    flags.add("drain-timeout", seconds, "4", "SECONDS", "time after that for running calls to finish")
