"""Pages as documents: sound HTML whatever they show, a plain sentence for every odd state, and no trust in names."""

import dataclasses
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from abfleet_analysis.report.report import LogFacts, Report
from abfleet_dashboard.pages import experiment_page, fleet_page, glossary_page, message_page, overview_page, report_file
from abfleet_dashboard.situation import RouterState, Situation
from abfleet_dashboard.views.experiment_view import experiment_view
from abfleet_dashboard.views.glossary_view import TEXT, glossary_sections
from abfleet_dashboard.views.metric_view import metric_tables
from abfleet_experiments.file.load import load_text
from abfleet_process.build_info import build_info
from abfleet_protos.admin_pb2 import StatusResponse

from tests.dashboard.html_check import faults, read
from tests.dashboard.made import (
    FILE,
    HOSTILE,
    hostile_report,
    made_experiment,
    made_report,
    made_times,
    renamed,
    router_status,
    status_document,
)

NOW = made_times(28)[-1] + timedelta(seconds=5)


def situation(report: Report | None = None, **changed: object) -> Situation:
    values: dict[str, object] = {"now": NOW, "report": report, "made_at": NOW if report else None} | changed
    return Situation(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report() -> Report:
    """Five experiments of all kinds."""
    first = made_report()
    others = (("errors", "checkout"), ("lost-lines", "lost"), ("no-effect", "tiny"), ("harm", "search"))
    made = tuple(made_experiment(scenario, 2, name) for scenario, name in others)
    return dataclasses.replace(first, experiments=(*first.experiments, *made))


def test_every_page_is_sound(report: Report) -> None:
    """Tags closed, ids unique, headings in order, links that lead somewhere, nothing inline, with details or not."""
    router = RouterState(address="127.0.0.1:50052", status=router_status())
    now = situation(report, routers=(router, RouterState(address="10.0.0.8:1", error="connection refused")))
    plain = (overview_page(now), fleet_page(now), glossary_page(now))
    for page in (*plain, message_page("Not found", ("There is no such page.",))):
        assert faults(page) == []
        assert f'<p class="small">{build_info()}</p>' in page, "the foot names the build"
    for one in report.experiments:
        assert faults(experiment_page(now, one.name)) == []
        bare = dataclasses.replace(one, details=None)
        assert faults(report_file(dataclasses.replace(report, experiments=(bare,))), self_contained=True) == []
    assert faults(report_file(report), self_contained=True) == []


def test_the_glossary_has_every_term_of_the_docs() -> None:
    """The page shows each row of docs/glossary.md, of which the dashboard has a copy; every page leads there."""
    docs = Path(__file__).parents[2] / "docs" / "glossary.md"
    assert TEXT.read_bytes() == docs.read_bytes()
    page = glossary_page(situation())
    sections = glossary_sections()
    rows = [line for line in docs.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    heads = len(sections)
    assert sum(len(section.rows) for section in sections) == len(rows) - heads
    assert all(f"<dt>{term}</dt>" in page for section in sections for term, _ in section.rows)
    assert 'href="/glossary"' in fleet_page(situation())


def test_the_report_file_is_a_function_of_the_report(report: Report) -> None:
    """Twice the same bytes; one experiment on request; an unknown one is a KeyError."""
    assert report_file(report) == report_file(report)
    alone = report_file(report, only="checkout")
    assert "checkout" in alone
    assert "homepage-ranking" not in alone
    with pytest.raises(KeyError):
        report_file(report, only="nowhere")


def test_overview_has_what_is_to_be_done_first(report: Report) -> None:
    """Roll back, refuse, ship, then the rest; with winner, change, users, time left and faults of each."""
    page = overview_page(situation(report))
    order = [page.index(f">{name}<") for name in ("checkout", "search", "lost", "homepage-ranking", "tiny")]
    assert order == sorted(order)
    text = read(page).text
    assert "experiment (v1.3.0-beta)" in text
    assert "+15.3 %" in text
    assert "control (v1.2.3) stays" in text
    assert "unknown" in text
    assert "155,988 of 280,939" in text


def test_experiments_of_the_file_without_a_report_are_listed() -> None:
    """On the overview, and with a page of their own that says what is missing; an unknown name is a KeyError."""
    now = situation(config=load_text(FILE))
    assert "Not analysed yet" in overview_page(now)
    assert "No report knows this experiment yet" in experiment_page(now, "test")
    with pytest.raises(KeyError):
        experiment_page(now, "nowhere")


def test_only_refunds_can_change_by_more_than_all() -> None:
    """A boundary below -100 % is a number where values may be below 0, and else cannot be reached yet."""
    made = made_experiment("harm", 2, "one")
    assert made.details is not None
    paths = made.details.paths
    path = dataclasses.replace(paths.metrics[0], worse_at=0 * paths.metrics[0].worse_at - 1.26)
    details = dataclasses.replace(made.details, paths=dataclasses.replace(paths, metrics=(path,)))
    for negative in (False, True):
        evidence = made.gathered.evidence
        metrics = tuple(dataclasses.replace(one, negative=negative) for one in evidence.metrics)
        gathered = dataclasses.replace(made.gathered, evidence=dataclasses.replace(evidence, metrics=metrics))
        (picture,) = experiment_view(dataclasses.replace(made, gathered=gathered, details=details), None, "e").main
        assert ("harm cannot be reached yet" in picture.description) is not negative
        assert ("−126.0" in picture.description) is negative


def test_an_estimate_without_an_interval_has_room() -> None:
    """The axis of a treatment's metrics reaches to it, and the note says what is drawn."""
    made = made_experiment("harm", 2, "one")
    unknown = (math.nan, math.nan)
    group = made.decision.groups[0]
    metrics = tuple(
        dataclasses.replace(
            one, relative_difference=-0.4, relative_interval=unknown, relative_sequential_interval=unknown
        )
        for one in group.metrics
    )
    decision = dataclasses.replace(made.decision, groups=(dataclasses.replace(group, metrics=metrics),))
    changed = dataclasses.replace(made, decision=decision)
    (table,) = metric_tables(changed)
    assert all('class="strip-estimate"' in row.strip for row in table.rows)
    assert not any("strip-arrow" in row.strip for row in table.rows)
    page = report_file(dataclasses.replace(made_report(), experiments=(changed,)))
    for part in ("Dot: the estimate.", "the dot is hollow", "Arrow: the interval or the estimate goes on outside"):
        assert part in page


def test_the_set_up_is_shown_with_the_file(report: Report) -> None:
    """Where the file has the experiment, its salt and layer; where it has not, that it is gone."""
    named = renamed(report, {"tiny": "test"})
    now = situation(named, config=load_text(FILE))
    text = read(experiment_page(now, "test")).text
    assert "100 % of the users of layer default" in text
    assert "No longer in the experiments file" not in text
    assert "No longer in the experiments file" in experiment_page(now, "search")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (lambda r: {"report": None}, "The log has not been analysed yet."),
        (lambda r: {"report": None, "analysing": True}, "The log is being analysed for the first time."),
        (lambda r: {"report": None, "analysis_error": "no such folder"}, "could not be analysed: no such folder."),
        (
            lambda r: {"analysis_error": "out of memory", "made_at": NOW - timedelta(minutes=3)},
            "The newest analysis failed: out of memory. This report is 3 minutes old.",
        ),
        (lambda r: {"made_at": NOW - timedelta(hours=2)}, "This report is 2 hours old; no newer one has been made."),
        (
            lambda r: {"made_at": NOW - timedelta(hours=2), "analysing": True},
            "This report is 2 hours old; a newer one is being made.",
        ),
        (
            lambda r: {"report": Report(None, LogFacts(0, 0, 0), ())},
            "The log is empty, so there is nothing to conclude",
        ),
        (lambda r: {"report": Report(None, LogFacts(7, 7, 0), ())}, "The log has no line that can be read"),
        (lambda r: {"report": Report(NOW, LogFacts(7, 0, 0), ())}, "Neither the experiments file nor the log has an"),
        (
            lambda r: {"now": NOW + timedelta(hours=5), "made_at": NOW + timedelta(hours=5)},
            "newest line of the log is 5",
        ),
        (lambda r: {"config_errors": ("line 3: weights sum to 110",)}, "line 3: weights sum to 110"),
        (lambda r: {}, "3 lines of 2,104,377 in the log cannot be read."),
    ],
)
def test_odd_states_are_plain_sentences(
    report: Report, changed: Callable[[Report], dict[str, object]], sentence: str
) -> None:
    """Above everything else on the overview; the page stays sound."""
    page = overview_page(situation(**({"report": report, "made_at": NOW} | changed(report))))
    assert faults(page) == []
    assert sentence in read(page).text


