"""Edits in place: the file then means what was asked, and every other character is as it was."""

import difflib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from abfleet_experiments import change
from abfleet_experiments.change import ChangeError
from abfleet_experiments.config import Config
from abfleet_experiments.file.load import load_text
from abfleet_experiments.file.rewrite import RewriteError, rewrite
from abfleet_experiments.file.save import SaveError, save
from abfleet_experiments.movement import movement
from abfleet_process import atomic_file
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.experiments.strategies import START, days

BLOCK = """\
# The whole file.
version: 1
default: v1   # serves the rest
models:
  v1: {target: "h:1"}
  v2: {target: "h:2"}
experiments:
  # About e.
  - name: e  # its name
    groups:  # three of them
      - name: control
        model: v1
        weight: 70   # the rest
      - name: one
        model: v2
        weight: 20
      - {name: two, model: v2, weight: 10}   # the canary

    # About what follows.
    metrics:
      primary: ctr

  - name: f
    layer: other
    groups: [{name: control, model: v1, weight: 100}]
"""
RAMPED = BLOCK.replace(
    "\n    # About what",
    """\
    ramp:
      # The beginning.
      - {at: 2026-10-01T00:00:00Z, traffic: 10, control: 70, one: 20, two: 10}  # first
    # About what""",
)
FLOW = (
    "{version: 1, default: v1, models: {v1: {target: 'h:1'}, v2: {target: 'h:2'}}, experiments: [{name: e, groups: ["
    "{name: control, model: v1, weight: 70}, {name: one, model: v2, weight: 20}, {name: two, model: v2, weight: 10}]}, "
    "{name: f, layer: other, groups: [{name: control, model: v1, weight: 100}]}]}\n"
)
STYLES = {
    "block": BLOCK,
    "with a ramp": RAMPED,
    "flow": FLOW,
    "crlf": BLOCK.replace("\n", "\r\n"),
    "bom": "\ufeff" + BLOCK,
    "no newline at the end": BLOCK.rstrip("\n"),
    "indentless lists": BLOCK.replace("\n  ", "\n")
    .replace("v1: {target", "  v1: {target")
    .replace("v2: {target", "  v2: {target"),
    "flow ramp": RAMPED.replace("ramp:\n      # The beginning.\n      - ", "ramp: [").replace(
        "two: 10}  # first", "two: 10}]"
    ),
}


def _ramped(text: str, weights: Mapping[str, int], *, traffic: int | None = None, at: datetime = START) -> Config:
    return change.ramped(load_text(text), "e", weights, traffic_bp=traffic, at=at, now=START)


def _diff(old: str, new: str) -> list[str]:
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", ["ramp", "traffic", "halt", "conclude e", "conclude f", "conclude both"])
def test_every_change_in_every_style(style: str, kind: str) -> None:
    """However the file is written, the change is made and read back as exactly what was asked."""
    text = STYLES[style]
    config = load_text(text)
    wanted = {
        "ramp": lambda: _ramped(text, {"two": 1250}),
        "traffic": lambda: _ramped(text, {}, traffic=5000),
        "halt": lambda: change.enabled(config, "e", on=False),
        "conclude e": lambda: change.concluded(config, "e", winner="two", at=days(3)),
        "conclude f": lambda: change.concluded(config, "f", winner="control", at=days(3)),
        "conclude both": lambda: change.concluded(
            change.concluded(config, "e", winner="one", at=days(2)), "f", winner="control", at=days(3)
        ),
    }[kind]()
    changed = rewrite(text, wanted)
    assert load_text(changed) == wanted
    assert changed.startswith("\ufeff") == text.startswith("\ufeff")
    assert ("\n" in changed.replace("\r\n", "")) == ("\n" in text.replace("\r\n", ""))


