"""One line that is none, whatever it is, refuses no file: it is counted, kept or moved, and all else is done."""

import gzip
import json
import os
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import zstandard
from abfleet_analysis.reading.open_log import open_log
from abfleet_analysis.reading.survey import survey_of
from abfleet_log.files import WriterIdentity
from abfleet_log.tools import compact as compacting
from abfleet_log.tools.check import Checker, CheckResult
from abfleet_log.tools.compact import compact
from abfleet_log.tools.read_lines import LONGEST_LINE, all_lines, lines_of
from typer.testing import CliRunner, Result

from abfleet.cli import app
from tests.log.books import exposure, outcome, put

HERE = WriterIdentity(socket.gethostname(), 1)
LINE = orjson.dumps(exposure(50, "gone-user"))
GIANT = LONGEST_LINE + 1


def with_user(text: bytes) -> bytes:
    return LINE.replace(b"gone-user", text)


UNFIT = {
    "no UTF-8": with_user(b"gone-user\xff\xfe"),
    "Latin-1": LINE.replace(b'"router-1"', b'"caf\xe9"'),
    "torn within a character": LINE[:200] + "ü".encode()[:1],
    "giant": with_user(b"gone-user" + b"x" * 40_000_000),
    "giant NUL": b"\0" * GIANT,
}
"""Lines that no Parquet file can hold."""
KEPT = {
    "NUL in it": with_user(b"gone-user\0"),
    "NUL alone": b"\0" * 5000,
    "NUL before it": b"\0" * 50 + LINE,
    "torn": LINE[:60],
    "lone surrogate": with_user(b"gone-user\\ud800"),
    "byte order mark": b"\xef\xbb\xbf" + LINE,
    "carriage return": LINE + b"\r",
    "carriage return within": LINE + b"\r" + LINE,
    "separators": b"\x01a\x02",
    "one separator": b"\x02",
    "a list": b"[1]",
    "deep": b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    "a long name": orjson.dumps(exposure(51, experiment="e" * 5000)),
    "a name with slashes": orjson.dumps(exposure(51, experiment="../../x\0")),
}
BROKEN = {**UNFIT, **KEPT}
PACK: dict[str, Callable[[bytes], bytes]] = {".zst": zstandard.compress, ".gz": gzip.compress, "": bytes}