def test_a_fresh_report_needs_no_sentence() -> None:
    """Nothing is said above it when all is well."""
    healthy = Report(NOW, LogFacts(100, 0, 0), made_report().experiments)
    assert "notice" not in overview_page(situation(healthy))


# --- the fleet -------------------------------------------------------------------------------------------------------


def test_the_fleet_page_names_every_worker() -> None:
    """Versions with their state in words, rates, and what the router says of itself."""
    text = read(fleet_page(situation(routers=(RouterState(address="a:1", status=router_status()),)))).text
    for said in (
        "serving, 0.4 calls/s, workers missing: v1.3.0-beta, v1.4.0-rc1",
        "1 of 1 worker up",
        "1 of 2 workers up",
        "0 of 1 worker up",
        "ejected after failures, receives no calls; 0 calls queued or in progress",
        "unreachable, receives no calls",
        "Calls since the router started",
        "33.3 %",
        "revision 0a1b2c3d4e5f, in force since",
        "3 under overload, 1 for invalid input",
    ):
        assert said in text, said


def test_rates_are_over_the_time_between_two_documents() -> None:
    """Two documents ten seconds apart."""
    before, after = router_status(), router_status()
    after.uptime_s += 10
    after.groups[0].calls = 1500
    state = RouterState(address="a:1", status=after, earlier=before)
    text = read(fleet_page(situation(routers=(state,)))).text
    assert "Calls in the last 10 seconds" in text
    assert "50.0\n100.0 %" in text


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        (RouterState(address="a:1"), "The router at a:1 cannot be reached: it has not answered yet"),
        (RouterState(address="a:1", error="refused"), "The router at a:1 cannot be reached: refused"),
        (
            RouterState(address="a:1", status=router_status(), error="gone"),
            "The router can no longer be reached: gone.",
        ),
        (RouterState(address="a:1", status=StatusResponse()), "not serving"),
        (
            RouterState(
                address="a:1",
                status=router_status(
                    status_document() | {"config": status_document()["config"] | {"errors": ["bad weights"]}}
                ),
            ),
            "bad weights",
        ),
    ],
)
def test_a_router_in_trouble_is_a_sentence(state: RouterState, sentence: str) -> None:
    """On the fleet page, and the overview says that something is wrong."""
    now = situation(routers=(state,))
    assert faults(fleet_page(now)) == []
    assert sentence in read(fleet_page(now)).text
    assert ">Failing<" in overview_page(now) or ">Degraded<" in overview_page(now)


