"""What the autopilot has written down: acts with what became of them, its state, and files that are torn or foreign."""

from datetime import timedelta
from pathlib import Path

from abfleet_log.tools.actions import STATE_FILE, AutopilotState, action_files, read_actions, read_state

from tests.support.acts import AT, NAME, write_acts


def test_acts_are_in_order_with_what_became_of_them(tmp_path: Path) -> None:
    """In words, with the command that undoes each; one that a person came before needs none."""
    write_acts(tmp_path)
    acts = read_actions(tmp_path)
    assert [one.words() for one in acts] == ["raised traffic to 20 %", "did not raise traffic to 50 %", "halted canary"]
    assert [one.outcome for one in acts] == ["edited", "given_up", "edited"]
    assert acts[1].outcome_words() == "somebody else's edit came first"
    assert acts[0].way_back() == ("abfleet", "ramp", NAME, "--traffic", "5")
    assert acts[1].way_back() == ()
    assert acts[2].way_back() == ("abfleet", "resume", NAME, "canary")
    acts[2].after = {"enabled": False}
    assert acts[2].way_back() == ("abfleet", "resume", NAME), "it was the last treatment: all of it is off"


def test_torn_and_foreign_lines_are_no_acts(tmp_path: Path) -> None:
    """A kill tears the last line; a later release may have other acts."""
    write_acts(tmp_path)
    (path,) = action_files(tmp_path)
    lines = path.read_text().splitlines(keepends=True)
    other = lines[0].replace('"climb"', '"dance"').replace('"a1"', '"a9"')
    path.write_text("".join([other, *lines[:-1], lines[-1][:40]]))
    acts = read_actions(tmp_path)
    assert [one.id for one in acts] == ["a1", "a2", "a3"]
    assert (acts[2].words(), acts[2].outcome_words()) == ("halting canary", "under way")
    assert read_actions(tmp_path / "none") == []


def test_the_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    """With what holds each experiment and its evidence; after a minute without a new one it is silent."""
    assert read_state(tmp_path) is None
    state = AutopilotState(AT, "autopilot h", {NAME: ("wait",), "other": ()}, {NAME: (("canary", "error_rate", 1.5),)})
    (tmp_path / STATE_FILE).write_text(state.text())
    found = read_state(tmp_path)
    assert found is not None
    assert (found.at, found.by, found.holds) == (state.at, state.by, state.holds)
    assert found.evidence == {NAME: (("canary", "error_rate", 1.5),), "other": ()}
    assert not found.silent(AT + timedelta(seconds=60))
    assert found.silent(AT + timedelta(seconds=61))
    for broken in ("", "{", "[]", '{"ts": "x"}'):
        (tmp_path / STATE_FILE).write_text(broken)
        assert read_state(tmp_path) is None
