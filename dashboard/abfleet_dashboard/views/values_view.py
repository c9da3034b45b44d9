"""Each group's values and users over time, as pictures: by looks, or by the hour until the first one."""

from dataclasses import dataclass

from abfleet_analysis.report.details import Details
from abfleet_analysis.report.report import ExperimentReport
from abfleet_analysis.report.run_state import State

from abfleet_dashboard.numbers import duration, instant, metric_value
from abfleet_dashboard.pictures import over_time
from abfleet_dashboard.pictures.picture import Picture
from abfleet_dashboard.views.words import metric_name, metric_title


@dataclass(frozen=True, slots=True)
class ValuesView:
    """Pictures of each group's values. `note` says what their points are; `main` is of the primary metric."""

    note: str
    main: tuple[Picture, ...]
    others: tuple[Picture, ...]
    users: Picture | None


def values_view(report: ExperimentReport, details: Details, key: str) -> ValuesView:
    """The pictures of one experiment."""
    groups, early = report.gathered.evidence.groups, details.before_first_look
    times, users, values = details.paths.times, details.paths.users, details.paths.values
    last = "is the end of the log" if report.run_state.state is State.ENDED else "is now"
    note = f"Each point covers all users since the beginning, as known at that look; the last point {last}."
    if early is not None:
        times, users, values = early.times, early.users, early.values
        first = "" if report.waiting.next_look is None else f", {instant(report.waiting.next_look)}"
        every = duration(early.width.total_seconds()).removeprefix("1\u00a0")
        note = (
            f"One point every {every} until the first look{first}. These points are descriptive: they are not looks, "
            "and no verdict or interval is made from them."
        )
    main: list[Picture] = []
    others: list[Picture] = []
    rules = {metric.rule.name: metric.rule for metric in report.gathered.evidence.metrics}
    for index, one in enumerate(values):
        rule = rules[one.metric]
        picture = over_time.values(
            f"{key}-values-{index}",
            f"{metric_title(one.metric)} of each group",
            metric_name(one.metric),
            groups,
            times,
            one.values,
            lambda value, rule=rule: metric_value(rule, value),  # type: ignore[misc]
        )
        if picture is not None:
            (main if rule.role == "primary" else others).append(picture)
    return ValuesView(note, tuple(main), tuple(others), over_time.users(f"{key}-users", groups, times, users))
