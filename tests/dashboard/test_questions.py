"""Six prepared logs: the page's text alone says who wins, by how much, how sure, and whether the data is sound."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from abfleet_dashboard.pages import experiment_page, report_file
from abfleet_dashboard.situation import Situation
from abfleet_dashboard.views.data_words import health
from abfleet_dashboard.views.overview_view import overview_row

from tests.analysis.log_lines import DAY, START, LogLines
from tests.dashboard.html_check import faults, read
from tests.dashboard.made import prepared_log, report_of_log


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A log, and what its page must answer: patterns of a regular expression, for the text behind each question."""

    log: Callable[[], LogLines]
    headline: str
    winner: str
    amount: str
    sure: str
    sound: str
    as_of_days: int | None = None


def cases() -> dict[str, Case]:
    """By the verdict that each must get."""
    return {
        "ship": Case(
            log=lambda: prepared_log(rates=(0.30, 0.42), a_day=1200),
            headline=r"Ship treatment \(v2\): conversion rate \+40\.0 % \(always-valid 95 % interval \+\d\d\.\d % to",
            winner=r"Group treatment \(v2\) wins over control \(v1\)",
            amount=r"42\.0 % against 30\.0 % in control, a change of \+40\.0 % \(always-valid .* \+\d\d\.\d % to",
            sure=r"At most 2\.5 % .* ship a version no better than control.*rate is \+\d+\.\d % to \+\d.*outside",
            sound=r"No problems found",
        ),
        "roll back": Case(
            log=lambda: prepared_log(errors=(0.01, 0.20), days=4),
            headline=r"Roll back treatment \(v2\): error rate 20\.0 % against 1\.00 % in control",
            winner=r"Group control \(v1\) stays\. Group treatment \(v2\) does harm",
            amount=r"error rate 20\.0 % against 1\.00 %.*change of \+1,900 %.*rate 30\.0 % against 30\.0 %",
            sure=r"Very sure: the evidence of harm is [\d.e+,]+, and 200 is enough",
            sound=r"No problems found",
        ),
        "refuse": Case(
            log=lambda: prepared_log(rates=(0.30, 0.42), lost=0.2),
            headline=r"No conclusion: the data is broken",
            winner=r"Unknown: the data is broken",
            amount=r"do not act on them",
            sure=r"Not at all",
            sound=r"The data is broken\..*mismatch: control has 2,000 users \(1,800 expected\), treatment has 1,600",
        ),
        "running": Case(
            log=lambda: prepared_log(rates=(0.30, 0.31), days=3),
            headline=r"Keep running: nothing is decided yet",
            winner=r"Not decided yet\. Group treatment \(v2\) is ahead of control \(v1\), but this may still be chance",
            amount=r"31\.0 % against 30\.0 % in control, a change of \+3\.3 % \(always-valid .* −\d+\.\d % to \+\d",
            sure=r"rate is −\d+\.\d % to \+\d+\.\d %.*inside it",
            sound=r"No problems found",
        ),
        "held back": Case(
            log=lambda: prepared_log(rates=(0.30, 0.42), errors=(0.02, 0.02), days=8),
            headline=r"Keep running: treatment \(v2\) is better, conversion rate \+\d\d\.\d %.*shipping needs is met",
            winner=r"Group treatment \(v2\) is better than control \(v1\) in conversion rate\. .*reasons are below",
            amount=r"42\.0 % against 30\.0 % in control",
            sure=r"rate is \+\d+\.\d % to \+\d+\.\d %.*outside",
            sound=r"No problems found",
        ),
        "inconclusive": Case(
            log=lambda: prepared_log(rates=(0.30, 0.31), days=3),
            headline=r"Inconclusive: too few users to detect a change of 10 % in conversion rate",
            winner=r"Unknown\. No version differed clearly from control \(v1\)",
            amount=r"31\.0 % against 30\.0 % in control, a change of \+3\.3 %",
            sure=r"rate is −\d+\.\d % to \+\d+\.\d %.*inside it",
            sound=r"No problems found",
            as_of_days=40,
        ),
    }


@pytest.mark.parametrize("name", ["ship", "roll back", "refuse", "running", "held back", "inconclusive"])
def test_the_page_answers_the_questions(tmp_path: Path, name: str) -> None:
    """In the file and on the page of a server alike, and the page is sound."""
    case = cases()[name]
    as_of = None if case.as_of_days is None else START + DAY * case.as_of_days
    report, config = report_of_log(case.log(), tmp_path, as_of)
    assert report.as_of is not None
    served = experiment_page(Situation(now=report.as_of, report=report, config=config, made_at=report.as_of), "test")
    for page, alone in ((report_file(report, config=config), True), (served, False)):
        assert faults(page, self_contained=alone) == []
        said = answers_of(read(page).text)
        assert re.search(case.headline, said["headline"])
        for question, pattern in (
            ("Which version wins?", case.winner),
            ("By how much?", case.amount),
            ("How sure is that?", case.sure),
            ("Is the data sound?", case.sound),
        ):
            assert re.search(pattern, said[question], re.DOTALL), said[question]


def test_a_rolled_back_version_is_listed_with_what_rolled_it_back(tmp_path: Path) -> None:
    """The overview's change is the error rate's, in the colour of harm, and not the primary metric's."""
    report, _ = report_of_log(cases()["roll back"].log(), tmp_path)
    row = overview_row(report.experiments[0])
    assert (row.metric, row.tone, row.winner) == ("error rate, treatment", "bad", "control (v1) stays")
    assert row.change.startswith("+1,900")


def test_suspicious_sizes_are_not_called_right(tmp_path: Path) -> None:
    """Between what is expected and what forbids a conclusion there is one sentence, not two that disagree."""
    report, _ = report_of_log(prepared_log(lost=0.11), tmp_path)
    found = health(report.experiments[0])
    assert found.level == "warning"
    texts = [one.text for one in (*found.wrong, *found.notes)]
    assert sum("sizes" in text for text in texts) == 1
    assert any("suspicious (chi-square test, p" in text for text in texts)


def answers_of(text: str) -> dict[str, str]:
    """The headline, and what stands under each question up to the next."""
    lines = text.splitlines()
    verdicts = ("Ship ", "Roll back ", "No conclusion", "Keep running:", "Inconclusive:", "Check before", "Stop:")
    found = {"headline": next(line for line in lines if line.startswith(verdicts))}
    questions = [index for index, line in enumerate(lines) if line.endswith("?") and line[0] in "WBHI"][:4]
    for index, end in zip(questions, [*questions[1:], questions[-1] + 4], strict=True):
        found[lines[index]] = "\n".join(lines[index + 1 : end])
    return found