def run(*words: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["logs", *map(str, words)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def broken_log(folder: Path, line: bytes, *, at: int = 3, packed: str = "") -> Path:
    """A file with such a line among 6 others, and one without."""
    put(folder, [exposure(n, f"user-{n}") for n in range(20, 25)] + [outcome(20, "user-20")], number=2)
    lines = [orjson.dumps(exposure(n, f"user-{n}")) for n in range(6)]
    lines.insert(at, line)
    path = put(folder, [])
    path.unlink()
    path = path.with_name(path.name + packed)
    path.write_bytes(PACK[packed](b"\n".join(lines) + b"\n"))
    return path


def all_of(folder: Path) -> Counter[bytes]:
    return Counter(raw for _, raw, _ in all_lines([folder]))


def checked(folder: Path) -> CheckResult:
    return Checker(gap_seconds=1e9).take(all_lines([folder]))


def analysed(folder: Path) -> tuple[int, int]:
    """Lines, and those that cannot be read, as the analysis counts them."""
    with open_log([folder]) as log:
        found = survey_of(log)
        return found.lines, found.unreadable


@pytest.mark.parametrize("case", BROKEN)
def test_compaction_takes_the_other_lines(tmp_path: Path, case: str) -> None:
    """No byte of any line is lost, the analysis counts as before, and another run has nothing to do."""
    path = broken_log(tmp_path, BROKEN[case])
    path.chmod(0o604)
    os.utime(path, (1_790_000_000, 1_790_000_000))
    before, counted, digest = all_of(tmp_path), analysed(tmp_path), checked(tmp_path).digest
    done = compact(tmp_path, tmp_path / "compacted", HERE)
    stays = case in UNFIT
    assert (done.files, done.lines, done.unfit_lines, done.unfit) == (2, 13 - stays, stays, (path,) * stays)
    assert (all_of(tmp_path), analysed(tmp_path), checked(tmp_path).digest) == (before, counted, digest)
    assert [found.read_bytes() for found in tmp_path.glob("*.jsonl")] == [BROKEN[case] + b"\n"] * stays
    if stays:
        assert (path.stat().st_mode & 0o777, path.stat().st_mtime) == (0o604, 1_790_000_000)
    again = compact(tmp_path, tmp_path / "compacted", HERE)
    assert (again.files, again.unfit_lines) == (0, stays)
    assert all_of(tmp_path) == before


@pytest.mark.parametrize("packed", [".zst", ".gz"])
def test_what_stays_is_packed_as_it_was(tmp_path: Path, packed: str) -> None:
    """And the first line's mark is a part of it."""
    path = broken_log(tmp_path, UNFIT["no UTF-8"], packed=packed)
    before = all_of(tmp_path)
    assert "left in place: 1 line" in run("compact", "--logs", tmp_path).stdout
    assert [raw for raw, _ in lines_of(path)] == [UNFIT["no UTF-8"]]
    assert all_of(tmp_path) == before


def test_a_mark_at_the_beginning_stays(tmp_path: Path) -> None:
    """Databases take it away, and then the line is another one."""
    broken_log(tmp_path, KEPT["byte order mark"], at=0)
    before = all_of(tmp_path)
    assert compact(tmp_path, tmp_path / "compacted", HERE).lines == 13
    assert all_of(tmp_path) == before


class Killed(BaseException):
    """Ends a run as SIGKILL would."""


@pytest.mark.parametrize("step", ["verify", "manifest", "publish", "remove"])
def test_killed_while_lines_stay(tmp_path: Path, step: str) -> None:
    """Nothing is missing at that moment, and the next run ends as one that lives."""
    path = broken_log(tmp_path, UNFIT["no UTF-8"])
    before = all_of(tmp_path)

    def kill(at: str) -> None:
        if at.startswith(step):
            raise Killed

    with pytest.raises(Killed):
        compact(tmp_path, tmp_path / "compacted", HERE, on_step=kill)
    assert not before - all_of(tmp_path)
    compact(tmp_path, tmp_path / "compacted", HERE)
    assert all_of(tmp_path) == before
    assert [raw for raw, _ in lines_of(path)] == [UNFIT["no UTF-8"]]
    assert not list(tmp_path.rglob(f"{compacting.WORK}*"))


def test_a_cut_file_is_left_and_told(tmp_path: Path) -> None:
    """One that was copied in part, at any byte: nobody takes it for whole, and the others are compacted."""
    path = broken_log(tmp_path, LINE, packed=".zst")
    content = path.read_bytes() + zstandard.compress(LINE + b"\n")
    for size in (len(content) - 1, len(content) // 2, 12, 5, 3):
        path.write_bytes(content[:size])
        assert json.loads(run("check", "--logs", tmp_path, "--json", code=1).stdout)["unreadable"] == 1
        assert analysed(tmp_path)[1] == 1
        assert f"{path}: left alone, because it is damaged" in run("compact", "--logs", tmp_path).stdout.replace(
            "\n", ""
        )
        assert path.read_bytes() == content[:size]
        assert (
            f"not erased, because the file is damaged: {path}"
            in run("erase", "user-20", "--logs", tmp_path, code=1).stderr
        )
        assert "1 unreadable line, the first in" in run("user", "user-21", "--logs", tmp_path).stderr
    path.write_bytes(content)
    assert compact(tmp_path, tmp_path / "compacted", HERE).files == 1
    assert checked(tmp_path).by_experiment["ranking", "treatment"] > 1


WRITTEN = {
    "no UTF-8": UNFIT["no UTF-8"],
    "giant": LINE + b" " * GIANT,
    "NUL": KEPT["NUL in it"],
    "NUL before it": KEPT["NUL before it"],
    "torn": LINE[: LINE.index(b"gone-user") + 9],
    "lone surrogate": KEPT["lone surrogate"],
    "its request": b'{"event":"outcome","user_id":null,"request_id":"r-50","item_id',
}


@pytest.mark.parametrize("when", ["as it is", "compacted"])
@pytest.mark.parametrize("case", WRITTEN)
def test_a_user_is_erased_from_what_is_left(tmp_path: Path, case: str, when: str) -> None:
    """By the id, or by a request of the user; what else is broken stays and is told."""
    put(tmp_path, [exposure(50, "gone-user")], tail=b"{half\n" + WRITTEN[case] + b"\n{}\n")
    if when == "compacted":
        run("compact", "--logs", tmp_path)
    told = run("erase", "gone-user", "--logs", tmp_path).stdout
    assert "2 lines in" in told
    assert "kept 1 unreadable line" in told
    assert sorted(all_of(tmp_path)) == [b"{half", b"{}"]


def test_an_id_that_was_written_with_escapes(tmp_path: Path) -> None:
    """JSON has two ways to write it, and a broken line may have either."""
    put(tmp_path, [], tail='{"user_id": "jürgen"\n{"user_id": "j\\u00fcrgen"\n'.encode())
    assert "erased 2 lines in 1 file" in run("erase", "jürgen", "--logs", tmp_path).stdout


@pytest.mark.parametrize("case", BROKEN)
def test_shown_around_it(tmp_path: Path, case: str) -> None:
    """The newest lines and a user's are shown, and that there is more."""
    broken_log(tmp_path, BROKEN[case])
    readable = orjson_reads(BROKEN[case])
    for words in (("tail", "--no-follow", "-n", "99"), ("user", "user-5")):
        told = run(*words, "--logs", tmp_path)
        assert "user-5" in told.stdout
        assert ("1 unreadable line, the first in" in told.stderr) != readable


def orjson_reads(line: bytes) -> bool:
    try:
        return len(line) < LONGEST_LINE and isinstance(orjson.loads(line.removeprefix(b"\xef\xbb\xbf")), dict)
    except orjson.JSONDecodeError:
        return False


def test_blank_lines_are_no_lines(tmp_path: Path) -> None:
    """For whoever counts, before and after compaction."""
    put(tmp_path, [exposure(1)], tail=b"\n \r\n\t\n")
    assert (checked(tmp_path).unreadable, analysed(tmp_path)) == (0, (1, 0))
    put(tmp_path, [], number=2, tail=b" \r\n\r\n")
    assert compact(tmp_path, tmp_path, HERE).lines == 1
    assert (checked(tmp_path).unreadable, analysed(tmp_path)) == (0, (1, 0))
    assert list(tmp_path.glob("*.jsonl")) == []


GOOD = {"user_id": "ann", "type": "click", "time": "2026-11-01T12:00:00Z"}
ROWS = {
    "no UTF-8": b'{"user_id": "\xff\xfe"}',
    "NUL": b"\0\0\0",
    "torn": b'{"user_id": "an',
    "lone surrogate": b'{"user_id": "\\ud800"}',
    "a list": b"[1]",
    "giant": b'{"user_id": "' + b"x" * 1_000_000 + b'", "type": "click", "time": "2026-11-01T12:00:00Z"}',
}


@pytest.mark.parametrize("case", ROWS)
def test_a_broken_row_is_rejected_alone(tmp_path: Path, case: str) -> None:
    """Of JSON lines; with --skip-rejected the others are imported, and a mark or a blank line is no row."""
    file = tmp_path / "in.jsonl"
    rows = [json.dumps(GOOD | {"item_id": n}).encode() for n in range(3)]
    file.write_bytes(b"\xef\xbb\xbf" + b"\n".join([rows[0], ROWS[case], b"", *rows[1:]]) + b"\n\n")
    told = run("import-outcomes", file, "--logs", tmp_path / "logs", code=1)
    assert "nothing was written" in told.stdout
    assert "row 2: " in told.stderr
    run("import-outcomes", file, "--logs", tmp_path / "logs", "--skip-rejected", code=1)
    assert checked(tmp_path / "logs").lines == 3


@pytest.mark.parametrize("cell", [b"\xff\xfe", b"x" * 200_000, b"\0"])
def test_a_broken_row_of_a_table_is_rejected_alone(tmp_path: Path, cell: bytes) -> None:
    """Of CSV; what is wrong in a column that nobody asks for is nothing."""
    file = tmp_path / "in.csv"
    good = b"ann,click,2026-11-01T12:00:00Z,caf\xe9\n"
    file.write_bytes(b"user_id,type,time,place\n" + good + good.replace(b"ann", cell) + good.replace(b"ann", b"bob"))
    told = run("import-outcomes", file, "--logs", tmp_path / "logs", "--skip-rejected", code=1)
    assert "3 rows: 2 accepted, 0 repeated, 1 rejected" in told.stdout.replace("\n", " ")
    assert "row 2: " in told.stderr
