"""Experiments of several allocations, with the router's own buckets, against a count in plain Python."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.decision.measurements import measure
from abfleet_analysis.periods import cells
from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import time_text
from abfleet_experiments.file.load import load_text
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.log_lines import LogLines, metric, only, report_of
from tests.support.allocated_log import DAY, START, Phase, counted, visits, write


@dataclass(frozen=True, slots=True)
class Setting:
    """What an experiments file says of the experiment."""

    traffic: int = 100
    salt: str = "first"
    treatment: int = 20

    def text(self) -> str:
        """The file."""
        return f"""
version: 1
default: v1
models: {{v1: {{target: "127.0.0.1:1"}}, v2: {{target: "127.0.0.1:2"}}}}
experiments:
  - name: test
    salt: {self.salt}
    traffic: {self.traffic}
    groups:
      - {{name: control, model: v1, weight: {100 - self.treatment}}}
      - {{name: treatment, model: v2, weight: {self.treatment}}}
    metrics: {{primary: conversion_rate, guardrails: []}}
    plan: {{effect: 0.10, horizon: 28d, look: 1d, minimum: 7d}}
"""


CHANGES = {
    "traffic": (Setting(traffic=20), Setting()),
    "less traffic": (Setting(), Setting(traffic=20)),
    "traffic twice": (Setting(traffic=5), Setting(traffic=20), Setting()),
    "salt": (Setting(), Setting(salt="second")),
    "salt and weights": (Setting(), Setting(salt="second", treatment=50)),
    "weights": (Setting(treatment=10), Setting(treatment=50)),
    "traffic and weights": (Setting(traffic=20, treatment=10), Setting(treatment=50)),
}


@pytest.mark.parametrize(
    ("change", "users", "day", "events"),
    [
        ("traffic", 100_000, 3, True),
        ("salt", 30_000, 3, True),
        ("weights", 30_000, 3, True),
        ("traffic", 2_000, 3, False),
        ("salt", 2_000, 3, True),
        ("salt", 2_000, 3, False),
        ("salt and weights", 2_000, 3, False),
        ("weights", 2_000, 3, False),
        ("less traffic", 10_000, 3, True),
        ("traffic twice", 10_000, 3, True),
        ("salt and weights", 10_000, 3, True),
        ("traffic and weights", 10_000, 3, False),
        ("weights", 20_000, 9, True),
    ],
)
def test_returning_users_over_allocations(tmp_path: Path, change: str, users: int, day: int, events: bool) -> None:
    """Who counts, who is left out because of a move, and what is compared: as counted user by user, whether any bucket
    moved or none did. `events`: whether the log says so too."""
    settings = CHANGES[change]
    phases = [Phase(one.text(), day * number, events=events) for number, one in enumerate(settings)]
    made = list(visits(phases, users, days=day * len(phases)))
    report = report_of(write(tmp_path, phases, made), settings[-1].text())
    expected, found = counted(phases, made), metric(report, "conversion_rate")
    experiment = only(report)
    assert {group["name"]: group["users"] for group in experiment["groups"]} == expected.users
    assert experiment["data_quality"]["moved_by_ramp"] == expected.moved
    assert experiment["data_quality"]["users_in_two_groups"] == 0
    assert found["value"] == pytest.approx(expected.value, rel=1e-9)
    assert found["baseline_value"] == pytest.approx(expected.baseline, rel=1e-9)
    assert experiment["srm"]["ok"]
    assert experiment["decision"]["verdict"] in {"keep_running", "ship"}


BACK = {
    "a ramp taken back": (Setting(treatment=10), Setting(treatment=50), Setting(treatment=10)),
    "halted and resumed": (Setting(treatment=50), Setting(treatment=0), Setting(treatment=50)),
}


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("change", BACK)
def test_who_first_comes_after_the_shares_are_back_counts(tmp_path: Path, change: str, events: bool) -> None:
    """Of the buckets that were in another group meanwhile: who was there before stays out, wherever; who was not has
    seen one group alone. Of the others everybody counts."""
    settings = BACK[change]
    phases = [Phase(one.text(), 2 * number, coming=0.4, events=events) for number, one in enumerate(settings)]
    made = list(visits(phases, 2_000, days=6))
    (back, away) = (
        {visit.bucket: visit.arm.group for visit in made if visit.phase in which} for which in ((0, 2), (1,))
    )
    treated = settings[0].treatment * 100
    moved = range(treated, settings[1].treatment * 100) if treated < 5_000 else range(treated)
    assert {(back[bucket], away[bucket]) for bucket in back.keys() & away.keys() if bucket in moved} == {
        ("control", "treatment") if treated < 5_000 else ("treatment", "control")
    }
    known = {visit.user for visit in made if visit.phase < 2}
    users: dict[str, set[str]] = {"control": set(), "treatment": set()}
    for visit in made:
        if visit.bucket not in moved or (visit.phase == 2 and visit.user not in known):
            users[str(visit.arm.group)].add(visit.user)
    report = analyse([write(tmp_path, phases, made)], load_text(settings[-1].text()))
    experiment = only(report.as_dict())
    assert {group["name"]: group["users"] for group in experiment["groups"]} == {g: len(u) for g, u in users.items()}
    out = {visit.user for visit in made if visit.bucket in moved and visit.phase < 2}
    assert experiment["data_quality"]["moved_by_ramp"] == len(out)
    assert experiment["srm"]["ok"]
    weights = report.experiments[0].gathered.evidence.weights
    assert weights[1] == pytest.approx(settings[-1].treatment / 100), "those now in force"


def test_the_border_between_two_groups_is_where_the_shares_have_it() -> None:
    """Between users of two groups nobody was seen: the size of one of them says where it ends; without sizes that say
    it, nothing is guessed."""
    seen, groups = np.array([10, 20, 30, 40]), np.array([1, 1, 0, 0])
    exact = cells.observed_buckets(seen, groups, np.array([1 - 0.0025, 0.0025]))
    assert exact.tolist() == [1] * 25 + [0] * (BUCKETS - 25)
    for weights in (None, np.array([0.5, 0.5])):
        table = cells.observed_buckets(seen, groups, weights)
        assert table.tolist() == [1] * 21 + [cells.UNKNOWN] * 9 + [0] * (BUCKETS - 30)


@given(
    st.lists(st.integers(1, BUCKETS - 1), min_size=0, max_size=4, unique=True),
    st.lists(st.integers(0, BUCKETS - 1), min_size=1, max_size=300, unique=True),
)
def test_a_bucket_is_known_rightly_or_not_at_all(borders: list[int], seen: list[int]) -> None:
    """Of runs of different groups that were all seen, each bucket is its own group's, or between two runs unknown."""
    truth = np.searchsorted(np.array(sorted(borders), dtype=np.int64), np.arange(BUCKETS), side="right")
    buckets = np.array(sorted({*seen, 0, *borders}))
    weights = np.bincount(truth, minlength=len(borders) + 1) / BUCKETS
    table = cells.observed_buckets(buckets, truth[buckets], weights)
    assert ((table == truth) | (table == cells.UNKNOWN)).all()
    assert (table[buckets] == truth[buckets]).all()


