"""`abfleet analyze --html`: a page beside what is printed, written whole or not at all."""

import os
from pathlib import Path

import pytest
from abfleet_process.atomic_file import WriteError, write_whole
from click.testing import Result
from typer.testing import CliRunner

from abfleet.cli import app
from tests.analysis.log_lines import LogLines
from tests.dashboard.html_check import faults, read
from tests.dashboard.made import FILE, HOSTILE, prepared_log


def analyze(folder: Path, *arguments: str | Path) -> Result:
    file = folder / "experiments.yaml"
    file.write_text(FILE)
    words = ["analyze", "--logs", folder, "--experiments", file, *arguments]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_page_is_written_beside_the_text(tmp_path: Path) -> None:
    """One sound file with the conclusion; the printed report and the exit code stay as they are; again replaces it."""
    prepared_log(days=2, a_day=100).write(tmp_path)
    page = tmp_path / "report.html"
    page.write_text("before")
    plain = analyze(tmp_path)
    result = analyze(tmp_path, "--html", page, "--fail-on", "keep_running")
    assert result.exit_code == 3
    assert result.stdout == plain.stdout
    text = page.read_text(encoding="utf-8")
    assert faults(text, self_contained=True) == []
    assert "Keep running: nothing is decided yet" in read(text).text
    assert "Conversion rate: treatment (v2) against control" in text, "the estimate is drawn over time"
    assert "Users so far" in text
    assert sorted(one.name for one in tmp_path.iterdir() if "report" in one.name) == ["report.html"]
    assert page.stat().st_mode & 0o777 == 0o666 & ~_umask()
    analyze(tmp_path, "--html", page)
    assert page.read_text(encoding="utf-8") == text


def test_with_json(tmp_path: Path) -> None:
    """Both are given."""
    prepared_log(days=1, a_day=20).write(tmp_path)
    result = analyze(tmp_path, "--json", "--html", tmp_path / "r.html")
    assert result.stdout.startswith("{")
    assert (tmp_path / "r.html").exists()


@pytest.mark.parametrize("content", ["", "garbage\n"])
def test_a_log_with_nothing_to_read_makes_a_page_too(tmp_path: Path, content: str) -> None:
    """That says so."""
    (tmp_path / "decisions-x.jsonl").write_text(content)
    result = analyze(tmp_path, "--html", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert faults(text, self_contained=True) == []
    assert "so there is nothing to conclude from" in text
    assert "nan" not in read(text).text.lower().split()


def test_a_log_of_hostile_names(tmp_path: Path) -> None:
    """Experiment, groups and versions of the log are text and nothing else."""
    log = LogLines()
    for index in range(40):
        group, version = HOSTILE[index % 2], HOSTILE[3 - index % 2]
        log.exposure(f"u{index}", group, experiment=HOSTILE[2], model_version=version, propensity=0.5, bucket=index)
    log.write(tmp_path)
    assert analyze(tmp_path, "--html", tmp_path / "r.html").exit_code == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert faults(text, self_contained=True) == []
    found = read(text)
    assert not {"script", "img"} & set(found.tags)
    assert all(name in found.text for name in HOSTILE[:3])
    assert "\u202e" not in text


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere/r.html", "does not exist"), (".", "is not a file"), ("/dev/null", "is not a file")],
)
def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path, name: str, said: str) -> None:
    """Exit code 2 with one sentence, before the log is read."""
    result = analyze(tmp_path, "--logs", tmp_path / "no-log", "--html", tmp_path / name)
    assert result.exit_code == 2
    assert "--html:" in result.output
    assert said in result.output


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    """Neither half a file nor a stray one."""
    page = tmp_path / "r.html"
    page.write_text("before")
    with pytest.raises((WriteError, UnicodeEncodeError)):
        write_whole(page, "x\ud800")
    assert page.read_text() == "before"
    assert list(tmp_path.iterdir()) == [page]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_the_page_says_what_windows_leave_out(tmp_path: Path) -> None:
    """When, why, how much, and what the verdict is with it."""
    prepared_log(days=2, a_day=100).write(tmp_path)
    window = "2026-11-01T12:00:00Z/2026-11-01T18:00:00Z"
    result = analyze(tmp_path, "--exclude", window, "--html", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert faults(page, self_contained=True) == []
    text = " ".join(read(page).text.split())
    assert "Excluded 1 Nov 2026, 12:00 UTC to 1 Nov 2026, 18:00 UTC (--exclude): 25 calls of 25 users" in text
    assert "With the excluded calls the verdict would be the same: keep running." in text
    assert "A window that was chosen after a look" in text
