"""What `abfleet up` says when it is ready and at its end."""

from pathlib import Path

import pytest

from abfleet.up.closing_words import lasted, what_came, what_next
from abfleet.up.settings import UpSettings

ADDRESSES = {"ready": "127.0.0.1:50051", "admin": "127.0.0.1:50052"}


@pytest.fixture(autouse=True)
def _as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not as `./run test` has it, which is how a clone spells the command."""
    monkeypatch.delenv("ABFLEET_PROGRAM", raising=False)


def test_next_has_no_flag_that_is_the_default() -> None:
    """A fleet as README starts it is called without flags, in lines of a terminal's width."""
    lines = what_next(UpSettings(), ADDRESSES, "127.0.0.1:8080")
    assert lines[0] == "next, in another terminal, or open http://127.0.0.1:8080/:"
    assert [line.split("  ")[1] for line in lines[1:]] == [
        "abfleet client --user-id user-1 --items 1,2,3",
        "abfleet traffic",
        "abfleet status",
        "abfleet analyze",
    ]
    assert max(map(len, lines)) <= 80


def test_next_names_the_command_as_it_was_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a clone that is `./run`; nothing else that the variable may hold is repeated."""
    monkeypatch.setenv("ABFLEET_PROGRAM", "./run")
    assert "  ./run status " in what_next(UpSettings(), ADDRESSES, "")[3]
    monkeypatch.setenv("ABFLEET_PROGRAM", "rm -rf /;")
    assert "  abfleet status " in what_next(UpSettings(), ADDRESSES, "")[3]


def test_the_end_says_what_came_of_it() -> None:
    """Calls, failures, fallbacks, outcomes, lines and lost ones; or that nobody called."""
    served = {"calls": 1234, "failed": 2, "fallbacks": 3, "outcomes": 1, "lines": 1239, "lost": 1}
    assert what_came(served, 303.2, UpSettings(log_dir=Path("logs"))) == [
        "served 1,234 calls in 5 min 3 s: 2 failed, 3 answered by the default version as a fallback",
        "recorded 1 outcome; wrote 1,239 lines to the decision log in logs/; 1 line could not be written",
        "next: abfleet analyze",
    ]
    assert what_came(dict.fromkeys(served, 0), 3, UpSettings()) == ["received no calls in 3 s"]


def test_spans_of_time() -> None:
    """In one unit or two."""
    assert [lasted(one) for one in (0.2, 59.4, 60, 3599, 7800)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "59 min 59 s",
        "2 h 10 min",
    ]
