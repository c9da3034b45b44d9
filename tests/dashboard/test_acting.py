"""What somebody can do from a page: copy a command, filter, download a table, follow a link, read their own time."""

import csv
import dataclasses
import io
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_analysis.report.report import ExperimentReport, Report
from abfleet_analysis.report.run_state import RunState, State
from abfleet_dashboard import csv_tables
from abfleet_dashboard.local_times import with_times
from abfleet_dashboard.numbers import instant
from abfleet_dashboard.pages import experiment_page, fleet_page, overview_page, report_file
from abfleet_dashboard.situation import RouterState, Situation
from abfleet_dashboard.views.commands_view import Files, commands
from abfleet_dashboard.views.filter_view import Filter, asked
from abfleet_dashboard.views.links_view import OutsideLink
from abfleet_experiments.file.load import load_text
from typer.main import get_command

from abfleet.cli import app
from tests.dashboard.html_check import faults, read
from tests.dashboard.made import (
    FILE,
    HOSTILE,
    hostile_report,
    in_its_first_day,
    made_experiment,
    made_report,
    made_times,
    renamed,
    router_status,
)

NOW = made_times(28)[-1] + timedelta(seconds=5)


@pytest.fixture(scope="module")
def report() -> Report:
    """One to ship, one to roll back, one that is halted; two owners."""
    first = dataclasses.replace(
        made_report().experiments[0], owner="search-team", hypothesis="Whole histories bring more clicks."
    )
    harm = dataclasses.replace(made_experiment("errors", 2, "checkout"), owner="crm")
    halted = dataclasses.replace(made_experiment("no-effect", 2, "tiny"), run_state=RunState(State.HALTED))
    return dataclasses.replace(made_report(), experiments=(first, harm, halted))


def situation(report: Report, **changed: object) -> Situation:
    return Situation(**({"now": NOW, "report": report, "made_at": NOW} | changed))  # type: ignore[arg-type]


# --- the head of a page ----------------------------------------------------------------------------------------------


def test_a_page_begins_with_the_hypothesis_and_what_comes_next(report: Report) -> None:
    """Hypothesis, owner, state and the dates stand before the first answer, in the report file too."""
    for page in (experiment_page(situation(report), "homepage-ranking"), report_file(report)):
        head = read(page).text.partition("Which version wins?")[0]
        assert "Hypothesis: Whole histories bring more clicks." in head
        assert "owner: search-team" in head
        assert "running since 1 Nov 2026, 00:00 UTC" in head
    early = dataclasses.replace(report, experiments=(made_experiment("planned-effect", 5, "young"),))
    (one,) = early.experiments
    waits = dataclasses.replace(
        one.waiting, next_look=NOW, earliest_ship=NOW + timedelta(days=3), horizon_ends=NOW + timedelta(days=9)
    )
    decision = dataclasses.replace(one.decision, verdict=Verdict.KEEP_RUNNING)
    early = dataclasses.replace(early, experiments=(dataclasses.replace(one, waiting=waits, decision=decision),))
    head = read(experiment_page(situation(early), "young")).text.partition("Which version wins?")[0]
    for said in ("Next look\n29 Nov 2026", "Earliest date to ship\n2 Dec 2026", "Last look\n8 Dec 2026"):
        assert said in head


# --- commands ---------------------------------------------------------------------------------------------------------


def parsed(line: str) -> tuple[str, dict[str, object]]:
    """A command and its parameters, as the command line takes them; raises what that raises."""
    program, word, *words = shlex.split(line)
    assert program == "abfleet"
    command = get_command(app).commands[word]  # type: ignore[attr-defined]
    return word, command.make_context(word, words).params


@pytest.mark.parametrize(
    ("name", "first", "words"),
    [
        ("homepage-ranking", "conclude", {"analyze", "halt", "ramp", "conclude"}),
        ("checkout", "ramp", {"analyze", "halt", "ramp", "conclude"}),
        ("tiny", "conclude", {"analyze", "resume", "conclude"}),
    ],
)
def test_commands_are_those_of_the_command_line(report: Report, name: str, first: str, words: set[str]) -> None:
    """Each parses as it stands; the one that the verdict asks for comes first, and others fit the state."""
    one = next(one for one in report.experiments if one.name == name)
    found = commands(one, Files())
    read_as = [parsed(command.line) for command in found]
    assert read_as[0][0] == first
    assert found[0].fits
    assert {word for word, _ in read_as} == words
    assert all(name in (params.get("experiment"),) for _, params in read_as)
    page = experiment_page(situation(report), name)
    assert all(command.line in read(page).text for command in found)


def test_a_command_names_the_files_of_the_dashboard(report: Report) -> None:
    """Log and experiments file, where they are not those that the commands take by themselves."""
    files = Files((Path("a b/logs"), Path("more")), Path("conf/x.yaml"))
    for command in commands(report.experiments[0], files):
        word, params = parsed(command.line)
        assert params["experiments"] == Path("conf/x.yaml")
        if word in ("analyze", "conclude"):
            assert params["logs"] == [Path("a b/logs"), Path("more")]


