"""Why an experiment keeps running, with dates: looks, the plan's minimum, events and outcome types that are missing."""

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.decision.verdicts import MetricResult, Verdict
from abfleet_analysis.report import render
from abfleet_analysis.report.render import missing, side
from abfleet_analysis.report.report import ExperimentReport
from abfleet_analysis.report.waiting import missing_outcomes
from abfleet_dashboard.views import words as dashboard_words
from abfleet_dashboard.views.metric_view import metric_tables, reading
from abfleet_dashboard.views.words import answers
from abfleet_experiments.file.load import load_text

from tests.analysis.log_lines import DAY, START, LogLines, file_text, only, report_of
from tests.dashboard.made import made_report


def a_log(days: float, users: int = 200, converting: int = 10) -> LogLines:
    """Users who come evenly; every so many of them convert."""
    log = LogLines()
    for number in range(users):
        at = START + DAY * days * number / users
        user = f"u{number}"
        request = log.exposure(user, ("control", "treatment")[number % 2], at)
        if number // 2 % converting == 0:
            log.outcome("conversion", user, request, at)
    return log


@pytest.mark.parametrize(
    ("days", "next_look", "earliest"),
    [
        (0.5, "2026-11-02T00:00:00Z", "2026-11-08T00:00:00Z"),
        (3.5, "2026-11-05T00:00:00Z", "2026-11-08T00:00:00Z"),
        (9.5, "2026-11-11T00:00:00Z", "2026-11-11T00:00:00Z"),
    ],
)
def test_looks_and_minimum_have_dates(tmp_path: Path, days: float, next_look: str, earliest: str) -> None:
    """Before the first look, before the minimum has passed, and after it; in the keys and in the sentences."""
    experiment = only(report_of(a_log(days).write(tmp_path), file_text("conversion_rate")))
    plan, said = experiment["plan"], " ".join(experiment["waiting"])
    assert experiment["decision"]["verdict"] == "keep_running"
    assert (plan["next_look"], plan["earliest_ship"]) == (next_look, earliest)
    assert (plan["minimum_until"], plan["horizon_ends"]) == ("2026-11-08T00:00:00Z", "2026-11-29T00:00:00Z")
    assert f"the next look is at {next_look}" in said
    assert f"the earliest look that can ship is at {earliest}" in said
    assert ("the first one is at" in said) == (days < 1)
    assert ("before 2026-11-08T00:00:00Z, when `plan.minimum` (7 days) has passed" in said) == (days < 7)


def test_the_time_left_counts_the_minimum(tmp_path: Path) -> None:
    """Enough users after half of the minimum: there is the other half to wait for, not no time at all."""
    text = file_text("conversion_rate").replace("effect: 0.10", "effect: 5")
    plan = only(report_of(a_log(3.5).write(tmp_path), text))["plan"]
    assert plan["users"] > plan["users_planned"]
    assert plan["days_left"] == 4


def test_missing_events_are_told_by_group(tmp_path: Path) -> None:
    """An interval that holds at every look needs 100 users with an event in each group."""
    experiment = only(report_of(a_log(3.5).write(tmp_path), file_text("conversion_rate", ("error_rate",))))
    assert experiment["metrics"][0]["missing_events"] == {"control": 90, "treatment": 90}
    assert experiment["metrics"][1]["missing_events"] is None, "nobody waits for more errors"
    assert any("still missing: 90 in control and 90 in treatment" in one for one in experiment["waiting"])


