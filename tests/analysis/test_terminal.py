"""What commands print on a terminal: every figure that a pipe gets, whole, on one line, beside what it belongs to."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.report.render import interval_text, percent_text, rendered, value_text
from abfleet_analysis.report.report import Report
from abfleet_experiments.file.load import load_text
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table

from abfleet.commands.fitting import fitted, folded
from abfleet.up.status_view import StatusWindow, screen
from tests.analysis.log_lines import DAY, START, LogLines
from tests.dashboard.made import made_report, renamed, router_status

REPOSITORY = Path(__file__).resolve().parents[2]
WIDTHS = (40, 60, 80, 120, 160)
FIGURE = re.compile(r"(?<![\w.+-])[+-]?\d[\d.,]*(?:e[+-]?\d+)?(?: ?%)?(?!\w)")
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


def long(name: str) -> str:
    """As long as a name may be."""
    return (name + "-" + "abcdefghij" * 6)[:64]


def figures(text: str) -> Counter[str]:
    return Counter(found.rstrip(".,") for found in FIGURE.findall(text))


def shown(what: RenderableType, width: int, *, terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, highlight=False)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def whole(printed: str, reference: str, width: int) -> None:
    """AssertionError where a figure of the reference is lost or broken, or a line is longer than the terminal."""
    wanted, found = figures(reference), figures(printed)
    assert wanted - found == Counter()
    assert set(found) <= set(wanted), "a part of a figure, or one that is not there"
    assert "…" not in printed
    assert [line for line in printed.splitlines() if cell_len(line) > width] == []


def on_terminal(arguments: Sequence[str], width: int, **more: str) -> str:
    """What a command prints on a terminal of so many columns, without its control sequences. more: Variables."""
    return CONTROLS.sub("", raw_on_terminal(arguments, width, **more))


def raw_on_terminal(arguments: Sequence[str], width: int, **more: str) -> str:
    """The same with its control sequences."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-c", "from abfleet.cli import main; main()", *arguments]
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**environment, "TERM": "xterm-256color", **more},
        cwd=REPOSITORY,
    ) as process:
        os.close(theirs)
        parts = []
        while part := _read(ours):
            parts.append(part)
        os.close(ours)
    assert process.returncode == 0
    return b"".join(parts).decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the command has closed it
        return b""


def log_of(folder: Path, groups: Sequence[str]) -> Path:
    """A log and its experiments file: long names, money in millions, and few enough users for wide intervals."""
    log = LogLines()
    for number in range(240):
        index = number % len(groups)
        at = START + DAY * number / 60
        request = log.exposure(
            f"u{number}",
            groups[index],
            at,
            experiment="search",
            propensity=1 / len(groups),
            bucket=number,
            model_version="v1",
            status="UNAVAILABLE" if number % 17 == 0 else "OK",
        )
        if number % 7 < 3 + index % 2:
            log.outcome("purchase", f"u{number}", request, at + timedelta(seconds=9), value=1234567.89 * (number % 13))
            log.outcome("conversion", f"u{number}", request, at)
    rows = "".join(
        f"      - {{name: {name}, model: v1, weight: {100 / len(groups):.2f}, control: {str(not index).lower()}}}\n"
        for index, name in enumerate(groups)
    )
    rows = rows.replace("33.33", "33.34", 1) if len(groups) == 3 else rows
    (folder / "experiments.yaml").write_text(
        'version: 1\ndefault: v1\nmodels:\n  v1: {target: "127.0.0.1:1"}\nexperiments:\n  - name: search\n'
        f"    groups:\n{rows}    metrics: {{primary: conversion_rate, guardrails: [error_rate], secondary: "
        f"[revenue_per_user, {long('money')}]}}\nmetrics:\n  {long('money')}: {{type: mean, outcome: purchase}}\n"
    )
    return log.write(folder)