def test_names_in_commands_are_words_of_a_shell() -> None:
    """No name ends a command or begins another."""
    (one,) = hostile_report().experiments
    for command in commands(one, Files()):
        assert HOSTILE[0] in shlex.split(command.line)


def test_an_ended_experiment_can_only_be_looked_at(report: Report) -> None:
    """Nothing else would do anything."""
    ended = dataclasses.replace(report.experiments[0], run_state=RunState(State.ENDED, NOW, "canary"))
    assert [parsed(command.line)[0] for command in commands(ended, Files())] == ["analyze"]


# --- the filter -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, {"homepage-ranking", "checkout", "tiny"}),
        ({"state": "halted"}, {"tiny"}),
        ({"owner": "crm"}, {"checkout"}),
        ({"verdict": "ship"}, {"homepage-ranking"}),
        ({"verdict": "ship", "owner": "crm"}, set()),
        ({"owner": '"><script>', "other": "x"}, set()),
    ],
)
def test_the_overview_shows_what_is_asked_for(report: Report, query: dict[str, str], names: set[str]) -> None:
    """By state, verdict and owner, together; what matches nothing is a sentence with a way back."""
    page = overview_page(situation(report), asked(query))
    assert faults(page) == []
    shown = {one.name for one in report.experiments if f">{one.name}<" in page}
    assert shown == names
    found = read(page)
    chosen = [value for _, name, value in found.attributes if name == "selected"]
    assert len(chosen) == 3, "each box says what is chosen"
    assert ("No experiment matches." in found.text) == (not names)
    assert ("Show all" in found.text) == bool(query)


def test_a_filter_has_one_address() -> None:
    """Whatever else an address says, so that pages are kept once."""
    assert asked({"owner": "a b", "x": "1", "state": "running"}).query == "state=running&owner=a+b"
    assert not Filter()
    assert asked({"owner": "x" * 10_000}).query == f"owner={'x' * 256}"


# --- tables to download -----------------------------------------------------------------------------------------------


