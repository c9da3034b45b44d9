"""`abfleet analyze --watch` and `--notify-…` as people run them: a process, a log that grows, a receiver that fails."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from abfleet.cli import app
from abfleet.commands import watch
from tests.analysis.log_lines import DAY, START, LogLines, file_text
from tests.support.fleet import wait_until
from tests.support.receiver import Receiver
from tests.support.up import without_flags

pytestmark = pytest.mark.system


def grow(folder: Path, first_day: int, days: int, *, clicked: bool) -> None:
    """Users of some days in a file of their own; with `clicked`, the treatment's convert far more often."""
    log = LogLines()
    for day in range(first_day, first_day + days):
        for index in range(200):
            group, user = ("control", "treatment")[index % 2], f"u{day}-{index}"
            at = START + DAY * day + timedelta(seconds=index)
            request = log.exposure(user, group, at, request_id=f"r{day}-{index}")
            often = 21 if clicked and group == "treatment" else 15
            if index // 2 % 50 < often:
                log.outcome("conversion", user, request, at, outcome_id=f"o{day}-{index}")
    log.write(folder, f"decisions-{first_day}.jsonl")


def command(folder: Path, *flags: str) -> list[str]:
    file = folder / "experiments.yaml"
    file.write_text(file_text("conversion_rate"))
    words = ("--logs", str(folder / "logs"), "--experiments", str(file), "--notify-state", str(folder / "state.json"))
    return [sys.executable, "-m", "abfleet", "analyze", *words, *flags]


def environment() -> dict[str, str]:
    return {**without_flags(), "no_proxy": "127.0.0.1", "TERM": "xterm"}


@contextmanager
def watching(folder: Path, *flags: str) -> "Iterator[tuple[subprocess.Popen[bytes], Path]]":
    """A process that watches, and the file that its standard output goes to. Ctrl-C must end it with 0."""
    out = folder / "out"
    with out.open("wb") as stdout, (folder / "err").open("wb") as stderr:
        process = subprocess.Popen(
            command(folder, "--watch", "--every", "0.2", *flags), stdout=stdout, stderr=stderr, env=environment()
        )
    try:
        yield process, out
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, (folder / "err").read_text()
    finally:
        process.kill()
        process.wait()


def invoked(folder: Path, *flags: str) -> Result:
    """The same without a process of its own."""
    return CliRunner().invoke(app, command(folder, *flags)[3:])


def verdicts(bodies: Sequence[bytes]) -> list[str]:
    return [json.loads(body)["verdict"] for body in bodies]


def test_a_change_is_told_once_to_everybody(tmp_path: Path) -> None:
    """It starts before there is a log, says when it is there, and tells of the change: a line in a pipe, a request that
    fails twice first, and a program. Ctrl-C ends it, and what runs next tells nothing anew."""
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef\n")
    told = tmp_path / "told"
    program = f"{sys.executable} -c \"import sys; open('{told}', 'a').write(sys.stdin.read() + chr(10))\""
    logs = tmp_path / "logs"
    with Receiver([500, 503]) as receiver:
        flags = ("--notify-url", receiver.url, "--notify-secret-file", str(secret), "--notify-command", program)
        with watching(tmp_path, *flags) as (_, out):
            wait_until(
                lambda: "--logs" in (tmp_path / "err").read_text(), "a word about the log that is not there", 120
            )
            logs.mkdir()
            grow(logs, 0, 1, clicked=True)
            wait_until(lambda: "KEEP RUNNING" in out.read_text(), "a line about the first report", 120)
            grow(logs, 1, 11, clicked=True)
            wait_until(lambda: "keep_running → ship treatment" in out.read_text(), "the change in the pipe", 120)
            wait_until(lambda: receiver.taken and told.exists(), "the change at both receivers", 120)
        again = invoked(tmp_path, *flags)
        assert again.exit_code == 0, again.stderr
    assert len(receiver.asked) == 3
    assert "--notify-url: the receiver answered HTTP 500; trying again in 1 s" in (tmp_path / "err").read_text()
    assert verdicts(receiver.taken) == ["ship"]
    assert verdicts(told.read_bytes().splitlines()) == ["ship"]
    assert receiver.headers[0]["X-Abfleet-Signature"].startswith("sha256=")
    assert len(out.read_text().splitlines()) == 2, out.read_text()


def test_a_terminal_shows_the_report_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    """On a terminal the report itself is there, and after Ctrl-C the exit code is 0 without a traceback."""
    (tmp_path / "logs").mkdir()
    grow(tmp_path / "logs", 0, 2, clicked=False)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(tmp_path, "--watch", "--every", "0.2"), stdout=theirs, stderr=theirs, env=environment()
    )
    os.close(theirs)
    shown = b""
    try:
        while b"KEEP RUNNING" not in shown:
            shown += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, shown.decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"Traceback" not in shown


def test_without_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run, as cron starts it: dry it prints the request and sends nothing; what nobody takes makes it exit 1 and is
    sent by the next run; --fail-on ends a watch with 3 when the verdict is there."""
    monkeypatch.setattr(watch, "TRIES", 1)
    (tmp_path / "logs").mkdir()
    grow(tmp_path / "logs", 0, 12, clicked=True)
    dry = invoked(tmp_path, "--notify-url", "http://127.0.0.1:1/x", "--notify-dry-run")
    assert "POST http://127.0.0.1:1/x" in dry.stdout
    assert '"verdict":"ship"' in dry.stdout
    assert not (tmp_path / "state.json").exists()
    failed = invoked(tmp_path, "--notify-command", "false")
    assert failed.exit_code == 1
    assert "undelivered notifications: 1; the next run sends them" in failed.stderr
    told = tmp_path / "told"
    sent = invoked(tmp_path, "--notify-command", f"tee {told}", "--watch", "--json", "--fail-on", "ship")
    assert sent.exit_code == 3, sent.stderr
    assert json.loads(told.read_text()) == json.loads(sent.stdout)


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--notify-dry-run",), "need --notify-url or --notify-command"),
        (("--notify-url", "ftp://x"), "it must begin with http"),
        (("--notify-url", "http://x", "--notify-secret-file", "/nowhere"), "--notify-secret-file: /nowhere"),
        (("--watch", "--as-of", "2026-11-03T12:00:00Z"), "--as-of: cannot be combined with --watch"),
    ],
)
def test_mistakes(tmp_path: Path, flags: tuple[str, ...], told: str) -> None:
    """One line and exit code 2, before the log is read."""
    result = invoked(tmp_path, *flags)
    assert result.exit_code == 2
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