@pytest.fixture(scope="module", params=[3, 5], ids=["3 groups", "5 groups"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = [long(name) for name in ("control", "first", "second", "third", "fourth")[: request.param]]
    return log_of(tmp_path_factory.mktemp("terminal"), names)


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return analyse([folder], load_text((folder / "experiments.yaml").read_text()))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_report_keeps_its_figures_at_every_width(report: Report, width: int) -> None:
    """With names of 64 characters and money in millions; and with short names, where more of it is a table."""
    short = {long(name): name for name in ("control", "first", "second", "third", "fourth", "money")}
    for one in (report, renamed(report, short), made_report()):
        reference = shown(rendered(one), 10_000, terminal=False)
        assert sum(figures(reference).values()) > 50
        whole(shown(fitted(rendered(one)), width), reference, width)


def test_the_command_on_a_terminal_prints_what_it_prints_into_a_pipe(folder: Path) -> None:
    """The real command at 60 or 80 columns; a pipe gets every figure too."""
    arguments = ["analyze", "--logs", str(folder), "--experiments", str(folder / "experiments.yaml")]
    command = [sys.executable, "-c", "from abfleet.cli import main; main()", *arguments]
    piped = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=REPOSITORY).stdout
    config = load_text((folder / "experiments.yaml").read_text())
    report = analyse([folder], config)
    whole(piped, shown(rendered(report), 10_000, terminal=False), 10_000)
    lines = piped.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    reasons = report.experiments[0].decision.reasons
    assert max(map(len, reasons)) > 160
    assert all(f"  - {reason}" in lines for reason in reasons), "one line for each sentence"
    width = 60 if len(config.experiments[0].groups) == 3 else 80
    whole(on_terminal(arguments, width), piped, width)


def test_a_block_says_what_each_value_is(report: Report) -> None:
    """A metric, and below it each value beside its name, in the order of the table."""
    printed = "".join(shown(fitted(rendered(report)), 60).split())
    experiment = report.experiments[0]
    for group in experiment.decision.groups:
        for metric in group.metrics:
            block = (
                f"{metric.rule.name} {metric.rule.role} {experiment.gathered.evidence.groups[0]} "
                f"{value_text(metric.baseline_value)} {group.group} {value_text(metric.value)} "
                f"change {percent_text(metric.relative_difference)} 95 %, always "
                f"{interval_text(metric.relative_sequential_interval)} this look alone "
                f"{interval_text(metric.relative_interval)}"
            )
            assert "".join(block.split()) in printed


def test_in_a_pipe_nothing_is_otherwise() -> None:
    """Where there is room, a report is byte for byte what it was."""
    report = made_report()
    plain = shown(rendered(report), 160, terminal=False)
    assert shown(fitted(rendered(report)), 160, terminal=False) == plain


@pytest.mark.parametrize("width", WIDTHS)
def test_status_keeps_its_figures(width: int) -> None:
    """Groups and versions of a router; at less than 80 columns as blocks."""
    looks = StatusWindow()
    looks.add(router_status())
    rates = looks.rates()
    assert rates is not None
    whole(shown(fitted(screen(router_status(), rates)), width), shown(screen(router_status(), rates), 400), width)


@pytest.fixture(scope="module")
def small_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of a few users, an experiments file and an edit of it."""
    folder = tmp_path_factory.mktemp("small")
    log_of(folder, ("control", "treatment"))
    text = (folder / "experiments.yaml").read_text()
    (folder / "edited.yaml").write_text(text.replace("weight: 50.00", "weight: 40", 1).replace("50.00", "60", 1))
    return folder


COMMANDS = (
    ["models", "list"],
    ["power", "--baseline", "0.05", "--effect", "0.1", "--users-per-day", "5571"],
    ["explain", "user-1", "--at", "2026-11-08T00:00:00Z"],
    ["plan", "{folder}/experiments.yaml", "{folder}/edited.yaml", "--at", "2026-11-08T00:00:00Z"],
    ["logs", "check", "--logs", "{folder}"],
    ["logs", "user", "u7", "--logs", "{folder}"],
    ["logs", "tail", "--no-follow", "--logs", "{folder}"],
    ["simulate", "no-effect", "--runs", "1"],
)
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("arguments", "width", "more"),
    [
        *((arguments, 60, ASCII) for arguments in COMMANDS),
        (COMMANDS[0], 80, {"NO_COLOR": "1"}),
        (COMMANDS[0], 120, {}),
        (COMMANDS[3], 80, {}),
    ],
)
def test_other_commands_keep_their_figures(
    arguments: list[str], width: int, more: dict[str, str], small_log: Path
) -> None:
    """Tables and sentences of real commands on a terminal, without the colours and letters that it does not take."""
    arguments = [word.format(folder=small_log) for word in arguments]
    command = [sys.executable, "-c", "from abfleet.cli import main; main()", *arguments]
    piped = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60, cwd=REPOSITORY, env=os.environ | more
    ).stdout
    raw = raw_on_terminal(arguments, width, **more)
    assert not ("NO_COLOR" in more and re.search(r"\x1b\[[0-9;]*3[0-7]", raw))
    assert raw.isascii() or "LC_ALL" not in more
    whole(CONTROLS.sub("", raw).replace("@10", ""), piped, width)


# --- layouts ---------------------------------------------------------------------------------------------------------


WORDS = st.lists(
    st.sampled_from(["1,234,567", "-12.5%", "+3.4%", "95 %", "1.2 MB", "word", "words-with-hyphens", "\u4e2d\u6587"]),
    max_size=12,
).map(" ".join)


@given(WORDS, st.integers(14, 90))
def test_folded_lines_keep_figures_with_their_units(line: str, width: int) -> None:
    """No line is longer than the terminal, no figure is broken, and nothing is added or lost but spaces."""
    parts = folded("  " + line, width)
    assert all(cell_len(part) <= width for part in parts)
    assert "".join(parts).replace(" ", "") == line.replace(" ", "")
    assert figures("\n".join(parts)) == figures(line)


@given(st.lists(st.tuples(WORDS, WORDS, st.floats(-1e12, 1e12)), min_size=1, max_size=4), st.integers(30, 200))
def test_any_table_keeps_its_figures(rows: list[tuple[str, str, float]], width: int) -> None:
    """Whatever its cells are."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", overflow="fold")
    table.add_column("words", overflow="fold")
    table.add_column("value", justify="right", overflow="fold")
    for name, words, value in rows:
        table.add_row(name, words, f"{value:,.2f}")
    printed = shown(fitted(table), width)
    wanted = figures(" \n".join(f"{name}\n{words}\n{value:,.2f}" for name, words, value in rows))
    assert wanted - figures(printed) == Counter()
    assert all(cell_len(line) <= width for line in printed.splitlines())


@pytest.mark.parametrize("width", [1, 2, 5, 10, 20])
def test_no_terminal_is_too_narrow(width: int) -> None:
    """Nothing is raised, and from 20 columns on nothing is broken."""
    report = made_report()
    printed = shown(fitted(rendered(report)), width)
    if width >= 20:
        assert figures(shown(rendered(report), 10_000, terminal=False)) - figures(printed) == Counter()