def ramp(*rows: dict[str, int]) -> tuple[str, list[Phase]]:
    """A file with such rows, a row each two days, and the phases that it makes; everybody comes in each."""
    text = Setting().text()
    groups = "".join(
        f"      - {{name: {name}, model: v{index + 1}, weight: {weight}}}\n"
        for index, (name, weight) in enumerate(rows[-1].items())
    )
    text = text[: text.index("      - {name: control")] + groups + text[text.index("    metrics") :]
    text = text.replace("models: {", 'models: {v3: {target: "127.0.0.1:3"}, ')
    listed = "".join(
        f"      - {{at: {(START + DAY * 2 * number).isoformat()}, {', '.join(f'{g}: {w}' for g, w in row.items())}}}\n"
        for number, row in enumerate(rows)
    )
    text = text.replace("    metrics", f"    ramp:\n{listed}    metrics")
    return text, [Phase(text, 2 * number, coming=1.0) for number in range(len(rows))]


BEFORE = {"control": 80, "treatment": 20, "late": 0}
AFTER = {"control": 60, "treatment": 20, "late": 20}


@pytest.mark.parametrize(
    "rows",
    [
        (BEFORE, AFTER),
        ({"control": 100, "treatment": 0}, {"control": 80, "treatment": 20}),
        ({"control": 50, "treatment": 50, "late": 0}, {"control": 20, "treatment": 60, "late": 20}),
        (BEFORE, AFTER, {"control": 70, "treatment": 30, "late": 0}),
    ],
    ids=["a third group", "the only treatment", "out of control and treatment", "and leaves again"],
)
def test_a_group_joins_a_ramp_while_all_users_are_known_already(
    tmp_path: Path, rows: tuple[dict[str, int], ...]
) -> None:
    """Nobody comes for the first time after the ramp: the new group's users are users all the same, it is judged, and
    nothing is broken."""
    text, phases = ramp(*rows)
    made = list(visits(phases, 440, days=2 * len(rows)))
    experiment = only(report_of(write(tmp_path, phases, made), text))
    joined = next(name for name, weight in rows[0].items() if not weight)
    groups = {group["name"]: group for group in experiment["groups"]}
    assert groups[joined]["users"] == (counted(phases, made).users.get(joined, 0))
    assert experiment["decision"]["verdict"] == "keep_running", experiment["decision"]["reasons"]
    assert {group["decision"] for group in groups.values()} == {None, "keep_running"}
    assert "no users" not in " ".join(experiment["decision"]["reasons"])


