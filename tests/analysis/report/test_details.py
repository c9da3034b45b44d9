"""What is shown beside a conclusion, through real log files: against sums made by hand, and against the main table."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.report.details import Breakdown, Details, Slice
from abfleet_analysis.report.report import ExperimentReport, LogFacts, Report
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load_text
from abfleet_log.outcome import known_types

from tests.analysis.log_lines import DAY, START, LogLines, file_text

HOUR = timedelta(hours=1)
COUNTRIES = ("DE", "FR", "we'ird \"/~ one")
QUANTILE = "response_time_p95"
METRICS_OF_FILE = ("ctr", "error_rate", QUANTILE)
NAME = "country \"/~ of ' user"


@dataclass(frozen=True)
class Facts:
    """What is known of a version; stands in for a registry."""

    metrics: tuple[tuple[str, float], ...]
    items: int | None


KNOWN: Mapping[str, Facts] = {"v1": Facts((("recall@10", 0.1),), 6), "v2": Facts((), None)}


def shown(report: ExperimentReport) -> Details:
    assert report.details is not None
    return report.details


def breakdown(details: Details, kind: str, name: str | None = None, metric: str | None = None) -> Breakdown:
    """Of the primary metric, unless another one is named."""
    wanted = metric or details.breakdowns[0].metric
    mine = [one for one in details.breakdowns if one.kind == kind and one.metric == wanted]
    (found,) = [one for one in mine if name is None or one.name == name]
    return found


def by_label(one: Breakdown, group: str = "treatment") -> dict[str, Slice]:
    return {row.label: row for row in one.slices if row.group == group}


@dataclass
class Made:
    """A log of six days and what its users did, as kept by hand: clicks by user and days since the first."""

    report: ExperimentReport
    group: dict[str, str]
    country: dict[str, str]
    first_day: dict[str, int]
    lists: dict[str, Counter[int]]
    clicks: dict[str, Counter[int]]
    fell_back: set[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """240 users over six days: some come late, some come back, some fall back, and one changes country."""
    log, random = LogLines(), np.random.default_rng(8)
    made_of: dict[str, dict[str, Counter[int]]] = {"lists": defaultdict(Counter), "clicks": defaultdict(Counter)}
    group, country, first_day, fell_back = {}, {}, {}, set()
    for router, at in (("router-1", 0), ("router-2", 5)):
        log.allocation("000000000001", {"control": 50, "treatment": 50}, START + HOUR * at)
        log.lines[-1]["router"] = router
    for number in range(240):
        user = f"u{number}"
        group[user] = ("control", "treatment")[number % 2]
        country[user] = COUNTRIES[(number // 2) % 3]
        first_day[user] = int(random.integers(0, 4))
        version = {"control": "v1", "treatment": "v2"}[group[user]]
        for day in range(first_day[user], 6):
            since = day - first_day[user]
            if since and random.random() < 0.4:
                continue
            fallback = "timeout" if group[user] == "treatment" and random.random() < 0.1 else None
            fell_back |= {user} if fallback else set()
            # Who changes country later still belongs to the first one, wherever the lines are in the file.
            sent = country[user] if since == 0 else "elsewhere"
            request = log.exposure(
                user,
                group[user],
                START + DAY * day + HOUR * int(random.integers(1, 22)),
                fallback=fallback,
                served_version="v1" if fallback else version,
                attributes={NAME: sent, "plan": "basic"},
                items=[1, 2, 3] if version == "v1" or fallback else [3, 4],
            )
            made_of["lists"][user][since] += 1
            if random.random() < (0.3 if group[user] == "control" else 0.6 - 0.05 * since):
                log.outcome("click", user, request, START + DAY * day + HOUR * 23, item_id=3)
                made_of["clicks"][user][since] += 1
    log.exposure("robot", "treatment", START, synthetic=True, attributes={NAME: "synthetic"})
    log.exposure("late", "control", START + DAY * 6 - HOUR / 2, attributes={})
    order = random.permutation(len(log.lines))
    log.lines = [log.lines[index] for index in order]
    folder = log.write(tmp_path_factory.mktemp("log"))
    text = file_text("ctr", secondary=METRICS_OF_FILE[1:])
    (report,) = analyse([folder], load_text(text), detailed=True, known=KNOWN).experiments
    return Made(report, group, country, first_day, made_of["lists"], made_of["clicks"], fell_back)


def ratio(made: Made, users: list[str], day: int | None = None) -> float:
    """Clicks over lists of these users, on one of their days or on all."""

    def count(of: dict[str, Counter[int]]) -> int:
        return sum(of[user].total() if day is None else of[user][day] for user in users)

    return count(made.clicks) / count(made.lists)


def test_attributes_of_the_first_call_decide(made: Made) -> None:
    """Clicks over lists of each country's users, by hand; nobody is in the country that they moved to."""
    found = by_label(breakdown(shown(made.report), "attribute", NAME))
    assert set(found) == set(COUNTRIES)
    for country, row in found.items():
        of = {
            group: [user for user in made.group if made.group[user] == group and made.country[user] == country]
            for group in ("control", "treatment")
        }
        assert (row.users, row.baseline_users) == (len(of["treatment"]), len(of["control"]))
        assert row.value == pytest.approx(ratio(made, of["treatment"]), rel=1e-9)
        assert row.baseline_value == pytest.approx(ratio(made, of["control"]), rel=1e-9)
        assert 0 <= row.adjusted_p <= 1


