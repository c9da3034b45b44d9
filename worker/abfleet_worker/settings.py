"""What a worker is told: flags before environment before defaults. Knows names and ranges; opens nothing."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from abfleet_transport.server import Transport

from abfleet_worker.errors import SettingsError

LogLevel = Literal["debug", "info", "warning", "error"]
ENVIRONMENT_PREFIX = "ABFLEET_"
EXAMPLE = """example:
  python -m abfleet_worker --registry models --version production --listen 127.0.0.1:50061
Every flag --a-b may also be given as the environment variable ABFLEET_A_B; the flag wins."""
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that can be set."""

    registry: Path
    version: str
    """A version of the registry, or an alias such as `production`."""
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
    max_message_bytes: int
    drain_delay_seconds: float
    drain_timeout_seconds: float
    log_level: LogLevel


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Reads flags and environment. Raises SettingsError; `--help` raises SystemExit(0) as argparse does."""
    parser = _Parser(
        prog="abfleet_worker",
        description="Serves one ONNX model of a registry over gRPC.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _Flags(parser, environment).add_all()
    values = parser.parse_args(arguments)
    return Settings(
        registry=values.registry,
        version=values.version,
        listen=values.listen,
        metrics_host=values.metrics_host,
        metrics_port=values.metrics_port,
        transport=cast(Transport, values.transport),
        intra_op_threads=values.intra_op_threads,
        spinning=values.spinning,
        max_batch=values.max_batch,
        max_message_bytes=values.max_message_bytes,
        drain_delay_seconds=values.drain_delay,
        drain_timeout_seconds=values.drain_timeout,
        log_level=cast(LogLevel, values.log_level),
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise SettingsError(message)


class _Flags:
    """Adds each flag with its environment variable as the default, so that both go through the same check."""

    def __init__(self, parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
        self._parser = parser
        self._environment = environment

    def add_all(self) -> None:
        self._add("registry", Path, "models", "DIR", "folder of the model registry")
        self._add("version", _text, "production", "NAME", "version or alias (production, staging) to serve")
        self._add(
            "listen", _address, "127.0.0.1:50061", "HOST:PORT", "where to serve gRPC; port 0: any free one; unix:PATH"
        )
        self._add("metrics-host", _text, "127.0.0.1", "HOST", "where to serve /metrics")
        self._add("metrics-port", _port_or_off, "8001", "PORT", "port of /metrics; 0: any free one; off: none")
        self._choice("transport", get_args(Transport), "auto", "auto is native where it is installed")
        self._add("intra-op-threads", _whole(1, 256), "1", "N", "threads of ONNX Runtime in a run")
        self._switch("spinning", "let waiting threads of ONNX Runtime spin; takes CPU from the neighbours")
        self._add("max-batch", _whole(1, 4096), "128", "N", "most requests in one run of the model")
        self._add(
            "max-message-bytes",
            _whole(1024, 2**30),
            str(64 * 1024 * 1024),
            "BYTES",
            "largest message that is taken; a router's batch carries up to 64 MiB",
        )
        self._add("drain-delay", _seconds, "0", "SECONDS", "go on answering so long after SIGTERM")
        self._add("drain-timeout", _seconds, "4", "SECONDS", "then wait so long for running calls")
        self._choice("log-level", get_args(LogLevel), "info", "least severity of what is logged on stderr")

    def _default(self, name: str, default: str) -> str:
        return self._environment.get(variable(name), default)

    def _add(self, name: str, read: Callable[[str], Any], default: str, metavar: str, text: str) -> None:
        self._parser.add_argument(
            f"--{name}",
            type=_named(name, read),
            default=self._default(name, default),
            metavar=metavar,
            help=f"{text} [{default}]",
        )

    def _choice(self, name: str, allowed: Sequence[str], default: str, text: str) -> None:
        self._add(name, _one_of(allowed), default, "|".join(allowed), text)

    def _switch(self, name: str, text: str) -> None:
        value = self._default(name, "off").lower()
        if value not in (*_TRUE, *_FALSE):
            raise SettingsError(f"{variable(name)}: {value[:64]!r} is not allowed; allowed are on and off")
        self._parser.add_argument(
            f"--{name}", action=argparse.BooleanOptionalAction, default=value in _TRUE, help=f"{text} [off]"
        )


def variable(flag: str) -> str:
    """The environment variable of a flag: `max-batch` is ABFLEET_MAX_BATCH."""
    return ENVIRONMENT_PREFIX + flag.upper().replace("-", "_")


def _named(name: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Makes argparse tell flag, value and what is allowed, whether the value came from the flag or the environment."""

    def read_named(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise SettingsError(f"--{name} ({variable(name)}): {text[:64]!r} is not allowed; {error}") from error

    return read_named


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("it must not be empty")
    return text


def _one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"allowed are {', '.join(allowed)}")
        return text

    return read


def _address(text: str) -> str:
    host, separator, port = text.rpartition(":")
    if text.startswith("unix:") and len(text) > len("unix:"):
        return text
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("allowed are HOST:PORT with a port from 0 to 65535, and unix:PATH")
    return text


def _port_or_off(text: str) -> int | None:
    if text == "off":
        return None
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError("allowed are 0 to 65535, and off")
    return int(text)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"allowed are whole numbers from {low} to {high}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise ValueError("allowed are seconds from 0 to 3600")
    return value