def test_a_ramp_touches_only_its_lines() -> None:
    """Two weights and two rows change; comments, blank lines and order are what they were."""
    assert _diff(BLOCK, rewrite(BLOCK, _ramped(BLOCK, {"two": 1250}))) == [
        "-        weight: 70   # the rest",
        "+        weight: 67.5   # the rest",
        "-      - {name: two, model: v2, weight: 10}   # the canary",
        "+      - {name: two, model: v2, weight: 12.5}   # the canary",
        "+    ramp:",
        "+      - {at: 2026-10-31T00:00:00Z, traffic: 100, control: 70, one: 20, two: 10}",
        "+      - {at: 2026-11-01T00:00:00Z, traffic: 100, control: 67.5, one: 20, two: 12.5}",
    ]


def test_a_further_row_is_one_line() -> None:
    """An experiment that has a ramp gets a row below the last, in its notation; weights that stay are not touched."""
    assert _diff(RAMPED, rewrite(RAMPED, _ramped(RAMPED, {}, traffic=10_000))) == [
        "+      - {at: 2026-11-01T00:00:00Z, traffic: 100, control: 70, one: 20, two: 10}"
    ]


@pytest.mark.parametrize("style", ["with a ramp", "flow ramp"])
def test_later_rows_can_be_given_up(style: str) -> None:
    """In need, what was planned for later goes, and the row for now follows the last one that has taken effect."""
    text = STYLES[style]
    for day in (5, 6):
        text = rewrite(text, _ramped(text, {"two": day * 500}, at=days(day)))
    with pytest.raises(ChangeError, match="--drop-later removes later rows"):
        _ramped(text, {"two": 0}, at=days(1))
    wanted = change.ramped(load_text(text), "e", {"two": 0}, traffic_bp=None, at=days(1), now=days(1), drop_later=True)
    changed = rewrite(text, wanted)
    assert load_text(changed) == wanted
    assert [row.weights_bp for row in wanted.experiment("e").ramp] == [(7000, 2000, 1000), (8000, 2000, 0)]
    assert "two: 25" not in changed
    same_time = change.ramped(load_text(text), "e", {}, traffic_bp=5, at=days(6), now=days(1), drop_later=True)
    assert [row.traffic_bp for row in same_time.experiment("e").ramp] == [1000, 1000, 5]
    with pytest.raises(ChangeError, match="has no ramp row before"):
        change.ramped(load_text(text), "e", {}, traffic_bp=5, at=days(-99), now=days(1), drop_later=True)


def test_halt_and_resume_are_one_line() -> None:
    """Off and on again leave the text as it was, but for the key that now says so."""
    config = load_text(BLOCK)
    halted = rewrite(BLOCK, change.enabled(config, "e", on=False))
    assert _diff(BLOCK, halted) == ["+    enabled: false"]
    resumed = rewrite(halted, change.enabled(load_text(halted), "e", on=True))
    assert _diff(BLOCK, resumed) == ["+    enabled: true"]


def test_conclude_removes_only_the_experiment() -> None:
    """The default changes and the experiment's lines go; the next one and its surroundings stay."""
    changed = rewrite(BLOCK, change.concluded(load_text(BLOCK), "e", winner="two", at=days(3)))
    assert "default: v2   # serves the rest" in changed
    assert changed.endswith(
        "experiments:\n  # About e.\n\n  - name: f\n    layer: other\n"
        "    groups: [{name: control, model: v1, weight: 100}]\n"
        "concluded:\n  - {experiment: e, winner: two, at: 2026-11-04T00:00:00Z}\n"
    )