def test_missing_events_are_told_once_for_all_treatments(tmp_path: Path) -> None:
    """Control's are the same ones for each treatment; a group that has enough is not named."""
    log = LogLines()
    for number in range(330):
        group, at = ("control", "treatment", "second")[number % 3], START + DAY * 3.5 * number / 330
        user = f"u{number}"
        request = log.exposure(user, group, at, bucket=(0, 4000, 9999)[number % 3], propensity=1 / 3)
        if number % 3 == 1 or number // 3 % 4 == 0:
            log.outcome("conversion", user, request, at)
    text = file_text("conversion_rate").replace("weight: 50", "weight: 34", 1).replace("weight: 50", "weight: 33")
    text = text.replace("    metrics:", "      - {name: second, model: v2, weight: 33}\n    metrics:", 1)
    said = [one for one in only(report_of(log.write(tmp_path), text))["waiting"] if "still missing" in one]
    assert len(said) == 1
    assert said[0].endswith("with a `conversion` in each group; still missing: 72 in control and 72 in second")


def test_outcome_types_that_have_not_arrived(tmp_path: Path) -> None:
    """Each type that a metric counts, a ratio's second one too; in the key and in a sentence that names the metrics."""
    metrics = "metrics: {finished: {type: ratio, outcome: conversion, over: play}}"
    text = file_text("conversion_rate", (), ("ctr", "revenue_per_user", "finished"), metrics)
    report = analyse([a_log(3.5).write(tmp_path)], load_text(text))
    (experiment,) = report.experiments
    assert missing_outcomes(experiment.gathered) == ("click", "purchase", "play")
    (said,) = missing(experiment)
    assert said.startswith(
        "the log has no `click` and no `purchase` with a value and no `play`, so these metrics have no result: "
    )
    assert said.endswith(": ctr, revenue_per_user, finished")


def test_a_decided_experiment_waits_for_nothing() -> None:
    """A ship verdict has no sentence about what is to come."""
    (experiment,) = made_report().experiments
    assert str(experiment.decision.verdict) == "ship"
    assert experiment.waiting.sentences == ()


def at_look_16(verdict: Verdict, days_left: float) -> ExperimentReport:
    """Of 28, with this verdict."""
    (experiment,) = made_report().experiments
    evidence = experiment.gathered.evidence
    calendar, looks = dataclasses.replace(evidence.calendar, done=16), experiment.gathered.looks
    looks = dataclasses.replace(looks, times=looks.times[:16], calendar=calendar)
    evidence = dataclasses.replace(evidence, calendar=calendar)
    gathered = dataclasses.replace(experiment.gathered, evidence=evidence, looks=looks)
    decision = dataclasses.replace(experiment.decision, verdict=verdict, days_left=days_left)
    return dataclasses.replace(experiment, gathered=gathered, decision=decision)


@pytest.mark.parametrize("words", [render.progress, dashboard_words.progress])
def test_the_time_left_is_told_where_something_is_waited_for(words: Callable[[ExperimentReport], str]) -> None:
    """A verdict that came before the end of the plan leaves none; else it is that until the last look, at most,
    whenever the planned users come."""
    told = {
        (verdict, days): re.split(r"planned\)?, ", words(at_look_16(verdict, days)).replace("\xa0", " "))[1]
        for verdict in (Verdict.SHIP, Verdict.CHECK_FIRST, Verdict.ROLL_BACK, Verdict.KEEP_RUNNING)
        for days in (0.0, 5.0)
    }
    left = dict.fromkeys([(Verdict.KEEP_RUNNING, 5.0), (Verdict.KEEP_RUNNING, 0.0)], ", 12 days left at most")
    assert told == {key: f"16 of 28 looks{left.get(key, '')}" for key in told}


@pytest.mark.parametrize(
    ("days", "said"),
    [
        (5.0, "At the current rate, the planned users and the minimum duration are reached in about 5 days; the last"),
        (0.0, "A decision comes at the last look at the latest; the last"),
        (12.0, "A decision comes at the last look at the latest; the last"),
    ],
)
def test_at_most_is_never_before_the_last_look(days: float, said: str) -> None:
    """The day of the planned users is about, that of the last look at the latest."""
    todo = answers(at_look_16(Verdict.KEEP_RUNNING, days)).todo.replace("\xa0", " ")
    assert todo.endswith(f" {said} look is in 12 days.")


