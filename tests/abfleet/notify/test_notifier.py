"""Changed verdicts: which are told, when again, and that a receiver gets each of them at least once, in order."""

import hashlib
import hmac
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from abfleet_process.notify import outbox
from abfleet_process.notify.receivers import CommandReceiver, NotDelivered, NotifyError, UrlReceiver, read_secret

from abfleet.notify.notifier import Notifier
from abfleet.notify.verdict_changes import Conclusion, changes, conclusions
from tests.support.receiver import Receiver

SECRET = b"0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The receiver is on this machine, whatever a machine's proxy is."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def report(as_of: str = "2026-11-08T00:00:00Z", **verdicts: str) -> dict[str, Any]:
    """The part of a report that counts; the verdict of each experiment is that of its only treatment."""
    return {
        "as_of": as_of,
        "experiments": [
            {
                "name": name,
                "decision": {"verdict": verdict, "group": "treatment", "reasons": [f"because of {verdict}"]},
                "groups": [{"name": "control", "decision": None}, {"name": "treatment", "decision": verdict}],
            }
            for name, verdict in verdicts.items()
        ],
    }


# --- what a change is -------------------------------------------------------------------------------------------------


def test_what_is_told() -> None:
    """The first report tells of what is decided; a later one of what differs; the same one of nothing."""
    first = report(one="keep_running", two="ship")
    (change,) = changes({}, first)
    assert (change.experiment, change.before.verdict, change.now.verdict) == ("two", "keep_running", "ship")
    assert change.sentence() == "2026-11-08T00:00:00Z two: keep_running → ship treatment: because of ship"
    told = conclusions(first)
    assert changes(told, first) == []
    assert [one.experiment for one in changes(told, report(one="refuse", two="ship"))] == ["one"]
    assert [one.experiment for one in changes(told, report(two="keep_running"))] == ["two"], "back again is a change"
    assert changes(told, report()) == [], "what is not in a report has not changed"


def test_a_treatment_that_is_decided_is_told() -> None:
    """The experiment's verdict stays, and another of its treatments gets one."""
    document = report(one="roll_back")
    told = conclusions(document)
    document["experiments"][0]["groups"].append({"name": "canary", "decision": "ship"})
    (change,) = changes(told, document)
    assert change.now == Conclusion("roll_back", "treatment", {"treatment": "roll_back", "canary": "ship"})
    assert change.message()["before"]["groups"] == {"treatment": "roll_back"}


