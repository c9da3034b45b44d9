"""The operational log: form, level, what is bound, and that repeats are left out and counted."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from abfleet_process.operational_log import BURST, LEFT_OUT, WINDOW_SECONDS, OperationalLog, configure_logs

Line = dict[str, Any]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """structlog and logging belong to the whole process: they are put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


class Said:
    """A log into memory."""

    def __init__(self, level: str = "info", clock: Clock | None = None) -> None:
        self.stream = io.StringIO()
        self.operations = configure_logs(level, "json", self.stream)
        if clock is not None:
            self.operations._repeats.clock = clock
        self.log = structlog.get_logger("abfleet.test")

    @property
    def lines(self) -> list[Line]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]


def test_a_line_is_json_with_time_and_level() -> None:
    """Elsewhere than on a terminal each line is one JSON object; an exception is a member of it."""
    said = Said()
    said.log.warning("replica leaves", address="a:1")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        said.log.exception("broken")
    first, second = said.lines
    assert (first["event"], first["level"], first["address"]) == ("replica leaves", "warning", "a:1")
    assert first["timestamp"].endswith("Z")
    assert "ValueError: two\nlines" in second["exception"]


def test_console_is_for_people() -> None:
    """--log-format console gives text even where there is no terminal, and auto gives JSON there."""
    for log_format, is_json in (("console", False), ("auto", True), ("json", True)):
        stream = io.StringIO()
        configure_logs("info", log_format, stream)  # type: ignore[arg-type]
        structlog.get_logger("abfleet.test").info("hello", of="you")
        assert stream.getvalue().startswith("{") == is_json
        assert "hello" in stream.getvalue()


def test_the_level_changes_while_it_runs() -> None:
    """What was below the level is written once the level is lower, and no more when it is back."""
    said = Said("warning")
    said.log.info("one")
    assert said.operations.set_level("debug") == "warning"
    said.log.debug("two")
    assert said.operations.set_level("") == "debug"
    said.log.info("three")
    said.log.error("four")
    assert said.events == ["log level changed", "two", "log level changed", "four"]
    with pytest.raises(ValueError, match="'loud' is not allowed; allowed: debug, info, warning, error"):
        said.operations.set_level("loud")


def test_what_is_bound_is_in_every_line() -> None:
    """A bound member is in the lines that follow, unless a line has a value of its own."""
    said = Said()
    said.operations.bind(config_revision="abc")
    said.log.info("one")
    said.log.info("two", config_revision="def")
    said.operations.bind(config_revision="ghi")
    said.log.info("three")
    assert [line["config_revision"] for line in said.lines] == ["abc", "def", "ghi"]


def test_repeats_are_left_out_and_counted() -> None:
    """Of lines alike a few pass in a window; the others are counted, and the count is said when the window is over."""
    clock = Clock()
    said = Said(clock=clock)
    for _ in range(100):
        said.log.error("worker sent an invalid answer", address="a:1", calls=3)
    said.log.error("worker sent an invalid answer", address="b:1", calls=3)
    assert len(said.lines) == BURST + 1
    clock.now = WINDOW_SECONDS
    said.log.info("something else")
    *_, left_out, other = said.lines
    assert (left_out["event"], left_out["of"], left_out["count"]) == (LEFT_OUT, "worker sent an invalid answer", 95)
    assert (left_out["address"], other["event"]) == ("a:1", "something else")
    said.log.error("worker sent an invalid answer", address="a:1", calls=3)
    assert said.events[-1] == "worker sent an invalid answer"


def test_what_is_left_out_is_said_at_the_end() -> None:
    """When the process ends within the window, the count is still said."""
    said = Said()
    for _ in range(20):
        said.log.warning("again")
    said.operations.close()
    assert said.events == ["again"] * BURST + [LEFT_OUT]
    assert said.lines[-1]["count"] == 20 - BURST


def test_debug_is_complete() -> None:
    """Who asks for debug gets every line."""
    said = Said("debug")
    for _ in range(50):
        said.log.debug("batch failed", address="a:1")
    assert len(said.lines) == 50


def test_memory_is_bounded() -> None:
    """A thousand different matters do not fill the memory, and nothing is lost from the counts."""
    clock = Clock()
    said = Said(clock=clock)
    for number in range(1000):
        for _ in range(BURST + 1):
            said.log.warning("odd", address=f"a:{number}")
    assert len(said.operations._repeats._windows) <= 257
    said.operations.close()
    assert sum(line["count"] if line["event"] == LEFT_OUT else 1 for line in said.lines) == 1000 * (BURST + 1)


def test_other_libraries_lines_have_the_same_form() -> None:
    """What asyncio and grpc log through the standard library is a JSON line too, with its logger's name."""
    said = Said()
    logging.getLogger("asyncio").error("Task exception was never %s", "retrieved")
    logging.getLogger("asyncio").info("below warning")
    (line,) = said.lines
    assert (line["event"], line["logger"], line["level"]) == ("Task exception was never retrieved", "asyncio", "error")


def test_an_unattached_log_changes_nothing_else() -> None:
    """A log that structlog was not configured with can be asked and set."""
    log = OperationalLog("error")
    log.set_level("debug")
    assert (log.level, log.initial_level) == ("debug", "error")
