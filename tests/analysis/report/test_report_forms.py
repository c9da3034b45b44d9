"""A report as Markdown and with its details as JSON: whole, escaped, and through the command."""

import io
import json
import re
import socket
from pathlib import Path

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.report.details_document import details_document
from abfleet_analysis.report.markdown import escaped, markdown
from abfleet_analysis.report.render import interval_text, percent_text, rendered, value_text
from abfleet_experiments.file.load import load_text
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.compact import compact
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from abfleet.cli import app
from tests.analysis.log_lines import DAY, START, LogLines, file_text
from tests.dashboard.made import made_report

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of three days with attributes, served by two versions of the committed registry."""
    log = LogLines()
    log.allocation("000000000001", {"control": 50, "treatment": 50})
    for number in range(300):
        group, version = (("control", "v1.2.3"), ("treatment", "v1.3.0-beta"))[number % 2]
        at = START + DAY * number / 100
        request = log.exposure(
            f"u{number}", group, at, attributes={"country": ("DE", "FR")[number // 2 % 2]}, served_version=version
        )
        if number % 5 < 2:
            log.outcome("conversion", f"u{number}", request, at)
    path = log.write(tmp_path_factory.mktemp("log"))
    (path / "experiments.yaml").write_text(file_text("conversion_rate", ("error_rate",)))
    return path


def analyze(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        app, ["analyze", "--logs", str(folder), "--experiments", str(folder / "experiments.yaml"), *arguments]
    )


def test_markdown_says_the_verdict_first_and_has_whole_tables(folder: Path) -> None:
    """A heading with the verdict, the reasons, then two tables whose rows all have as many cells as their head."""
    result = analyze(folder, "--markdown")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "## test: KEEP RUNNING"
    assert lines[2] == "running since 2026\\-11\\-01T00\\:00\\:00Z"
    assert lines[4].startswith("- no boundary has been crossed after 300 users")
    tables = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    assert tables == [9] * 4 + [8] * 4
    assert any(line.startswith("| conversion\\_rate | primary | treatment |") for line in lines)
    assert any(line.startswith("- split\\: as expected") for line in lines)
    assert lines[-1].endswith("log lines, 0 unreadable, 0 repeated")


def test_names_cannot_mark_up(tmp_path: Path) -> None:
    """Whatever a group in the log is called, it stays text in its cell."""
    assert escaped("a|b <img src=x> [x](y) @all #1\n# b `c`") == (
        "a\\|b \\<img src=x\\> \\[x\\]\\(y\\) \\@all \\#1 \\# b \\`c\\`"
    )
    log = LogLines()
    for number in range(30):
        log.exposure(f"u{number}", ("control", "x|y\n## <b>@all</b>")[number % 2], experiment="<script>")
    text = markdown(analyse([log.write(tmp_path)], load_text(file_text())))
    assert "<script>" not in text
    assert "<b>" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "## test: KEEP RUNNING",
        "## Ended experiments",
    ]


def test_details_are_a_key_beside_the_documented_ones(folder: Path) -> None:
    """Without the flag the document is as it was; with it, all parts are there, registry included, and no NaN."""
    plain = json.loads(analyze(folder, "--json").stdout)
    result = analyze(folder, "--json", "--details", "--registry", str(REPOSITORY / "models"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    (experiment,) = report["experiments"]
    details = experiment.pop("details")
    assert report == plain
    assert set(details) == {"paths", "traffic", "breakdowns", "recommended", "changes", "before_first_look"}
    assert {one["kind"] for one in details["breakdowns"]} == {"attribute", "day", "served"}
    assert [row["label"] for row in details["breakdowns"][0]["slices"]] == ["DE", "FR"]
    first, second = details["recommended"]["versions"]
    assert {first["version"], second["version"]} == {"v1.2.3", "v1.3.0-beta"}
    assert "recall@10" in dict(first["offline"])
    assert 0 < first["coverage"] < 0.01
    assert details["changes"][0]["text"] == "shares are 50/50 (control, treatment)"
    assert sum(map(sum, details["traffic"]["calls"])) == 300
    assert details["traffic"]["width_s"] > 0
    assert len(details["paths"]["times"]) == len(details["paths"]["metrics"][0]["low"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--markdown", "--json"), "--markdown: cannot be combined with --json"),
        (("--details",), "--details: needs --json"),
        (("--json", "--details", "--registry", "/nowhere"), "--registry: /nowhere is not a folder"),
    ],
)
def test_flags_that_do_not_go_together(folder: Path, arguments: tuple[str, ...], sentence: str) -> None:
    """One plain sentence, exit code 2."""
    result = analyze(folder, *arguments)
    assert result.exit_code == 2
    assert sentence in result.output


def test_a_compacted_log_has_the_same_details(folder: Path, tmp_path: Path) -> None:
    """Attributes and configuration lines are found in Parquet too, in the line that it keeps."""
    name = f"decisions-{socket.gethostname()}-20261101T000000000000Z-999999.jsonl"
    (tmp_path / name).write_bytes((folder / "decisions-host-20261101T000000-1.jsonl").read_bytes())
    compacted = tmp_path / "compacted"
    assert compact(tmp_path, compacted, WriterIdentity(socket.gethostname(), 1)).files == 1
    config = load_text(file_text("conversion_rate", ("error_rate",)))
    (one,), (other,) = (analyse([log], config, detailed=True).experiments for log in (folder, compacted))
    assert one.details is not None
    assert other.details is not None
    assert details_document(other.details) == details_document(one.details)


def test_a_narrow_terminal_cuts_no_figure() -> None:
    """At 80 columns every value, change and bound of an interval is there in full, and nothing ends in dots."""
    report = made_report()
    shown = io.StringIO()
    Console(file=shown, width=80).print(rendered(report))
    assert "\u2026" not in shown.getvalue()
    words = shown.getvalue().split()
    for group in report.experiments[0].decision.groups:
        for metric in group.metrics:
            figures = [value_text(metric.value), percent_text(metric.relative_difference)]
            figures += [
                word
                for bounds in (metric.relative_interval, metric.relative_sequential_interval)
                for word in interval_text(bounds).split(" to ")
            ]
            assert set(figures) <= set(words), (group.group, metric.rule.name)