def test_an_attribute_that_all_users_share_gives_the_main_table(made: Made) -> None:
    """One value for everybody: the same value, change and interval as the report's own metric."""
    (row,) = breakdown(shown(made.report), "attribute", "plan").slices
    metric = made.report.decision.groups[0].metrics[0]
    assert row.users == metric.users
    assert row.baseline_users == metric.baseline_users - 1  # the one whose call had no attributes
    assert row.value == pytest.approx(metric.value, rel=1e-12)
    assert row.baseline_value == pytest.approx(metric.baseline_value, rel=0.01)


def test_days_since_the_first_exposure(made: Made) -> None:
    """Only whole days count, for users who have had them; who did not come that day is a user all the same."""
    found = by_label(breakdown(shown(made.report), "day"))
    assert list(found) == [f"day {day}" for day in range(5)]
    for day, row in enumerate(found.values()):
        had = {
            group: [u for u in made.group if made.group[u] == group and made.first_day[u] + day <= 4]
            for group in ("control", "treatment")
        }
        assert (row.users, row.baseline_users) == (len(had["treatment"]), len(had["control"]))
        assert row.value == pytest.approx(ratio(made, had["treatment"], day), rel=1e-9)
        assert row.baseline_value == pytest.approx(ratio(made, had["control"], day), rel=1e-9)
        lists = [sum(made.lists[user][day] for user in had[group]) for group in ("treatment", "control")]
        assert [row.divisor, row.baseline_divisor] == lists


def test_what_answered_is_described_and_not_compared(made: Made) -> None:
    """By version, and by the first fallback; no change, no interval, no p."""
    one = breakdown(shown(made.report), "served")
    found = by_label(one)
    assert set(found) == {"v2", "v1 (fallback: timeout)"}
    treated = [user for user in made.group if made.group[user] == "treatment"]
    fell = [user for user in treated if user in made.fell_back]
    assert found["v1 (fallback: timeout)"].users == len(fell)
    assert found["v1 (fallback: timeout)"].value == pytest.approx(ratio(made, fell), rel=1e-9)
    assert found["v2"].value == pytest.approx(ratio(made, [u for u in treated if u not in fell]), rel=1e-9)
    assert all(math.isnan(row.relative_difference) and math.isnan(row.adjusted_p) for row in one.slices)
    assert "not randomised" in one.name


def test_every_metric_is_broken_down(made: Made) -> None:
    """Each like the primary one, which comes first; a quantile alone is not, whose histogram nobody splits."""
    details = shown(made.report)
    metrics = [one.metric for one in details.breakdowns]
    assert metrics[0] == "ctr"
    assert list(dict.fromkeys(metrics)) == ["ctr", *(m for m in METRICS_OF_FILE if m not in ("ctr", QUANTILE))]
    for metric in made.report.decision.groups[0].metrics:
        if metric.rule.name != QUANTILE:
            (row,) = breakdown(details, "attribute", "plan", metric.rule.name).slices
            assert row.users == metric.users
            assert row.value == pytest.approx(metric.value, rel=1e-9)
            assert breakdown(details, "served", metric=metric.rule.name).slices
            assert breakdown(details, "day", metric=metric.rule.name).slices


# --- values of each group over time -----------------------------------------------------------------------------------


