"""What a power cut or another program leaves in a log: it is counted, and all else is read."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from abfleet_analysis.reading import open_log
from abfleet_log.tools import read_lines
from abfleet_log.tools.check import Checker
from abfleet_log.tools.show import last_lines

from tests.analysis.log_lines import LogLines, file_text, report_of

NAME = "decisions-host-20261101T000000-1.jsonl"
GIANT = read_lines.LONGEST_LINE * 2 + 5


def whole(count: int = 40) -> bytes:
    log = LogLines()
    for index in range(count):
        log.exposure(f"u{index}", ("control", "treatment")[index % 2])
    return b"".join(json.dumps(line).encode() + b"\n" for line in log.lines)


def valid(length: int) -> bytes:
    line = json.loads(whole(1))
    return json.dumps({**line, "request_id": "giant", "pad": "x" * length}).encode()


HALF = whole(20)
CASES: dict[str, tuple[str, Callable[[], bytes], int]] = {
    "NUL": (NAME, lambda: HALF + b"\0" * GIANT + b"\n" + whole(), 1),
    "NUL at the end": (NAME, lambda: whole() + b"\0" * GIANT, 1),
    "giant JSON": (NAME, lambda: HALF + valid(GIANT) + b"\n" + whole(), 1),
    "NUL in a line": (NAME, lambda: whole() + whole(1)[:99] + b"\0\0" + whole(1)[99:], 1),
    "compressed NUL": (f"{NAME}.zst", lambda: zstandard.compress(HALF + b"\0" * GIANT + b"\n" + whole()), 1),
    "damaged zst": (f"{NAME}.zst", lambda: b"no frame", 1),
    "cut zst": (f"{NAME}.zst", lambda: zstandard.compress(HALF) + zstandard.compress(HALF)[:-9], 1),
    "cut gz": (f"{NAME}.gz", lambda: gzip.compress(whole())[:-9], 1),
    "byte order mark": (NAME, lambda: b"\xef\xbb\xbf" + whole(), 0),
    "empty": (NAME, lambda: b"", 0),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_read_is_counted_and_the_rest_is_read(tmp_path: Path, case: str) -> None:
    """By the analysis and by `logs check` alike; beside the file is one that is sound."""
    name, content, unreadable = CASES[case]
    (tmp_path / name).write_bytes(content())
    (tmp_path / "decisions-host-20261102T000000-1.jsonl").write_bytes(HALF)
    (tmp_path / "a-folder.jsonl").mkdir()
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing")
    log = report_of(tmp_path, file_text())["log"]
    assert log["unreadable"] == unreadable
    checker = Checker(gap_seconds=1e9)
    check = checker.take(read_lines.all_lines([tmp_path], damaged=checker.damaged))
    assert check.unreadable + check.torn == unreadable
    assert check.lines == log["lines"] - unreadable
    assert last_lines([tmp_path], 1, lambda line: True)


def test_a_giant_line_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lines do not fit into memory, what the first attempt left is not read."""
    monkeypatch.setattr(open_log, "_limit", lambda *_: 1)
    (tmp_path / NAME).write_bytes(HALF + b"\0" * GIANT + b"\n")
    log = report_of(tmp_path, file_text())["log"]
    assert (log["lines"], log["unreadable"]) == (21, 1)
