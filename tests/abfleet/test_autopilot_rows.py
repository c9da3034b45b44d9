"""What `abfleet status` says of the autopilot: acts with how to take over, what it waits for, nothing without one."""

from datetime import timedelta
from pathlib import Path

from abfleet.commands.autopilot_rows import MOST_ACTS, autopilot_document, autopilot_lines, folder_beside
from tests.support.acts import AT, NAME, write_acts, write_state

NOW = AT + timedelta(hours=3, seconds=5)


def test_acts_as_lines_and_as_json(tmp_path: Path) -> None:
    """The newest first; the lines have the first reason, the document all of them with their figures."""
    write_acts(tmp_path, holds=("canary has 812 users in this step",))
    lines = list(autopilot_lines(tmp_path, NOW))
    assert lines[0] == "autopilot: as of 2026-11-28T11:00:00Z"
    assert lines[1] == f"  {NAME} waits: canary has 812 users in this step"
    assert lines[2].startswith(f"  2026-11-28T10:00:00Z {NAME}: halted canary (done): error_rate guardrail")
    assert lines[3] == f"    to take over: abfleet resume {NAME} canary"
    document = autopilot_document(tmp_path, NOW)
    assert document is not None
    assert [one["action"] for one in document["actions"]] == ["halt", "climb", "climb"]
    first = document["actions"][0]
    assert (first["outcome"], first["group"], first["figures"]) == ("edited", "canary", {"error_rate": {"e": 412.0}})
    assert first["take_over"] == ["abfleet", "resume", NAME, "canary"]
    assert document["state"]["holds"] == {NAME: ["canary has 812 users in this step"]}
    assert document["state"]["silent"] is False


def test_only_the_newest_are_lines(tmp_path: Path) -> None:
    """A screen has an end."""
    for day in range(3):
        write_acts(tmp_path / str(day), at=AT + timedelta(days=day))
        for path in (tmp_path / str(day)).glob("actions-*"):
            path.write_text(path.read_text().replace('"id":"a', f'"id":"{day}a'))
            path.rename(tmp_path / path.name)
    lines = list(autopilot_lines(tmp_path, NOW))
    assert len([line for line in lines if line.startswith("  2026")]) == MOST_ACTS


def test_each_odd_state_has_its_words(tmp_path: Path) -> None:
    """Nobody was ever there; nothing was done; it has been silent; it has said nothing."""
    assert autopilot_document(None, NOW) is autopilot_document(tmp_path, NOW) is None
    assert list(autopilot_lines(tmp_path, NOW)) == []
    write_state(tmp_path, NOW - timedelta(hours=2), {NAME: ()})
    lines = list(autopilot_lines(tmp_path, NOW))
    assert lines == [
        "autopilot: silent since 2026-11-28T09:00:05Z",
        f"  {NAME}: nothing holds it",
        "  it has done nothing yet",
    ]
    other = tmp_path / "other"
    write_acts(other)
    (other / "autopilot.json").unlink()
    assert next(autopilot_lines(other, NOW)) == "autopilot: has not said what it waits for"


def test_the_folder_is_that_of_the_routers_log(tmp_path: Path) -> None:
    """Where this machine has that very file; a log on standard output, or of elsewhere, has none."""
    log = tmp_path / "decisions-host-20261101T000000000000Z-1.jsonl"
    log.touch()
    assert folder_beside(str(log)) == tmp_path
    assert folder_beside("stdout") is folder_beside(str(tmp_path / "elsewhere.jsonl")) is None
