"""The autopilot on pages: what it did and why, what it waits for, how to take over, and each odd state in words."""

from datetime import timedelta
from pathlib import Path

import pytest
from abfleet_dashboard.autopilot_state import AutopilotWatch
from abfleet_dashboard.pages import experiment_page, overview_page
from abfleet_dashboard.situation import AutopilotFiles, Situation
from abfleet_dashboard.visits import Visits
from abfleet_experiments.file.load import load_text

from tests.dashboard.html_check import faults, read
from tests.dashboard.made import HOSTILE, made_report
from tests.support.acts import AT, NAME, write_acts, write_state
from tests.support.fleet import experiments_file

NOW = AT + timedelta(hours=3, seconds=5)
RAMP = {"ramp": {"traffic": [5, 20, 50], "hold": "1h"}}


async def files_of(folder: Path) -> AutopilotFiles:
    watch = AutopilotWatch([folder], 1.0, Visits())
    await watch.poll()
    return watch.files


def situation(files: AutopilotFiles, **changed: object) -> Situation:
    config = load_text(experiments_file(autopilot=RAMP))
    values = {"now": NOW, "report": made_report(), "made_at": NOW, "config": config, "autopilot": files}
    return Situation(**values | changed)  # type: ignore[arg-type]


def text_of(page: str) -> str:
    assert faults(page) == []
    return read(page).text.replace("\u00a0", " ")


async def test_acts_are_on_both_pages(tmp_path: Path) -> None:
    """The newest first, with what moved, the reasons with their figures, and the command that gives the share back."""
    write_acts(tmp_path, holds=("canary has 812 users in this step, and needs 1,000",))
    now = situation(await files_of(tmp_path))
    for page in (overview_page(now), experiment_page(now, NAME)):
        text = text_of(page)
        assert "Halted canary" in text
        assert "control 80 % to 100 %, canary 20 % to 0 %" in text
        assert "traffic 5 % to 20 %" in text
        harm = "error rate guardrail: more in canary than the tolerated 1.25 times control's (E = 412, acts at 200)"
        assert harm in text
        assert f"abfleet resume {NAME} canary" in text
        assert "Did not raise traffic to 50 % somebody else's edit came first" in text
        assert "raffic waits: canary has 812 users in this step, and needs 1,000." in text
        assert text.index("Halted canary") < text.index("Raised traffic to 20 %")
    alone = text_of(experiment_page(now, NAME))
    assert "Error rate in canary\nE = 1.2 it acts at 200" in alone
    assert "\nTraffic waits: canary" in alone


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (timedelta(seconds=20), "It has done nothing yet."),
        (timedelta(seconds=20), "othing keeps traffic from climbing"),
        (timedelta(hours=2), "Its state is 2 hours old"),
        (None, "No autopilot has written its state beside these actions, so perhaps none is running."),
    ],
)
async def test_before_the_first_act_words_say_so(tmp_path: Path, age: timedelta | None, said: str) -> None:
    """That nothing was done yet, that nothing is waited for, and that no autopilot seems to run."""
    if age is not None:
        write_state(tmp_path, NOW - age, {NAME: ()})
    now = situation(await files_of(tmp_path))
    for page in (overview_page(now), experiment_page(now, NAME)):
        assert said in text_of(page)


async def test_without_the_key_nothing_is_said(tmp_path: Path) -> None:
    """Unless something was done while the key was there."""
    config = load_text(experiments_file())
    now = situation(await files_of(tmp_path), config=config)
    assert "Autopilot" not in text_of(overview_page(now))
    assert "Autopilot" not in text_of(experiment_page(now, NAME))
    write_acts(tmp_path)
    now = situation(await files_of(tmp_path), config=config)
    assert "No experiment of the file has the key autopilot now." in text_of(overview_page(now))


async def test_names_of_others_are_text(tmp_path: Path) -> None:
    """An actions file is written by a program, and still nothing in it is trusted."""
    write_acts(tmp_path, name=HOSTILE[0], holds=(HOSTILE[1],))
    (path,) = tmp_path.glob("actions-*")
    path.write_text(path.read_text().replace('"canary"', '"<b>canary</b>"'))
    page = overview_page(situation(await files_of(tmp_path)))
    assert faults(page) == []
    assert "<b>" not in page
    assert HOSTILE[0] not in page


async def test_a_page_is_new_when_something_was_done(tmp_path: Path) -> None:
    """Polling files that have not changed reads nothing; an act, or another state, is news."""
    watch = AutopilotWatch([tmp_path], 1.0, Visits())
    await watch.poll()
    assert watch.number == 0
    write_acts(tmp_path)
    await watch.poll()
    await watch.poll()
    assert watch.number == 1
    write_state(tmp_path, NOW, {NAME: ("wait",)})
    await watch.poll()
    assert watch.number == 2