def test_no_router_is_a_sentence() -> None:
    """On both pages."""
    assert "This dashboard has no router to ask" in fleet_page(situation())
    assert "This dashboard has no router to ask" in overview_page(situation())


# --- names that others chose -----------------------------------------------------------------------------------------


def test_hostile_names_are_text() -> None:
    """No name makes an element, an attribute or a template's value, or hides a character; pages stay sound."""
    report = hostile_report()
    document = renamed(status_document(), {"homepage-ranking": HOSTILE[0], "v1.2.3": HOSTILE[1], "control": HOSTILE[3]})
    routers = (
        RouterState(address=HOSTILE[1], status=router_status(document)),
        RouterState(address="b:1", error=HOSTILE[0]),
    )
    now = situation(report, routers=routers, analysis_error=HOSTILE[0], config_errors=HOSTILE)
    pages = [
        (overview_page(now), False),
        (fleet_page(now), False),
        (experiment_page(now, HOSTILE[0]), False),
        (message_page(HOSTILE[1], HOSTILE, situation=now), False),
        (report_file(report), True),
    ]
    for page, alone in pages:
        assert faults(page, self_contained=alone) == []
        found = read(page)
        assert "img" not in found.tags
        assert found.tags.count("script") == (0 if alone else 1)
        assert not set("\u202e\u200b") & set(page)
    shown = read(experiment_page(now, HOSTILE[0])).text
    assert all(name in shown for name in HOSTILE[:3])
    assert "evil⟨U+202E⟩gnp.exe⟨U+200B⟩" in shown
