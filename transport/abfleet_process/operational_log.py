"""What a process logs about its own operation, on stderr: form, level and repeats. The decision log is another.

structlog is configured for the whole process, so there is one of these in a process. Never on the path of a call.
"""

import asyncio
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from abfleet_process.log_levels import LOG_LEVELS, LogFormat

NUMBERS = {name: getattr(logging, name.upper()) for name in LOG_LEVELS} | {"critical": logging.CRITICAL}
BURST = 5
"""Lines alike that are let through in a window: enough to see that it is more than one."""
WINDOW_SECONDS = 10.0
MAX_KEYS = 256
IDENTIFYING = ("address", "version", "alias", "endpoint", "path")
"""Fields that say what a line is about: a line about another replica is no repeat."""
LEFT_OUT = "repeated lines were left out"


@dataclass(slots=True)
class _Window:
    begun: float
    let_through: int = 0
    left_out: int = 0


@dataclass(slots=True)
class Repeats:
    """Lets so many lines alike through in a window, and counts the others. May be used from any thread."""

    clock: Callable[[], float] = time.monotonic
    _windows: dict[tuple[str, ...], _Window] = field(default_factory=dict)  # changed only under `_lock`
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def admit(self, key: tuple[str, ...]) -> bool:
        """Whether a line with this key may be written now."""
        now = self.clock()
        with self._lock:
            window = self._windows.setdefault(key, _Window(now))
            if window.let_through < BURST:
                window.let_through += 1
                return True
            window.left_out += 1
            return False

    def over(self, *, closing: bool = False) -> Iterator[tuple[tuple[str, ...], int]]:
        """Forgets the windows that are over (when closing, or when there are too many, all): each key of which lines
        were left out, with their number."""
        now = self.clock()
        with self._lock:
            every = closing or len(self._windows) >= MAX_KEYS
            ended = [key for key, one in self._windows.items() if every or now - one.begun >= WINDOW_SECONDS]
            counted = [(key, self._windows.pop(key).left_out) for key in ended]
        yield from ((key, count) for key, count in counted if count)


class OperationalLog:
    """The log of this process: `level` and `bound` may change while it runs, on the event loop."""

    def __init__(self, level: str = "info", repeats: Repeats | None = None) -> None:
        self.initial_level = level
        """The level that the process was started with."""
        self._level = level  # changed only by set_level
        self._repeats = repeats or Repeats()
        self._bound: dict[str, object] = {}  # changed only by bind

    @property
    def level(self) -> str:
        """The least severity that is written, one of LOG_LEVELS."""
        return self._level

    def set_level(self, level: str) -> str:
        """From now on this is the least severity; "" is the level that the process was started with. Gives the old one.

        Raises ValueError with what is allowed.
        """
        if level and level not in LOG_LEVELS:
            raise ValueError(
                f"level: {level[:64]!r} is not allowed; allowed: {', '.join(LOG_LEVELS)}, and the empty one"
            )
        was, self._level = self._level, level or self.initial_level
        if was != self._level:
            structlog.get_logger("abfleet").warning("log level changed", was=was, now=self._level)
        return was

    def bind(self, **facts: object) -> None:
        """Fields that every line has from now on."""
        self._bound |= facts

    def follow_signals(self) -> None:
        """SIGUSR1 makes it debug, SIGUSR2 what the process was started with; on the running event loop."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: self.set_level("debug"))
        loop.add_signal_handler(signal.SIGUSR2, lambda: self.set_level(""))

    def close(self) -> None:
        """Logs how many lines were left out since that was last logged."""
        self._say_left_out(closing=True)

    def sift(self, _logger: object, method: str, event: EventDict) -> EventDict:
        """A structlog processor: drops what is below the level, and repeats; adds what is bound."""
        if NUMBERS.get(method, logging.ERROR) < NUMBERS[self._level]:
            raise structlog.DropEvent
        if event["event"] != LEFT_OUT and method != "debug":  # who asks for debug wants all of it
            self._say_left_out()
            if not self._repeats.admit(key_of(method, event)):
                raise structlog.DropEvent
        for name, value in self._bound.items():
            event.setdefault(name, value)
        return event

    def _say_left_out(self, *, closing: bool = False) -> None:
        for (_, of, *which), count in self._repeats.over(closing=closing):
            members = {name: value for name, value in zip(IDENTIFYING, which, strict=True) if value}
            structlog.get_logger("abfleet").warning(LEFT_OUT, of=of, count=count, **members)


def key_of(method: str, event: Mapping[str, Any]) -> tuple[str, ...]:
    """What makes two lines alike: severity, text, and what they are about."""
    return (method, str(event["event"]), *(str(event.get(name, "")) for name in IDENTIFYING))


class _LibraryLogs(logging.Handler):
    """What libraries log (asyncio, grpc) becomes lines of ours, so that every line of stderr has one form."""

    def emit(self, record: logging.LogRecord) -> None:
        method = record.levelname.lower() if record.levelname.lower() in NUMBERS else "warning"
        say = getattr(structlog.get_logger("abfleet"), method)
        say(record.getMessage(), logger=record.name, exc_info=record.exc_info or None)


def configure_logs(level: str, log_format: LogFormat = "auto", stream: TextIO | None = None) -> OperationalLog:
    """Sends the whole process' log to stderr (stdout has the ready line alone). `auto`: for people on a terminal, as
    JSON lines elsewhere."""
    stream = sys.stderr if stream is None else stream
    log = OperationalLog(level)
    console = log_format == "console" or (log_format == "auto" and stream.isatty())
    render: list[Processor] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    if console:
        render = [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    structlog.configure(
        processors=[
            log.sift,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),  # `sift` knows the level in force
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_LibraryLogs()], level=logging.WARNING, force=True)
    return log