def test_values_of_each_group_end_at_the_report(made: Made) -> None:
    """Control first; the last time has the values of the table of metrics, and earlier ones those of their looks."""
    paths = shown(made.report).paths
    for metric, found in zip(made.report.decision.groups[0].metrics, paths.values, strict=True):
        assert found.metric == metric.rule.name
        assert found.values.shape == (len(paths.times), 2)
        assert found.values[-1] == pytest.approx([metric.baseline_value, metric.value], nan_ok=True)
    relative = paths.values[0].values[:, 1] / paths.values[0].values[:, 0] - 1
    assert relative == pytest.approx(paths.metrics[0].relative_difference)
    assert shown(made.report).before_first_look is None


@pytest.mark.parametrize(("hours", "minutes", "points"), [(0.05, 1, 3), (1.5, 5, 18), (5, 15, 20), (20, 60, 20)])
def test_points_come_before_the_first_look(tmp_path: Path, hours: float, minutes: int, points: int) -> None:
    """Values by the hour, or more often early on; they are no looks, and change no verdict."""
    log = LogLines()
    for number in range(200):
        group, at = ("control", "treatment")[number % 2], START + HOUR * hours * number / 200
        request = log.exposure(f"u{number}", group, at)
        if number % 5 < 2:
            log.outcome("click", f"u{number}", request, at, item_id=1)
    now = START + HOUR * hours
    folder, config = log.write(tmp_path), load_text(file_text("ctr"))
    (report,) = analyse([folder], config, detailed=True, as_of=now).experiments
    early = shown(report).before_first_look
    assert early is not None
    assert early.width == timedelta(minutes=minutes)
    assert len(early.times) == points + 1
    assert early.times[-1] == now
    assert early.times[0] == START + early.width
    assert early.users[-1].tolist() == [100, 100]
    assert early.values[0].values[-1] == pytest.approx(shown(report).paths.values[0].values[-1])
    half = (START + HOUR * hours / 2 - START) // early.width  # clicks over lists up to a point in the middle
    until = [number for number in range(0, 200, 2) if START + HOUR * hours * number / 200 <= early.times[half]]
    assert early.values[0].values[half, 0] == pytest.approx(sum(n % 5 < 2 for n in until) / len(until))
    (bare,) = analyse([folder], config, as_of=now).as_dict()["experiments"]  # type: ignore[misc]
    assert bare == Report(now, LogFacts(0, 0, 0), (report,)).as_dict()["experiments"][0]  # type: ignore[index]
    assert bare["history"] == []


def test_what_versions_recommended(made: Made) -> None:
    """Lists, items, coverage of a known catalogue, the most recommended ones, and how alike they are."""
    found = shown(made.report).recommended
    first, second = found.versions
    assert (first.version, second.version) == ("v1", "v2")
    total = sum(days.total() for days in made.lists.values()) + 1
    assert first.lists + second.lists == total
    assert (first.items, first.coverage, first.offline) == (3, 0.5, (("recall@10", 0.1),))
    assert (second.items, second.offline) == (2, ())
    assert math.isnan(second.coverage)
    assert first.top == ((1, 1.0), (2, 1.0), (3, 1.0))
    assert (first.top_share, second.top_share) == (1.0, 1.0)
    np.testing.assert_allclose(found.overlap, [[1, 1 / 4], [1 / 4, 1]])


def test_traffic_over_time_has_every_call(made: Made) -> None:
    """Bins add up to the groups' calls, errors and fallbacks, and each begins where it says."""
    traffic, facts = shown(made.report).traffic, made.report.gathered.facts
    assert traffic.calls.sum(axis=0).tolist() == [one.exposures for one in facts]
    assert traffic.fallbacks.sum(axis=0).tolist() == [one.fallbacks for one in facts]
    assert traffic.errors.sum(axis=0).tolist() == [one.errors for one in facts]
    most, least = traffic.errors + traffic.fallbacks, np.maximum(traffic.errors, traffic.fallbacks)
    assert ((least <= traffic.troubled) & (traffic.troubled <= most)).all()
    assert 0 < traffic.troubled.sum() < most.sum(), "a call that failed and fell back is one call in trouble"
    assert (
        traffic.begin <= min(found.begin for found in made.report.gathered.allocations) < traffic.begin + traffic.width
    )
    assert traffic.since == min(found.begin for found in made.report.gathered.allocations)
    assert traffic.until == made.report.gathered.looks.times[-1]
    last = traffic.begin + traffic.width * (len(traffic.calls) - 1)
    assert last <= made.report.gathered.looks.times[-1] < last + traffic.width
    assert 50 <= len(traffic.calls) <= 240


