"""Notifications of acts: each once, again until it is taken, over restarts, among several autopilots; none blocks."""

import dataclasses
import json
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from abfleet_autopilot import app
from abfleet_autopilot.notifying import ActNotifier
from abfleet_autopilot.settings import AutopilotSettings, parse
from abfleet_log.tools.actions import read_actions
from abfleet_process.notify.receivers import NotifyError, UrlReceiver

from tests.autopilot.test_pilot import MINUTES, bad_log, laid_out, run
from tests.support.acts import AT, NAME, write_acts
from tests.support.fleet import wait_until
from tests.support.receiver import Receiver


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver is on this machine, whatever a machine's proxy is."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def notifier(folder: Path, url: str) -> ActNotifier:
    return ActNotifier(folder, folder / "notifications.json", [UrlReceiver(url, None)])


def told(receiver: Receiver) -> list[str]:
    return [json.loads(body)["id"] for body in receiver.taken]


def test_each_act_is_told_until_it_is_taken(tmp_path: Path) -> None:
    """After 503 again a second later, with the same bytes; the message has what docs/notifications.md names."""
    with Receiver([503]) as receiver:
        telling = notifier(tmp_path, receiver.url)
        telling.open()
        write_acts(tmp_path)
        telling.step(now=0.0)
        assert (telling.pending, telling.failures) == (3, 1)
        telling.step(now=0.5)
        telling.step(now=1.0)
        telling.step(now=9.0)
        assert (telling.pending, telling.failures) == (0, 1)
        telling.close()
    assert told(receiver) == ["a1", "a2", "a3"]
    assert receiver.asked[0] == receiver.asked[1]
    message = json.loads(receiver.taken[2])
    assert (message["event"], message["experiment"], message["action"], message["group"]) == (
        *("action", NAME, "halt", "canary"),
    )
    assert message["outcome"] == "edited"
    assert message["take_over"] == f"abfleet resume {NAME} canary"
    assert message["reasons"][0].startswith("error_rate guardrail")
    assert receiver.headers[2]["X-Abfleet-Delivery"] == "a3"
    assert json.loads(receiver.taken[1])["outcome"] == "given_up"


def test_what_was_done_before_the_first_time_is_not_told(tmp_path: Path) -> None:
    """Who begins to be notified has no use for last month's acts; what a restart has missed is told."""
    write_acts(tmp_path)
    with Receiver() as receiver:
        first = notifier(tmp_path, receiver.url)
        first.open()
        first.step(now=0.0)
        assert told(receiver) == []
        first.close()
        write_acts(tmp_path, name="other", at=AT + timedelta(days=1))
        path = max(tmp_path.glob("actions-*"))
        path.write_text(path.read_text().replace('"id":"a', '"id":"b'))
        again = notifier(tmp_path, receiver.url)
        again.open()
        again.step(now=0.0)
        assert told(receiver) == ["b1", "b2", "b3"]


def test_one_of_two_autopilots_tells(tmp_path: Path) -> None:
    """The other one tells when the first has ended."""
    with Receiver() as receiver:
        one, other = notifier(tmp_path, receiver.url), notifier(tmp_path, receiver.url)
        one.open()
        other.open()
        write_acts(tmp_path)
        other.step(now=0.0)
        assert told(receiver) == []
        one.close()
        other.open()
        other.step(now=0.0)
        assert told(receiver) == ["a1", "a2", "a3"]


def test_a_receiver_that_hangs_holds_up_no_act(tmp_path: Path) -> None:
    """The act is in the file while its receiver has not answered, and the process does not wait for it at its end."""
    settings, asked, free = laid_out(tmp_path / "root"), threading.Event(), threading.Event()
    bad_log(settings.logs)

    class Hanging:
        name = "url"

        def deliver(self, body: bytes, delivery: str) -> None:
            asked.set()
            free.wait()

        def describe(self, body: bytes, delivery: str) -> str:
            return ""

    telling = ActNotifier(settings.actions, tmp_path / "state", [Hanging()])
    telling.open()
    telling.start()
    assert run(settings)
    wait_until(asked.is_set, "the receiver is asked")
    assert [act.outcome for act in read_actions(settings.actions)] == ["edited"]
    telling.close()
    free.set()


def once(settings: AutopilotSettings, *flags: str) -> tuple[int, str]:
    """Exit code and standard error of a run that is made once, as a process: its log would stay this one's."""
    words = ["--experiments", str(settings.experiments), "--logs", str(settings.logs), "--once", *flags]
    command = [sys.executable, "-m", "abfleet_autopilot", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stderr


@pytest.mark.system
def test_a_run_that_is_made_once_says_what_it_could_not_deliver(tmp_path: Path) -> None:
    """Exit code 1 after three attempts, and the next run delivers it."""
    settings = laid_out(tmp_path / "root")
    bad_log(settings.logs)
    with Receiver([500, 500, 500]) as receiver:
        code, said = once(settings, "--notify-url", receiver.url)
        assert code == 1
        assert "undelivered notifications: 1; the next run sends them" in said
        assert once(settings, "--notify-url", receiver.url)[0] == 0
        assert [json.loads(body)["action"] for body in receiver.taken] == ["halt"]


@pytest.mark.system
def test_wrong_settings_are_named(tmp_path: Path) -> None:
    """Exit code 2: a secret without a receiver, an address that is none, a state file that is something else."""
    settings = laid_out(tmp_path / "root")
    (tmp_path / "other").write_text("{}")
    for wrong, said in (
        (("--notify-secret-file", "x"), "--notify-secret-file needs --notify-url or --notify-command"),
        (("--notify-url", "ftp://x"), "must begin with http"),
        (("--notify-command", "true", "--notify-state", str(tmp_path / "other")), "is not a state file"),
    ):
        code, words = once(settings, *wrong)
        assert (code, said in words) == (2, True), words
    flags = ["--logs", str(settings.logs)]
    assert parse(flags, {"ABFLEET_NOTIFY_URL": "http://x/"}).notify_url == "http://x/"
    with pytest.raises(NotifyError):
        ActNotifier(tmp_path, tmp_path / "other", []).open()


def test_nobody_is_told_of_a_dry_run(tmp_path: Path) -> None:
    """It does nothing: no state file either."""
    settings = dataclasses.replace(laid_out(tmp_path / "root"), dry_run=True, notify_url="http://127.0.0.1:1/")
    assert app._notifier(settings) is None
    assert run(settings, MINUTES) == []
