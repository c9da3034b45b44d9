"""Whole pages as text, from a situation or a report. Only this module uses the templates."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from abfleet_analysis.report.report import Report
from abfleet_analysis.report.run_state import State
from abfleet_experiments.config import Config
from abfleet_process.build_info import build_info
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from abfleet_dashboard.foreign import readable
from abfleet_dashboard.kept_together import kept_together
from abfleet_dashboard.local_times import with_times
from abfleet_dashboard.numbers import instant
from abfleet_dashboard.pictures.svg import percent
from abfleet_dashboard.situation import Situation
from abfleet_dashboard.views.autopilot_view import autopilot_of, autopilot_of_all
from abfleet_dashboard.views.experiment_view import ExperimentView, as_of_text, experiment_path, experiment_view
from abfleet_dashboard.views.filter_view import Filter, choices
from abfleet_dashboard.views.fleet_view import router_view
from abfleet_dashboard.views.glossary_view import glossary_sections
from abfleet_dashboard.views.links_view import links_of
from abfleet_dashboard.views.overview_view import (
    ALL,
    about_file,
    about_log,
    ended_rows,
    notices,
    overview_row,
    overview_rows,
)
from abfleet_dashboard.views.shadow_view import shadow_sentences, shadow_view

STATIC: Final = Path(__file__).parent / "static"
"""What pages link to under `/static/`."""
STYLE: Final = "abfleet.css"
_REFRESH_WITHOUT_SCRIPT_S: Final = 10


def overview_page(situation: Situation, chosen: Filter = ALL) -> str:
    """The page of all experiments, or of those that are chosen, with warnings about log, analysis and fleet."""
    return _page(
        "overview.html",
        situation,
        title="Experiments",
        here="/",
        rows=overview_rows(situation, chosen),
        ended=ended_rows(situation.report, chosen),
        choices=choices(situation.report, chosen),
        chosen=bool(chosen),
        autopilot=autopilot_of_all(situation),
        shadow=shadow_sentences(situation.config),
        routers=[router_view(router) for router in situation.routers],
        links=links_of(situation.links),
        csv="/csv",
    )


def experiment_page(situation: Situation, name: str) -> str:
    """One experiment. KeyError if neither the report nor the experiments file knows it."""
    reports = situation.report.experiments if situation.report else ()
    report = next((one for one in reports if one.name == name), None)
    if report is None:
        if situation.config is None or all(one.name != name for one in situation.config.experiments):
            raise KeyError(name)
        sentences = ("No report knows this experiment yet. Once its first calls are in the log, it is shown here.",)
        return message_page(name, sentences, situation=situation)
    view = experiment_view(report, situation.config, "e", situation.files)
    return _page(
        "experiment.html",
        situation,
        title=name,
        here=experiment_path(name),
        view=view,
        autopilot=autopilot_of(situation, name),
        download=f"/report/{quote(name, safe='')}.html",
        links=links_of(situation.links, name),
        csv=f"/csv/{quote(name, safe='')}",
    )


def fleet_page(situation: Situation) -> str:
    """The page of the fleet: routers, versions, workers and rates."""
    return _page(
        "fleet.html",
        situation,
        title="Fleet",
        here="/fleet",
        routers=[router_view(router, number) for number, router in enumerate(situation.routers, start=1)],
        notices=about_file(situation),
        links=links_of(situation.links),
        csv="/csv",
    )


def shadow_page(situation: Situation) -> str:
    """The page of versions that are asked in the shadow: how their answers compare with those that users got."""
    return _page(
        "shadow.html",
        situation,
        title="Shadow",
        here="/shadow",
        view=shadow_view(situation),
        notices=about_file(situation),
        csv="/csv",
    )


def glossary_page(situation: Situation) -> str:
    """What the words of the pages, the report, the log and the metrics mean."""
    return _page("glossary.html", situation, title="Glossary", here="/glossary", sections=glossary_sections())


def message_page(title: str, sentences: Iterable[str], *, situation: Situation | None = None) -> str:
    """A page that only says something: not found, not allowed, not ready."""
    return _page("message.html", situation, title=title, here="", sentences=tuple(sentences))


def report_file(report: Report, *, config: Config | None = None, only: str | None = None) -> str:
    """The report as one file that needs no other and runs no script. KeyError if it has no experiment named `only`.

    A function of its arguments: the same report gives the same file.
    """
    chosen = [one for one in report.experiments if only is None or one.name == only]
    if only is not None and not chosen:
        raise KeyError(only)
    views: list[ExperimentView] = [experiment_view(one, config, f"e{index}") for index, one in enumerate(chosen)]
    template = _environment().get_template("report.html")
    return template.render(
        title=only if only is not None else "Experiments",
        style=Markup((STATIC / STYLE).read_text(encoding="utf-8")),  # noqa: S704 - our own file, without `<`
        csv="",
        rows=tuple(overview_row(one) for one in chosen if one.run_state.state is not State.ENDED),
        ended=ended_rows(report) if only is None else (),
        views=views,
        notices=about_log(report),
        as_of=as_of_text(report.as_of),
        log=report.log,
    )


def _page(template: str, situation: Situation | None, **context: Any) -> str:
    report = situation.report if situation else None
    context.setdefault("notices", notices(situation) if situation else ())
    return (
        _environment()
        .get_template(template)
        .render(
            as_of=as_of_text(report.as_of) if report else "",
            made_at=instant(situation.made_at, seconds=True) if situation and situation.made_at else "",
            refresh_s=situation.refresh_s if situation else 0,
            refresh_without_script_s=_REFRESH_WITHOUT_SCRIPT_S,
            log=report.log if report else None,
            build=str(build_info()),
            **context,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("abfleet_dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    environment.filters["percent"] = percent
    environment.filters["times"] = with_times
    environment.filters["together"] = kept_together
    return environment


def _finalized(value: object) -> object:
    """Makes hidden characters of foreign text visible, before a template escapes and prints it."""
    return readable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