def test_a_group_that_joins_changes_no_look_before(tmp_path: Path) -> None:
    """Alpha is divided among the treatments that are there: the looks before say of whom they spoke, and what z had to
    reach, as their own reports did."""
    text, phases = ramp(BEFORE, AFTER)
    folder = write(tmp_path, phases, list(visits(phases, 440, days=4)))
    then, now = (analyse([folder], load_text(text), as_of=START + DAY * day).experiments[0] for day in (2, 4))
    assert [one.name for one in measure(now.gathered.evidence, now.plan).treatments] == ["treatment", "late"]
    assert then.decision.history == now.decision.history[:2] == (("keep_running", "treatment"),) * 2
    assert now.decision.history[3] == ("keep_running", None)
    was, known = (measure(one.gathered.evidence, one.plan).treatments[0] for one in (then, now))
    assert was.alpha[:2].tolist() == known.alpha[:2].tolist() == [0.025, 0.025]
    assert known.alpha[-1] == 0.0125
    for one, other in ((was.losing, known.losing), (was.primary.test, known.primary.test)):
        assert one is not None
        assert other is not None
        assert [one.boundary(look) for look in range(2)] == [other.boundary(look) for look in range(2)]


def test_groups_that_nothing_describes_are_there_when_they_are_seen(tmp_path: Path) -> None:
    """Of an experiment that is in no file and no `allocation` line a later group changes no look: neither of whom it
    spoke, nor which sizes it expected."""
    log = LogLines()
    for user in range(60):
        group = "control" if user % 2 else "late" if user >= 30 and user % 4 else "treatment"
        log.exposure(f"u{user}", group, START + DAY * (user / 20), propensity=0.5 if user % 2 else 0.25)
    folder, config = log.write(tmp_path), load_text(Setting().text().replace("name: test", "name: another"))
    then, now = (analyse([folder], config, as_of=START + DAY * day).experiments[-1] for day in (1, 3))
    assert then.decision.history == now.decision.history[:1] == (("keep_running", "treatment"),)
    assert now.decision.history[2] == ("keep_running", None)
    was, known = (measure(one.gathered.evidence, one.plan).ratio.log_e[0] for one in (then, now))
    assert was == known


def test_a_group_that_joins_a_ramp_and_stays_silent_is_told(tmp_path: Path) -> None:
    """Of all who came after the ramp not one has a line of the new group: its lines are missing."""
    text, phases = ramp(BEFORE, AFTER)
    made = [visit for visit in visits(phases, 440, days=4) if visit.arm.group != "late"]
    decision = only(report_of(write(tmp_path, phases, made), text))["decision"]
    after = len({visit.user for visit in made if visit.phase == 1})
    assert decision["verdict"] == "refuse"
    assert decision["reasons"] == [f"group late has a weight of 20% and none of {after} users"]


def test_a_group_that_was_switched_off_is_still_judged(tmp_path: Path) -> None:
    """Only users who were known before had been in it."""
    log = LogLines()
    weights = {"control": 50.0, "treatment": 50.0}
    log.allocation("a", {"control": 100.0, "treatment": 0.0})
    log.allocation("b", weights, START + DAY)
    log.allocation("c", {"control": 100.0, "treatment": 0.0}, START + DAY * 2)
    for user in range(40):
        for day, (identity, group) in enumerate([("a", "control"), ("b", "treatment"), ("c", "control")]):
            assigned = group if user < 20 else "control"
            log.exposure(f"u{user}", assigned, START + DAY * day, allocation=identity, bucket=user * 250)
    text = Setting(treatment=50).text()
    experiment = only(report_of(log.write(tmp_path), text))
    assert {group["name"]: group["decision"] for group in experiment["groups"]}["treatment"] is not None


@pytest.mark.parametrize("change", ["weights", "traffic", "salt"])
@pytest.mark.parametrize("identity", ["ffffffffffff", None])
@pytest.mark.parametrize("calls", [1, 10])
def test_calls_of_an_allocation_that_nothing_describes(
    tmp_path: Path, change: str, identity: str | None, calls: int
) -> None:
    """A few of them say of nobody that a bucket has moved: the report is as without them, and counts them."""
    settings = CHANGES[change]
    phases = [Phase(one.text(), 3 * number) for number, one in enumerate(settings)]
    folder = write(tmp_path, phases, list(visits(phases, 600, days=3 * len(phases))))
    before = only(report_of(folder, settings[-1].text()))
    lines = [json.loads(line) for file in folder.glob("decisions-*") for line in file.read_text().splitlines()]
    early = [line for line in lines if line["event"] == "exposure" and line["ts"] < time_text(START + DAY)][:calls]
    strays = [
        line | {"allocation": identity, "request_id": f"stray-{number}", "group": "treatment"}
        for number, line in enumerate(early)
    ]
    (folder / "decisions-other-20261102T000000-9.jsonl").write_text("".join(json.dumps(one) + "\n" for one in strays))
    after = only(report_of(folder, settings[-1].text()))
    assert after["data_quality"].pop("unknown_allocation") == calls
    assert before["data_quality"].pop("unknown_allocation") == 0
    assert after == before
