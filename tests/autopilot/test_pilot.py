"""A folder and a file in, edits and actions out: replays, restarts, resuming, and what is only said."""

import dataclasses
import json
import random
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_autopilot.pilot import Pilot
from abfleet_autopilot.settings import AutopilotSettings, parse
from abfleet_experiments import change
from abfleet_experiments.file.load import load_text
from abfleet_experiments.file.rewrite import rewrite
from abfleet_log.tools.actions import STATE_FILE, read_state
from abfleet_log.tools.read_lines import line_files
from abfleet_process.flags import SettingsError

from tests.analysis.log_lines import START, LogLines, file_text

TEXT = file_text(guardrails=["error_rate"]).replace("    plan:", "    autopilot: {}\n    plan:")
MINUTES = 12


class Clock:
    """A wall clock that a test moves."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes

    def __call__(self) -> float:
        return START.timestamp() + 60 * self.minutes


def bad_log(folder: Path, *, begin: float = 0.0, minutes: float = MINUTES, rate: float = 0.3, name: int = 1) -> None:
    """Two calls a second, of which in the treatment some have a wrong answer."""
    rng, log = random.Random(name), LogLines()
    at = START + timedelta(minutes=begin)
    log.allocation("000000000001", {"control": 50, "treatment": 50}, at)
    for number in range(int(minutes * 120)):
        group = ("control", "treatment")[number % 2]
        wrong = group == "treatment" and rng.random() < rate
        fate = {"fallback": "model_error"} if wrong else {}
        log.exposure(f"{name}-{number}", group, at + timedelta(seconds=0.5 * number), **fate)
    log.write(folder, f"decisions-host-20261101T0000000{name}0000Z-{name}.jsonl")


def laid_out(root: Path, text: str = TEXT) -> AutopilotSettings:
    (root / "logs").mkdir(parents=True)
    (root / "f.yaml").write_text(text)
    return AutopilotSettings(
        experiments=root / "f.yaml",
        fleet=None,
        logs=root / "logs",
        actions=root / "logs",
        routers=0,
        once=True,
        dry_run=False,
        apply_command=None,
    )


def actions(folder: Path) -> list[dict[str, object]]:
    paths = sorted(folder.glob("actions-*.jsonl"))
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return [{**line, "by": ""} for line in found]


def run(settings: AutopilotSettings, minutes: float = MINUTES) -> list[str]:
    said: list[str] = []
    pilot = Pilot(settings, Clock(minutes), say=said.append)
    try:
        pilot.once()
    finally:
        pilot.close()
    return said


def test_the_same_folder_and_file_give_the_same_actions(tmp_path: Path) -> None:
    """Twice from the beginning, to the byte but for the process; and a third time nothing more is to be done."""
    first = laid_out(tmp_path / "first")
    bad_log(first.logs)
    second = laid_out(tmp_path / "second")
    shutil.copy(next(first.logs.iterdir()), second.logs)
    said = [run(settings) for settings in (first, second)]
    assert said[0] == said[1]
    assert len(said[0]) == 1
    assert said[0][0].startswith("halt test treatment: error_rate guardrail")
    assert actions(first.logs) == actions(second.logs)
    assert first.experiments.read_text() == second.experiments.read_text()
    assert not load_text(first.experiments.read_text()).experiments[0].enabled
    assert run(first, MINUTES + 1) == []
    assert len(actions(first.logs)) == 2


def test_after_resuming_only_what_comes_then_counts(tmp_path: Path) -> None:
    """Also for an autopilot that is started anew: the old lines halt nobody again, and new harm does."""
    settings = laid_out(tmp_path / "root")
    bad_log(settings.logs)
    assert len(run(settings)) == 1
    text = settings.experiments.read_text()
    back = change.given_back(load_text(text), "test", None, at=START + timedelta(minutes=20))
    settings.experiments.write_text(rewrite(text, back))
    bad_log(settings.logs, begin=20, rate=0.0, name=2)
    assert run(settings, 33) == []
    bad_log(settings.logs, begin=40, name=3)
    assert len(run(settings, 53)) == 1
    halts = [line["id"] for line in actions(settings.logs) if line["event"] == "action"]
    assert len(set(halts)) == 2


def test_a_log_that_grows_is_acted_on(tmp_path: Path) -> None:
    """Polled as it is written; a person's words in the file stay, and a second autopilot finds it done."""
    settings = laid_out(tmp_path / "root")
    bad_log(tmp_path)
    (source,) = tmp_path.glob("decisions-*")
    content, target = source.read_bytes(), settings.logs / source.name
    clock, said = Clock(0.0), []
    following = AutopilotSettings(**{name: getattr(settings, name) for name in settings.__slots__} | {"once": False})
    pilots = [Pilot(following, clock, say=said.append) for _ in range(2)]
    for pilot in pilots:
        pilot.begin()
    rows = content.splitlines(keepends=True)
    for minute in range(MINUTES):
        with target.open("ab") as file:
            file.writelines(rows[len(rows) * minute // MINUTES : len(rows) * (minute + 1) // MINUTES])
        if minute == 1:
            settings.experiments.write_text(settings.experiments.read_text() + "# words\n")
        clock.minutes = minute + 1.2
        for pilot in pilots:
            pilot.round()
    for pilot in pilots:
        pilot.close()
    assert len(said) == 1
    assert settings.experiments.read_text().endswith("# words\n")
    assert [line["event"] for line in actions(settings.logs)] == ["action", "action_done"]


def test_it_says_what_it_waits_for(tmp_path: Path) -> None:
    """In a file beside the actions, anew every ten seconds and after an act; what cannot be written stops nothing."""
    settings = dataclasses.replace(laid_out(tmp_path / "root"), once=False)
    clock, state = Clock(MINUTES + 1), settings.logs / STATE_FILE
    pilot = Pilot(settings, clock)
    pilot.begin()
    pilot.round()
    first = state.read_bytes()
    clock.minutes += 9 / 60
    pilot.round()
    assert state.read_bytes() == first
    state.unlink()
    state.mkdir()
    clock.minutes += 2 / 60
    pilot.round()
    state.rmdir()
    bad_log(settings.logs)
    clock.minutes += 2 / 60
    pilot.round()
    pilot.close()
    said = read_state(settings.logs)
    assert said is not None
    assert said.at.timestamp() == pytest.approx(clock())
    assert said.holds == {"test": ("the experiment is switched off",)}
    assert said.evidence == {"test": ()}, "it begins anew after a halt"


def test_a_dry_run_says_and_does_nothing(tmp_path: Path) -> None:
    """No action, no edit, not even a lock."""
    settings = laid_out(tmp_path / "root")
    bad_log(settings.logs)
    before = sorted(path.name for path in settings.logs.iterdir())
    dry = AutopilotSettings(**{name: getattr(settings, name) for name in settings.__slots__} | {"dry_run": True})
    (sentence,) = run(dry)
    assert sentence.startswith("would halt test treatment")
    assert sorted(path.name for path in settings.logs.iterdir()) == before
    assert settings.experiments.read_text() == TEXT


def test_a_ramp_climbs_by_a_real_report(tmp_path: Path) -> None:
    """The report is asked for once everything else is there; a step's row is one with traffic alone."""
    ramp = "ramp: [{at: 2026-10-31T00:00:00Z, traffic: 10, control: 50, treatment: 50}]"
    pilot_key = "autopilot: {ramp: {traffic: [10, 50], hold: 10m, users: 500}}"
    text = TEXT.replace("    autopilot: {}", f"    {ramp}\n    {pilot_key}")
    settings = laid_out(tmp_path / "root", text)
    from abfleet_experiments.allocation import allocation_in_force

    allocation = allocation_in_force(load_text(text).experiments[0], START)
    assert allocation is not None
    bad_log(settings.logs, rate=0.0)
    (path,) = settings.logs.iterdir()
    path.write_text(path.read_text().replace("000000000001", allocation.id).replace('"traffic": 100', '"traffic": 10'))
    (sentence,) = run(settings, MINUTES + 0.1)
    assert sentence.startswith("climb test to 50 % of traffic: 10 % has been in force for 0.2 h")
    (e,) = load_text(settings.experiments.read_text()).experiments
    assert [row.traffic_bp for row in e.ramp] == [1000, 5000]
    assert run(settings, MINUTES + 0.2) == []


def test_flags_that_are_wrong_are_named(tmp_path: Path) -> None:
    """With what is allowed."""
    with pytest.raises(SettingsError, match=r"--logs .*is not a folder"):
        parse(["--logs", str(tmp_path / "none")], {})
    with pytest.raises(SettingsError, match=r"--routers .*whole numbers from 0"):
        parse(["--logs", str(tmp_path), "--routers", "-1"], {})
    assert parse(["--logs", str(tmp_path)], {}).actions == tmp_path


def test_actions_beside_the_log_are_no_part_of_it(tmp_path: Path) -> None:
    """What was done years later moves no report, and is nothing for the log's own commands."""
    settings = laid_out(tmp_path / "root")
    bad_log(settings.logs, minutes=2)
    before = analyse([settings.logs], load_text(TEXT)).as_dict()
    line = {"schema": 1, "event": "action", "ts": "2036-11-01T00:00:00.000000Z"}
    (settings.logs / "actions-host-20361101T000000000000Z-1.jsonl").write_text(json.dumps(line) + "\n")
    assert analyse([settings.logs], load_text(TEXT)).as_dict() == before
    assert [path.name[:9] for path in line_files([settings.logs])] == ["decisions"]