# --- the interval that holds at every look is in front ----------------------------------------------------------------


def with_intervals(always: tuple[float, float], alone: tuple[float, float]) -> MetricResult:
    """A primary metric with these intervals, relative."""
    metric = made_report().experiments[0].decision.groups[0].metrics[0]
    return dataclasses.replace(
        metric,
        interval=alone,
        relative_interval=alone,
        sequential_interval=always,
        relative_sequential_interval=always,
    )


NOTHING = (math.nan, math.nan)


@pytest.mark.parametrize(
    ("always", "alone", "tone", "word"),
    [
        ((0.01, 0.2), (0.05, 0.15), "good", "better"),
        ((-0.2, -0.01), (-0.15, -0.05), "bad", "worse"),
        ((-0.01, 0.2), (0.05, 0.15), "open", "not decided yet"),
        (NOTHING, (0.05, 0.15), "open", "not decided yet"),
        ((-0.2, 0.2), (-0.1, 0.1), "open", "could be chance"),
        (NOTHING, (-0.1, 0.1), "open", "too early to say"),
    ],
)
def test_words_and_colour_follow_the_always_valid_interval(
    always: tuple[float, float], alone: tuple[float, float], tone: str, word: str
) -> None:
    """And nothing is called chance beside an interval, of either kind, that leaves out no change."""
    metric = with_intervals(always, alone)
    assert reading(metric, believed=True) == (tone, word)
    assert side(metric) == tone
    assert reading(metric, believed=False)[0] == side(metric, believed=False) == "open"
    assert reading(metric, believed=True, held=True) == (tone, word if tone != "open" else "within its margin")


@pytest.mark.parametrize(
    ("verdict", "z", "said"),
    [
        (Verdict.KEEP_RUNNING, 1.0, "too early to say"),
        (Verdict.KEEP_RUNNING, 3.0, "within its margin"),
        (Verdict.KEEP_RUNNING, math.nan, "too early to say"),
        (Verdict.SHIP, 1.0, "within its margin"),
        (Verdict.CHECK_FIRST, 1.0, "within its margin"),
    ],
)
def test_a_guardrail_that_lets_a_winner_be_shipped_is_within_its_margin(verdict: Verdict, z: float, said: str) -> None:
    """Its row and the reason of the verdict say the same, also where it has too few events for an interval."""
    report = made_report().experiments[0]
    group = report.decision.groups[0]
    one = next(metric for metric in group.metrics if metric.rule.role == "guardrail")
    few = dataclasses.replace(one, relative_sequential_interval=NOTHING, interval=(-0.1, 0.1), z=z, boundary=2.0)
    group = dataclasses.replace(group, verdict=verdict, metrics=(few,))
    decision = dataclasses.replace(report.decision, verdict=verdict, groups=(group,))
    (table,) = metric_tables(dataclasses.replace(report, decision=decision))
    assert table.rows[0].reading == said


@pytest.mark.parametrize(
    ("always", "alone", "chance"),
    [((0.01, 0.2), (0.05, 0.15), False), ((-0.01, 0.2), (0.05, 0.15), False), ((-0.2, 0.2), (-0.1, 0.1), True)],
)
def test_may_still_be_chance_stands_beside_no_interval_that_excludes_no_change(
    always: tuple[float, float], alone: tuple[float, float], chance: bool
) -> None:
    """In the answer to which version wins, of an experiment that keeps running."""
    report = made_report("no-effect").experiments[0]
    metric = dataclasses.replace(with_intervals(always, alone), z=0.0, boundary=3.0)
    group = dataclasses.replace(report.decision.groups[0], metrics=(metric,), verdict=Verdict.KEEP_RUNNING)
    decision = dataclasses.replace(report.decision, verdict=Verdict.KEEP_RUNNING, group=group.group, groups=(group,))
    said = answers(dataclasses.replace(report, decision=decision))
    assert ("may still be chance" in said.winner) is chance
