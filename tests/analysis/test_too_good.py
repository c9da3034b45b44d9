"""Results too good to be true, where nobody can say how good: real files through the whole analysis."""

from datetime import timedelta
from pathlib import Path

import pytest

from tests.analysis.log_lines import DAY, START, LogLines, file_text, only, report_of

OWN = """
metrics:
  plays: {type: count, outcome: play}
  played: {type: proportion, outcome: play}
  spent: {type: mean, outcome: play}
  a_show: {type: ratio, outcome: play, over: show}
"""
USERS = 200


def decided(
    folder: Path, primary: str, kind: str, control: int, treatment: int, values: tuple[float, float] = (3.0, 3.0)
) -> tuple[str, str]:
    """Verdict and reasons on day 8, where so many users of each group have an outcome of this kind, on day 1."""
    log = LogLines()
    for group, several, value in zip(("control", "treatment"), (control, treatment), values, strict=True):
        for index in range(USERS):
            user, at = f"{group}-{index}", START + timedelta(minutes=index)
            request = log.exposure(user, group, at)
            log.outcome("show", user, request, at)
            if index < several:
                log.outcome(kind, user, request, at, value=value + index % 3 / 10, item_id=1)
    log.exposure("late", "control", START + DAY * 8)
    decision = only(report_of(log.write(folder), file_text(primary, metrics=OWN)))["decision"]
    return decision["verdict"], " ".join(decision["reasons"])


@pytest.mark.parametrize(
    ("primary", "kind"),
    [
        ("conversion_rate", "conversion"),
        ("ctr", "click"),
        ("revenue_per_user", "purchase"),
        ("plays", "play"),
        ("played", "play"),
        ("a_show", "play"),
    ],
)
def test_against_a_control_of_nothing_nothing_ships(tmp_path: Path, primary: str, kind: str) -> None:
    """Control 0 of 200, the treatment 50 of 200: no lift can be told, and outcomes of one group only are a mistake more
    often than a success."""
    verdict, reasons = decided(tmp_path, primary, kind, 0, 50)
    assert verdict == "check_first"
    assert f"control's {primary} is 0" in reasons
    assert "nan" not in reasons


def test_everybody_against_nobody(tmp_path: Path) -> None:
    """No group has any variance: the difference is as sure as it can be, and too good all the same."""
    assert decided(tmp_path, "conversion_rate", "conversion", 0, USERS)[0] == "check_first"


def test_a_control_below_nothing(tmp_path: Path) -> None:
    """Refunds make control's mean negative, and value over baseline says a lift where there is a loss, and the other
    way round; how much better the treatment is, is told from the distance."""
    assert decided(tmp_path, "spent", "play", 150, 150, (-50.0, 50.0))[0] == "check_first"


def test_the_other_way_round_is_harm(tmp_path: Path) -> None:
    """Outcomes in control alone: rolled back, as bad results need no check before the treatment is stopped."""
    assert decided(tmp_path, "conversion_rate", "conversion", 50, 0)[0] == "roll_back"
