"""Counts that stand side by side are of one population, over a ramp with users who come back too."""

import re
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.report.markdown import markdown
from abfleet_analysis.report.report import ExperimentReport, Report
from abfleet_dashboard.pages import report_file
from abfleet_experiments.file.load import load_text

from tests.analysis.log_lines import LogLines, file_text
from tests.dashboard.html_check import read
from tests.support.allocated_log import DAY, START, Phase, Visit, counted, visits, write

SHARES = (1, 10, 50)


def text(treatment: int) -> str:
    """The experiments file at a step of the ramp."""
    return f"""
version: 1
default: v1
models: {{v1: {{target: "127.0.0.1:1"}}, v2: {{target: "127.0.0.1:2"}}}}
experiments:
  - name: test
    salt: first
    groups:
      - {{name: control, model: v1, weight: {100 - treatment}}}
      - {{name: treatment, model: v2, weight: {treatment}}}
    metrics: {{primary: conversion_rate, guardrails: [error_rate]}}
"""


@pytest.fixture(scope="module")
def ramp(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, list[Phase], list[Visit]]:
    """A report of 1/10/50 % with most users in all three, and the visits that it is of."""
    folder = tmp_path_factory.mktemp("log")
    phases = [Phase(text(share), 3 * number) for number, share in enumerate(SHARES)]
    made = list(visits(phases, 3000, days=9))
    return analyse([write(folder, phases, made)], load_text(text(50)), detailed=True), phases, made


def test_the_table_of_groups_adds_up_to_all_who_came(ramp: tuple[Report, list[Phase], list[Visit]]) -> None:
    """Users who count, and those who did not come back after a move, are all; calls are those of the ones who count."""
    report, phases, made = ramp
    (experiment,) = report.experiments
    facts, quality = experiment.gathered.facts, experiment.gathered.evidence.quality
    expected = counted(phases, made)
    assert {one.name: one.users for one in facts} == expected.users
    came = {visit.user for visit in made}
    assert sum(one.users for one in facts) - quality.in_both_groups + quality.not_compared == len(came)
    assert 0 < quality.not_compared < quality.moved_by_ramp == expected.moved
    last = {visit.user: str(visit.arm.group) for visit in made}
    kept = [visit for visit in made if visit.arm.group == "treatment" or last[visit.user] != "treatment"]
    moved_and_gone = [visit for visit in kept if visit.arm.group == "control" and _moved_later(visit, phases)]
    of_group = [sum(visit.arm.group == one.name for visit in kept) for one in facts]
    assert [one.exposures for one in facts] == [of_group[0] - len(moved_and_gone), of_group[1]]
    ever = [len({visit.user for visit in made if visit.arm.group == one.name}) for one in facts]
    assert [one.ever for one in facts] == ever


def _moved_later(visit: Visit, phases: list[Phase]) -> bool:
    """Whether the bucket of a call of control is the treatment's by the last phase: it grows from bucket 0 up."""
    return visit.bucket < SHARES[len(phases) - 1] * 100


def test_sizes_and_expected_sizes_are_of_the_same_users(ramp: tuple[Report, list[Phase], list[Visit]]) -> None:
    """Both sum to the same number, which no table has beside users of another kind."""
    report, _, _ = ramp
    ratio = report.experiments[0].decision.sample_ratio
    assert sum(ratio.observed) == pytest.approx(sum(ratio.expected))
    assert all(abs(seen - wanted) < 60 for seen, wanted in zip(ratio.observed, ratio.expected, strict=True))
    head = next(line for line in markdown(report).splitlines() if line.startswith("| group |"))
    assert "expected" not in head
    (said,) = (line for line in markdown(report).splitlines() if line.startswith("- split"))
    said = said.replace("\\.", ".")
    found = re.findall(r"(?<![\d.])\d[\d,.]*(?= users at| \\\(| expected)", said)
    numbers = [float(one.replace(",", "")) for one in found]
    assert numbers[0] == numbers[1] + numbers[3] == pytest.approx(numbers[2] + numbers[4], abs=1e-6)


@pytest.mark.parametrize("kind", ["attribute", "served"])
def test_parts_of_the_users_are_those_of_the_groups(
    ramp: tuple[Report, list[Phase], list[Visit]], kind: str, tmp_path: Path
) -> None:
    """What answered has each user of a group once; so has an attribute that all have."""
    report, _, _ = ramp
    experiment = report.experiments[0] if kind == "served" else with_attribute(tmp_path)
    users = {one.name: one.users for one in experiment.gathered.facts}
    assert experiment.details is not None
    (found,) = (one for one in experiment.details.breakdowns if (one.kind, one.metric) == (kind, "conversion_rate"))
    if kind == "served":
        sums = {name: sum(one.users for one in found.slices if one.group == name) for name in users}
    else:
        (row,) = found.slices
        sums = {"control": row.baseline_users, "treatment": row.users}
    assert sums == users


def with_attribute(folder: Path) -> ExperimentReport:
    """A ramp whose users come in both allocations, with one attribute."""
    log = LogLines()
    for number in range(200):
        for day, share, allocation in ((0, 2000, "000000000001"), (2, 5000, "000000000002")):
            bucket = number * 50
            group = "treatment" if bucket < share else "control"
            more: dict[str, Any] = {"allocation": allocation, "bucket": bucket, "attributes": {"plan": "free"}}
            request = log.exposure(f"u{number}", group, START + DAY * day, **more)
            if number % 3 == 0:
                log.outcome("conversion", f"u{number}", request, START + DAY * day)
    return analyse([log.write(folder)], load_text(file_text("conversion_rate")), detailed=True).experiments[0]


def test_a_page_names_its_populations(ramp: tuple[Report, list[Phase], list[Visit]]) -> None:
    """The page has the sizes and the expected sizes in a table of their own, with their sum."""
    report, _, _ = ramp
    said = read(report_file(report)).text
    assert "Users in the comparison, and their calls" in said
    assert "Users at their first call in the experiment, without those whom a ramp has moved since" in said


def test_a_group_that_joins_by_a_ramp_is_no_group_of_nobody(tmp_path: Path) -> None:
    """Users who were known before are the users of the group that a guardrail's sentence counts."""
    log = LogLines()
    file = file_text("conversion_rate", ("response_time_p95",))
    for number in range(1200):
        user, bucket = f"u{number}", number * 8
        log.exposure(user, "control", START, bucket=bucket, allocation="000000000001", propensity=1.0)
        group = "treatment" if bucket < 5000 else "control"
        log.exposure(
            user,
            group,
            START + DAY * 2,
            bucket=bucket,
            allocation="000000000002",
            propensity=0.5,
            latency_ms=5000.0 if group == "treatment" else 5.0 + number % 3,
        )
    (experiment,) = analyse([log.write(tmp_path)], load_text(file)).experiments
    evidence = experiment.gathered.evidence
    assert evidence.users[-1].tolist() == [1200, 0]
    assert evidence.ever is not None
    assert evidence.ever.tolist() == [1200, 625]
    assert not re.search(r"of 0 users", " ".join(experiment.decision.reasons))