def rows_of(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


@pytest.mark.parametrize("early", [False, True])
def test_every_link_to_a_table_leads_to_one(report: Report, *, early: bool) -> None:
    """And every table of an experiment has a link; all rows are as wide as the head."""
    one = report.experiments[0]
    shown = dataclasses.replace(report, experiments=(in_its_first_day(one) if early else one,))
    page = experiment_page(situation(shown), one.name)
    linked = {
        unquote(value).rpartition("/")[2].removesuffix(".csv")
        for _, name, value in read(page).attributes
        if name == "href" and value.startswith("/csv/")
    }
    assert linked - set(csv_tables.EXPERIMENT_TABLES) == set()
    if not early:
        assert linked == set(csv_tables.EXPERIMENT_TABLES) - {"preference-over-time"}, "that is of interleavings"
    for table in csv_tables.EXPERIMENT_TABLES:
        head, *rows = rows_of(csv_tables.experiment_table(shown, one.name, table))
        assert rows or table not in linked, table
        assert {len(row) for row in rows} <= {len(head)}
    assert "/csv/" not in report_file(shown), "a file of its own has no dashboard to ask"


def test_tables_have_every_digit(report: Report) -> None:
    """As the report's JSON has them, and not as a page writes them."""
    one = report.experiments[0]
    head, *rows = rows_of(csv_tables.experiment_table(report, one.name, "metrics"))
    metric = one.decision.groups[0].metrics[0]
    first = dict(zip(head, rows[0], strict=True))
    assert float(first["value"]) == metric.value
    assert float(first["relative_sequential_interval_low"]) == metric.relative_sequential_interval[0]
    assert [row[0] for row in rows_of(csv_tables.overview_table(report))[1:]] == [o.name for o in report.experiments]


def test_a_table_that_is_not_there_is_a_key_error(report: Report) -> None:
    """An unknown one, one of an unknown experiment, and one of details that the report lacks."""
    bare = dataclasses.replace(
        report, experiments=tuple(dataclasses.replace(one, details=None) for one in report.experiments)
    )
    for of, name, table in (
        (report, "checkout", "nothing"),
        (report, "nobody", "groups"),
        (bare, "checkout", "overlap"),
    ):
        with pytest.raises(KeyError):
            csv_tables.experiment_table(of, name, table)


def test_a_name_is_no_formula() -> None:
    """A spreadsheet would run what begins with one of its signs."""
    named = renamed(made_report(), {"canary": "=HYPERLINK(1)", "experiment": "+1"})
    cells = [cell for row in rows_of(csv_tables.experiment_table(named, "homepage-ranking", "groups")) for cell in row]
    assert {"'=HYPERLINK(1)", "'+1"} <= set(cells)
    assert not {"=HYPERLINK(1)", "+1"} & set(cells)


def test_the_fleet_as_tables() -> None:
    """Calls by group, and workers."""
    routers = (RouterState(address="a:1", status=router_status()), RouterState(address="b:1"))
    assert len(rows_of(csv_tables.fleet_table(routers, "calls"))) == 1 + 3
    assert [row[2] for row in rows_of(csv_tables.fleet_table(routers, "workers"))[1:]] == [
        f"127.0.0.1:{port}" for port in (50061, 50062, 50065, 50063)
    ]


# --- links, times, the fleet's drawing --------------------------------------------------------------------------------


def test_links_of_the_operator(report: Report) -> None:
    """With the experiment's name where the address has a place for it; on other pages only those without one."""
    links = (
        OutsideLink("Grafana", "https://grafana.example.com/d/x?var-e={experiment}"),
        OutsideLink("Traces", "http://t.example/"),
    )
    named = renamed(report, {"tiny": "a/b c"})
    now = situation(named, links=links)
    page = experiment_page(now, "a/b c")
    assert 'href="https://grafana.example.com/d/x?var-e=a%2Fb%20c" rel="noreferrer"' in page
    assert faults(page) == []
    for other in (overview_page(now), fleet_page(now)):
        assert "http://t.example/" in other
        assert "grafana.example.com" not in other


def test_instants_are_elements_that_a_script_can_read() -> None:
    """Each of ours in a sentence, with the same instant for machines; text around them stays text."""
    at = datetime(2026, 11, 8, 14, 3, 5, tzinfo=UTC)
    made = with_times(f"<b> from {instant(at)} to {instant(at, seconds=True)}.")
    assert made.startswith("&lt;b&gt; from <time")
    assert re.findall(r'datetime="([^"]+)"', made) == ["2026-11-08T14:03:00Z", "2026-11-08T14:03:05Z"]
    assert with_times("31\u00a0Feb\u00a02026, 10:00\u00a0UTC") == "31\u00a0Feb\u00a02026, 10:00\u00a0UTC"


def test_the_fleet_is_drawn() -> None:
    """A line to each version, as wide as its part of the calls; calls a second and errors in words."""
    page = fleet_page(situation(made_report(), routers=(RouterState(address="a:1", status=router_status()),)))
    graph = page.partition('class="fleet-graph"')[2].partition("</div>")[0]
    assert graph.count('class="way') == 3
    assert "v1.3.0-beta: 0.1 calls/s, 3\u00a0errors, 12\u00a0fallbacks, 1 of 2\u00a0workers up" in graph
    assert "p50" in read(page).text
    assert "p99" in read(page).text


# --- the first day, and what is to come -------------------------------------------------------------------------------


def test_the_first_day_is_drawn(report: Report) -> None:
    """Before the first look each group's values have a line with a point an hour, which says that it is no look."""
    young: ExperimentReport = in_its_first_day(report.experiments[0])
    shown = dataclasses.replace(report, experiments=(young,))
    for page in (experiment_page(situation(shown), young.name), report_file(shown)):
        text = read(page).text
        assert "One point every hour until the first look" in text
        assert "they are not looks" in text
        assert "The first look is still to come." in text
        assert "Drawn from the first look on" not in text
        lines = re.findall(r'<path d="([^"]+)" class="line series-\d', page)
        assert [path.count("L") + 1 for path in lines].count(9) >= 3 * len(young.gathered.evidence.metrics)


def test_rows_of_a_ramp_that_are_to_come_are_shown(report: Report) -> None:
    """Below the shares in force, with when they begin; rows that are over are in the log alone."""
    rows = "".join(
        f'      - {{at: "{at:%Y-%m-%dT%H:%M:%SZ}", traffic: {traffic}, control: {100 - part}, treatment: {part}}}\n'
        for at, traffic, part in ((NOW - timedelta(days=20), 20, 10), (NOW + timedelta(days=2), 60, 40))
    )
    text = FILE.replace("weight: 50}", "weight: 60}", 1).replace("weight: 50}", "weight: 40}", 1)
    file = text.replace("    metrics:", f"    traffic: 60\n    ramp:\n{rows}    metrics:", 1)
    named = renamed(report, {"tiny": "test", "experiment": "treatment"})
    page = read(experiment_page(situation(named, config=load_text(file)), "test")).text
    assert "1 Dec 2026, 02:00 UTC\n60.0 %\n40.0 %" in page
    assert "planned for 60 % of the layer's users" in page
    assert page.count("planned for") == 1


def test_verdicts_have_commands_that_fit(report: Report) -> None:
    """Whatever the verdict, at most one command is what it asks for."""
    for verdict in Verdict:
        one = report.experiments[0]
        decision = dataclasses.replace(one.decision, verdict=verdict)
        fitting = [c.line for c in commands(dataclasses.replace(one, decision=decision), Files()) if c.fits]
        assert len(fitting) <= 1