def test_the_id_is_that_of_the_change() -> None:
    """The same change has the same id wherever it is seen, another one another."""
    ids = [
        changes({}, report(as_of, one=verdict))[0].id
        for as_of, verdict in [
            ("2026-11-08T00:00:00Z", "ship"),
            ("2026-11-08T00:00:00Z", "ship"),
            ("2026-11-08T00:00:00Z", "refuse"),
            ("2026-11-09T00:00:00Z", "ship"),
        ]
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


# --- delivery ---------------------------------------------------------------------------------------------------------


def test_a_receiver_that_fails_twice_gets_it_once(tmp_path: Path) -> None:
    """503 and a redirect are no yes: it is sent again after 1 and 2 s, signed, with the same id and bytes."""
    with Receiver([503, 302]) as receiver, Notifier(tmp_path / "state", [UrlReceiver(receiver.url, SECRET)]) as sender:
        sender.note(report(one="ship"))
        assert sender.send(now=0.0) == ["--notify-url: the receiver answered HTTP 503; trying again in 1 s"]
        assert sender.send(now=0.9) == []
        assert sender.next_due() == 1.0
        assert sender.send(now=1.0) == ["--notify-url: the receiver answered HTTP 302; trying again in 2 s"]
        assert sender.send(now=3.0) == []
        assert (sender.pending, sender.next_due()) == (0, None)
        sender.note(report(one="ship"))
        assert sender.send(now=9.0) == []
    assert len(receiver.asked) == 3
    assert len(set(receiver.asked)) == 1
    (body,), (headers,) = receiver.taken, receiver.headers
    message = json.loads(body)
    assert (message["experiment"], message["verdict"], message["group"]) == ("one", "ship", "treatment")
    assert (message["before"]["verdict"], message["reasons"]) == ("keep_running", ["because of ship"])
    assert headers["X-Abfleet-Signature"] == "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    assert headers["X-Abfleet-Delivery"] == message["id"]
    assert headers["Content-Type"] == "application/json"


def test_a_receiver_may_ask_for_time(tmp_path: Path) -> None:
    """429 with Retry-After: 7 is sent again after 7 s, not after 1."""
    with Receiver([429]) as receiver, Notifier(tmp_path / "state", [UrlReceiver(receiver.url, None)]) as sender:
        sender.note(report(one="ship"))
        assert sender.send(now=0.0) == ["--notify-url: the receiver answered HTTP 429; trying again in 7 s"]
        assert sender.next_due() == 7.0


def test_a_restart_neither_repeats_nor_forgets(tmp_path: Path) -> None:
    """What was taken is not sent again; what was not is, first and in order; both by another process' state."""
    state = tmp_path / "state"
    with Receiver([204, 500]) as receiver:
        with Notifier(state, [UrlReceiver(receiver.url, None)]) as sender:
            sender.note(report(one="ship"))
            sender.send(now=0.0)
            sender.note(report(one="roll_back"))
            assert len(sender.send(now=0.0)) == 1
        with Notifier(state, [UrlReceiver(receiver.url, None)]) as sender:
            assert sender.pending == 1
            sender.note(report(one="refuse"))
            assert sender.send(now=0.0) == []
    assert [json.loads(body)["verdict"] for body in receiver.taken] == ["ship", "roll_back", "refuse"]


def test_a_crash_after_the_receiver_took_it_repeats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least once: when the state could not be written afterwards, the same bytes come again."""
    with Receiver() as receiver:
        with Notifier(tmp_path / "state", [UrlReceiver(receiver.url, None)]) as sender:
            sender.note(report(one="ship"))
            with monkeypatch.context() as patch:
                patch.setattr(outbox, "write_whole", lambda path, text: (_ for _ in ()).throw(KeyboardInterrupt))
                with pytest.raises(KeyboardInterrupt):
                    sender.send(now=0.0)
        with Notifier(tmp_path / "state", [UrlReceiver(receiver.url, None)]) as sender:
            sender.send(now=0.0)
    assert len(receiver.taken) == 2
    assert receiver.taken[0] == receiver.taken[1]


def test_nobody_listens(tmp_path: Path) -> None:
    """No connection is a failure like any other, and one receiver does not hold up another."""
    with Receiver() as receiver:
        url = receiver.url
    taken = tmp_path / "taken"
    command = CommandReceiver(f"{sys.executable} -c \"import sys; open('{taken}', 'a').write(sys.stdin.read())\"")
    with Notifier(tmp_path / "state", [UrlReceiver(url, None), command]) as sender:
        sender.note(report(one="ship"))
        (complaint,) = sender.send(now=0.0)
        assert "Connection refused" in complaint
        assert json.loads(taken.read_text())["verdict"] == "ship"
        assert sender.pending == 1


@pytest.mark.parametrize(
    ("program", "told"),
    [("import sys; sys.exit('no room')", "exit code 1: no room"), ("import time; time.sleep(60)", "within 0.5 s")],
)
def test_a_command_that_fails(program: str, told: str) -> None:
    """An exit code and its last words, or that it took too long; it is gone then."""
    with pytest.raises(NotDelivered, match=told):
        CommandReceiver(f'{sys.executable} -c "{program}"', timeout_seconds=0.5 if "sleep" in program else 30).deliver(
            b"", ""
        )


def test_a_command_meets_no_shell(tmp_path: Path) -> None:
    """What a shell would run is an argument like any other."""
    told = tmp_path / "told"
    program = f"import sys; open('{told}', 'w').write(repr(sys.argv[1:]))"
    CommandReceiver(f"{sys.executable} -c \"{program}\" '$(id)' ; true").deliver(b"{}", "id")
    assert told.read_text() == "['$(id)', ';', 'true']"


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    """Address, command and secret: the flag, what was given, and what is allowed."""
    with pytest.raises(NotifyError, match="--notify-url: 'ftp://x' is not allowed; it must begin with http"):
        UrlReceiver("ftp://x", None)
    for words, told in (("", "is empty"), ("a 'b", "No closing quotation")):
        with pytest.raises(NotifyError, match=f"--notify-command: .*{told}"):
            CommandReceiver(words)
    (tmp_path / "short").write_bytes(b"short\n")
    with pytest.raises(NotifyError, match="has 5 bytes; it must have 16 or more"):
        read_secret(tmp_path / "short")
    with pytest.raises(NotifyError, match="No such file"):
        read_secret(tmp_path / "none")


@pytest.mark.parametrize(
    "content",
    [
        *("", "{}", "[]", '{"version": 2}', '{"version": 1, "told": [], "pending": []}'),
        '{"version": 1, "told": {"one": {"unknown": 1}}, "pending": []}',
    ],
)
def test_a_broken_state_is_not_overwritten(tmp_path: Path, content: str) -> None:
    """Starting anew would tell everything again: it says so, and leaves the file as it is."""
    (tmp_path / "state").write_text(content)
    with pytest.raises(NotifyError, match="is not a state file of notifications"), Notifier(tmp_path / "state", []):
        pass
    assert (tmp_path / "state").read_text() == content


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    """They would tell everything twice."""
    with (
        Notifier(tmp_path / "state", []),
        pytest.raises(NotifyError, match="in use by another"),
        Notifier(tmp_path / "state", []),
    ):
        pass
