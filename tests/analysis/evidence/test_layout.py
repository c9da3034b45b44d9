"""Shortcuts change no result: neither those that rules know, nor those that are DuckDB's own."""

import json
from pathlib import Path
from typing import Any

import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.evidence import log_lines, tables
from abfleet_analysis.evidence.layout import Layout
from abfleet_analysis.storage.duckdb_storage import DuckDBStorage
from abfleet_analysis.storage.storage import Storage
from abfleet_experiments.file.load import load_text

from tests.support.fuzzed_log import fuzzed

SEEDS = (4, 8)
NONE = Layout(ramped=True, detailed=True, by_request=True, timed=True, few=True, by_look=True, everyone=True)
"""Nothing is left out."""


def report(seed: int, folder: Path) -> Any:
    """The report of a log, with numbers cut to 9 digits: sums of floats depend on the order of rows."""
    log = fuzzed(seed)
    folder.mkdir(exist_ok=True)
    document = analyse([log.write(folder)], load_text(log.text), threads=1).as_dict()
    return json.loads(json.dumps(document), parse_float=lambda text: f"{float(text):.9e}")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_report_without_shortcuts_is_the_same(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every column kept, every row, and every user in several allocations."""
    expected = report(seed, tmp_path / "log")
    monkeypatch.setattr(log_lines, "layout_of_log", lambda *_, **__: NONE)
    monkeypatch.setattr(tables, "layout_of_experiment", lambda *_, **__: NONE)
    assert report(seed, tmp_path / "log") == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_any_database_s_way_gives_the_same_report(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB keeps tables as any other database would."""
    expected = report(seed, tmp_path / "log")
    for name in ("keep_words", "keep_counts", "keep_repeated", "counted"):
        monkeypatch.setattr(DuckDBStorage, name, getattr(Storage, name))
    assert report(seed, tmp_path / "log") == expected