@pytest.mark.parametrize(
    "notation",
    [
        (
            "concluded:  # those that have ended\n  # The first.\n  - experiment: c\n    winner: x\n"
            "    at: 2026-10-01T00:00:00Z  # a Thursday\n"
        ),
        "concluded: [{experiment: c, winner: x, at: 2026-10-01T00:00:00Z}]  # the first\n",
        "concluded: []\n",
        "",
    ],
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_conclusion_is_added_to_those_that_are_there(notation: str, place: str) -> None:
    """In the notation of the list, wherever it stands, with every comment; the other lines stay as they are."""
    text = notation + BLOCK if place == "first" else BLOCK + notation
    before = load_text(text)
    wanted = change.concluded(before, "f", winner="control", at=days(3))
    changed = rewrite(text, wanted)
    assert load_text(changed) == wanted
    assert [one.experiment for one in wanted.concluded] == [*(one.experiment for one in before.concluded), "f"]
    gone = [line for line in _diff(text, changed) if line.startswith("-")]
    kept = [line for line in gone if "#" in line and line[1:] not in changed and "[" not in line]
    assert kept == []
    for comment in re.findall("#[^\n]*", text):
        assert comment in changed


def test_only_a_conclusion_changes_the_revision() -> None:
    """A file without the key, or with an empty list, has the revision that it had before there was one."""
    assert load_text(BLOCK).revision == load_text("concluded: []\n" + BLOCK).revision
    concluded = "concluded: [{experiment: c, winner: x, at: 2026-10-01T00:00:00Z}]\n"
    assert load_text(concluded + BLOCK).revision != load_text(BLOCK).revision


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=5))
def test_ramps_through_the_file_move_the_minimum(shares: list[int]) -> None:
    """A row after a row, each written into the text and read back, moves what its increases are."""
    text, day = BLOCK, 0
    for share in shares:
        before = load_text(text)
        weights = {g.name: g.weight_bp for g in before.experiment("e").groups}
        if weights["two"] == share:
            continue
        day += 1
        text = rewrite(text, _ramped(text, {"two": share}, at=days(day)))
        after = load_text(text)
        moved = movement(before, days(day - 0.5), after, days(day)).moved
        assert moved * 10_000 == abs(share - weights["two"])
        assert movement(before, days(day - 0.5), after, days(day - 0.5)).moved == 0


@pytest.mark.parametrize(
    ("weights", "traffic", "at", "message"),
    [
        ({"tow": 100}, None, START, "`tow` is not a group of `e`; did you mean `two`?"),
        ({"two": 9000}, None, START, "the treatments have 110 percent together"),
        ({"two": 20, "control": 10}, None, START, "shares must sum to 100 percent: control 0.1, one 20, two 0.2"),
        ({"two": 1000}, None, START, "the last row already has these shares"),
        (
            {"two": 1100},
            None,
            datetime.fromisoformat("2026-09-30T00:00:00Z"),
            "must be later than the last ramp row, at 2026-10-01T00:00:00Z",
        ),
    ],
)
def test_changes_that_make_no_sense(weights: dict[str, int], traffic: int | None, at: datetime, message: str) -> None:
    """A change that cannot be meant is refused with the reason."""
    with pytest.raises(ChangeError, match=re.escape(message)):
        _ramped(RAMPED, weights, traffic=traffic, at=at)


def test_names_that_are_not_there() -> None:
    """Experiments and winners are named by what the file has."""
    config = load_text(BLOCK)
    with pytest.raises(ChangeError, match="`g` is not an experiment of the file; allowed: e, f"):
        change.enabled(config, "g", on=False)
    with pytest.raises(ChangeError, match="`tow` is not a group of `e`; did you mean `two`"):
        change.concluded(config, "e", winner="tow", at=days(3))
    with pytest.raises(ChangeError, match="`e` is already running"):
        change.enabled(config, "e", on=True)


def test_what_cannot_be_written_safely_is_not_written() -> None:
    """A change that `rewrite` does not know is refused, not half made."""
    config = load_text(BLOCK.replace("primary: ctr", "primary: conversion_rate"))
    with pytest.raises(RewriteError, match="by hand"):
        rewrite(BLOCK, config)