def test_changes_are_said_once_for_two_routers(made: Made) -> None:
    """From the log's own lines."""
    (change,) = shown(made.report).changes
    assert (change.kind, change.at) == ("allocation", START)
    assert change.text == "shares are 50/50 (control, treatment)"


def test_paths_have_every_look(made: Made) -> None:
    """One path for each metric and treatment, with the report's own numbers at the end."""
    found = shown(made.report).paths
    assert len(found.times) == len(found.users) == made.report.decision.groups[0].lifts.size
    assert [path.metric for path in found.metrics] == list(METRICS_OF_FILE)
    assert found.metrics[0].relative_difference[-1] == made.report.decision.groups[0].metrics[0].relative_difference


RAMP = """
    ramp:
      - {at: 2026-11-01T00:00:00Z, traffic: 100, control: 80, treatment: 20}
      - {at: 2026-11-04T00:00:00Z, traffic: 100, control: 50, treatment: 50}
"""


@pytest.mark.parametrize("metric", ["ctr", "revenue_per_user", "conversion_rate"])
def test_a_ramp_keeps_its_strata_in_every_part(tmp_path: Path, metric: str) -> None:
    """Users in two allocations, buckets that move: one value for everybody still gives the main table's numbers."""
    log, random = LogLines(), np.random.default_rng(5)
    log.allocation("000000000001", {"control": 80, "treatment": 20})
    log.allocation("000000000002", {"control": 50, "treatment": 50}, START + DAY * 3)
    for number in range(400):
        user, bucket = f"u{number}", number * 25
        log.outcome("purchase", user, at=START - DAY, value=float(number % 7), currency="EUR")
        for day, share, allocation in ((0, 2000, "000000000001"), (3, 5000, "000000000002")):
            if random.random() < 0.7:
                group, at = ("treatment" if bucket < share else "control"), START + DAY * (day + random.random() * 2)
                request = log.exposure(
                    user,
                    group,
                    at,
                    allocation=allocation,
                    bucket=bucket,
                    attributes={"all": "yes"},
                    propensity=share / 10_000 if group == "treatment" else 1 - share / 10_000,
                )
                if random.random() < 0.5:
                    log.outcome("click", user, request, at + HOUR, item_id=1)
                    log.outcome("conversion", user, request, at + HOUR)
                    log.outcome("purchase", user, request, at + HOUR, value=float(number % 7 + 1), currency="EUR")
    (report,) = analyse([log.write(tmp_path)], load_text(file_text(metric)), detailed=True).experiments
    main = report.decision.groups[0].metrics[0]
    (row,) = breakdown(shown(report), "attribute").slices
    assert len(report.gathered.allocations) == 2
    control, treatment = report.gathered.facts
    assert (row.users, row.baseline_users) == (treatment.users, control.users)
    answered = breakdown(shown(report), "served").slices
    assert {one.group: one.users for one in answered} == {"control": control.users, "treatment": treatment.users}
    assert row.value == pytest.approx(main.value, rel=1e-9)
    assert row.relative_difference == pytest.approx(main.relative_difference, rel=1e-9)
    assert row.interval == pytest.approx(main.relative_interval, rel=1e-9)
    assert row.adjusted_p == pytest.approx(main.p_value, rel=1e-6)
    days = by_label(breakdown(shown(report), "day"))
    # None reaches over the ramp; clicks over lists need lists, and nobody came twice in an allocation.
    assert set(days) == ({"day 0"} if metric == "ctr" else {"day 0", "day 1", "day 2"})


def test_many_values_and_short_looks(tmp_path: Path) -> None:
    """The twelve largest values are shown and the others counted; looks of an hour give slices of an hour."""
    log = LogLines()
    for number in range(120):
        for value in range(15):
            if number % 15 <= value:
                group = ("control", "treatment")[number % 2]
                log.exposure(
                    f"{number}-{value}", group, START + HOUR / 60 * number, attributes={"shop": f"s{value:02}"}
                )
    text = file_text("conversion_rate").replace("look: 1d, minimum: 7d", "look: 1h, minimum: 1h")
    (report,) = analyse([log.write(tmp_path)], load_text(text), detailed=True, as_of=START + HOUR * 6).experiments
    shops = breakdown(shown(report), "attribute")
    assert [row.label for row in shops.slices] == [f"s{value:02}" for value in range(14, 2, -1)]
    assert shops.left_out == 3
    assert all(math.isnan(row.relative_difference) for row in shops.slices)  # nobody converted
    hours = breakdown(shown(report), "day")
    assert [row.label for row in hours.slices][:2] == ["look 0", "look 1"]
    assert "1:00:00" in hours.name