def test_save_replaces_whole_and_keeps_mode_and_link(tmp_path: Path) -> None:
    """The file's mode stays, a link stays a link, and no other file is left behind."""
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link.symlink_to(real)
    save(link, read=b"old", changed=b"new")
    assert (real.read_bytes(), real.stat().st_mode & 0o777, link.is_symlink()) == (b"new", 0o640, True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.yaml", "real.yaml"]


def test_save_does_not_overwrite_what_another_wrote(tmp_path: Path) -> None:
    """If the file changed since it was read, it stays as the other left it."""
    file = tmp_path / "f.yaml"
    file.write_bytes(b"another's")
    with pytest.raises(SaveError, match="was changed by another process"):
        save(file, read=b"old", changed=b"new")
    assert file.read_bytes() == b"another's"
    with pytest.raises(SaveError, match="could not be written"):
        save(tmp_path / "none.yaml", read=b"", changed=b"new")


THREE = """version: 1
default: v1
models: {v1: {target: "h:1"}, v2: {target: "h:2"}}
experiments:
  - name: e
    traffic: 40
    groups:
      - {name: control, model: v1, weight: 70}
      - {name: one, model: v2, weight: 20}
      - {name: two, model: v2, weight: 10}
    ramp:
      - {at: 2026-11-01T00:00:00Z, traffic: 20, control: 90, one: 5, two: 5}  # begun
      - {at: 2026-11-08T00:00:00Z, traffic: 40, control: 70, one: 20, two: 10}
"""
"""Two treatments, and a row that is still to come."""


def test_a_halted_treatment_gives_its_share_to_control_for_good() -> None:
    """Also in rows of later, which stay; the other treatment, the salt and the traffic do not move."""
    at = datetime(2026, 11, 3, tzinfo=UTC)
    text = rewrite(THREE, change.halted(load_text(THREE), "e", "one", at=at))
    (e,) = load_text(text).experiments
    assert [(row.at.day, row.traffic_bp, row.weights_bp) for row in e.ramp] == [
        (1, 2000, (9000, 500, 500)),
        (3, 2000, (9500, 0, 500)),
        (8, 4000, (9000, 0, 1000)),
    ]
    assert (e.enabled, "# begun" in text) == (True, True)
    back = rewrite(text, change.given_back(load_text(text), "e", "one", at=at.replace(day=5)))
    (e,) = load_text(back).experiments
    assert [(row.at.day, row.weights_bp) for row in e.ramp[2:]] == [(5, (9000, 500, 500)), (8, (8500, 500, 1000))]


def test_the_last_treatment_that_is_halted_switches_the_experiment_off() -> None:
    """And whoever resumes it gets back what was halted; a treatment alone keeps its share in the file meanwhile."""
    at = datetime(2026, 11, 9, tzinfo=UTC)
    config = load_text(THREE)
    for group in ("one", "two"):
        text = rewrite(THREE, change.halted(config, "e", group, at=at))
        config = load_text(text)
        at += timedelta(hours=1)
    assert not config.experiments[0].enabled
    (e,) = change.given_back(config, "e", None, at=at).experiments
    assert (e.enabled, e.ramp[-1].weights_bp) == (True, (7000, 2000, 1000))
    only = load_text(
        THREE.replace("      - {name: two, model: v2, weight: 10}\n", "")
        .replace("two: 5", "one: 5")
        .replace("control: 90, one: 5, one: 5", "control: 95, one: 5")
        .replace("control: 70, one: 20, two: 10", "control: 80, one: 20")
        .replace("weight: 70", "weight: 80")
    )
    off = change.halted(only, "e", "one", at=at)
    assert (off.experiments[0].enabled, off.experiments[0].ramp) == (False, only.experiments[0].ramp)
    assert change.given_back(off, "e", None, at=at) == only
    with pytest.raises(ChangeError, match="is the control of"):
        change.halted(only, "e", "control", at=at)


def test_an_edit_between_reading_and_renaming_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two names can be exchanged, what somebody wrote after the last comparison is the file in the end."""
    path = tmp_path / "f.yaml"
    path.write_text("read")
    real = atomic_file.exchange
    if not real(path, path):
        pytest.skip("this file system cannot exchange names")

    def late(one: Path, other: Path) -> bool:
        if path.read_text() == "read":
            path.write_text("somebody else's")
        return real(one, other)

    monkeypatch.setattr(atomic_file, "exchange", late)
    with pytest.raises(SaveError, match="was changed by another process"):
        save(path, read=b"read", changed=b"ours")
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("f.yaml", "somebody else's")]