def test_an_experiment_without_users_has_empty_details(tmp_path: Path) -> None:
    """Nothing to show is no error."""
    log = LogLines()
    log.exposure("u", None)
    log.allocation("000000000001", {"control": 50, "treatment": 50})
    (report,) = analyse([log.write(tmp_path)], load_text(file_text()), detailed=True).experiments
    details = shown(report)
    assert (details.breakdowns, details.recommended.versions, len(details.traffic.calls)) == ((), (), 0)
    assert [change.kind for change in details.changes] == ["allocation"]
    assert len(details.paths.times) == len(details.paths.users) == 1


# --- a ratio of two outcome types -------------------------------------------------------------------------------------


def test_own_ratios_are_sums_over_sums_by_the_delta_method(tmp_path: Path) -> None:
    """Finished over begun plays: value, error and interval as tea-tasting has them, window and direction kept."""
    import pyarrow as pa
    import tea_tasting as tt

    log, random = LogLines(), np.random.default_rng(11)
    rows: dict[str, list[float]] = {"variant": [], "begun": [], "finished": []}
    for number in range(300):
        user, treated = f"u{number}", number % 2
        begun = int(random.poisson(3))
        finished = int(random.binomial(begun, 0.4 + 0.15 * treated))
        request = log.exposure(user, ("control", "treatment")[treated])
        for count, kind in ((begun, "play"), (finished, "finish")):
            for position in range(count):
                at = START + HOUR * (position + 1)
                log.outcome(kind, user, request if position % 2 else None, at)
            log.outcome(kind, user, at=START + DAY * 3)  # too late for the window
        for name, value in (("variant", treated), ("begun", begun), ("finished", finished)):
            rows[name].append(value)
    own = "metrics:\n  completion: {type: ratio, outcome: finish, over: play, window: 2d, margin: 0.05}\n"
    text = file_text("completion", metrics=own)
    (report,) = analyse([log.write(tmp_path)], load_text(text), detailed=True).experiments
    metric = report.decision.groups[0].metrics[0]
    plan = tt.Experiment(completion=tt.RatioOfMeans("finished", "begun", use_t=False))
    oracle = plan.analyze(pa.table(rows))["completion"]
    assert metric.value == pytest.approx(oracle.treatment, rel=1e-9)
    assert metric.baseline_value == pytest.approx(oracle.control, rel=1e-9)
    assert metric.difference == pytest.approx(oracle.effect_size, rel=1e-9)
    assert metric.interval == pytest.approx((oracle.effect_size_ci_lower, oracle.effect_size_ci_upper), rel=1e-9)
    assert metric.p_value == pytest.approx(oracle.pvalue, rel=1e-9)
    assert metric.margin == 0.05
    assert breakdown(shown(report), "day").metric == "completion"


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        ("{type: ratio, outcome: finish}", "a `ratio` needs `over`"),
        ("{type: ratio, outcome: finish, over: finish}", "must differ from `outcome`"),
        ("{type: ratio, outcome: finish, over: play, winsorise: 0.9}", "is not allowed for a `ratio`"),
        (
            "{type: mean, outcome: finish, over: play}",
            "is allowed for the type `ratio` only, and this metric is a mean",
        ),
    ],
)
def test_wrong_ratios_are_refused(own: str, sentence: str) -> None:
    """In words that name the key."""
    with pytest.raises(ConfigErrors, match=re.escape(sentence)):
        load_text(file_text(metrics=f"metrics:\n  completion: {own}\n"))


def test_a_ratio_lets_both_types_be_recorded_and_has_a_revision_of_its_own() -> None:
    """Clients may send the type that it divides by; what it divides by is part of the configuration."""
    files = [
        load_text(file_text(metrics=f"metrics:\n  a: {{type: ratio, outcome: finish, over: {over}}}\n"))
        for over in ("play", "start")
    ]
    assert {"finish", "play"} <= known_types(files[0])
    assert files[0].revision != files[1].revision
