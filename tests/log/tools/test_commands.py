"""`abfleet logs` as people run it: what it prints, what it refuses, and what is in the files afterwards."""

import csv
import hashlib
import hmac
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest
import zstandard
from abfleet_log import schema
from abfleet_log.files import WriterIdentity, create
from abfleet_log.tools.import_outcomes import ColumnMap, import_outcomes
from abfleet_log.tools.read_lines import LogsError, all_lines, lines_of
from abfleet_log.tools.show import new_lines, one_line
from typer.testing import CliRunner, Result

from abfleet.cli import app
from tests.log.books import CONFIG_TEXT, exposure, outcome, put, shadow, stamp


def run(*words: str | Path, code: int = 0) -> Result:
    """Runs a command, which must end with this code."""
    result = CliRunner().invoke(app, ["logs", *map(str, words)])
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def lines_in(folder: Path) -> list[dict[str, Any]]:
    return [orjson.loads(raw) for _, raw, ended in all_lines([folder]) if ended]


# --- check ------------------------------------------------------------------------------------------------------------


def without_bucket() -> dict[str, Any]:
    return {name: value for name, value in exposure(1).items() if name != "bucket"}


def test_a_sound_log(tmp_path: Path) -> None:
    """Counts by kind and group, a digest, and exit code 0; the file it was decided by agrees."""
    put(tmp_path, [exposure(n, f"user-{n}") for n in range(50)] + [outcome(n, f"user-{n}") for n in range(9)])
    config = tmp_path / "e.yaml"
    config.write_text(CONFIG_TEXT)
    report = json.loads(run("check", "--logs", tmp_path, "--experiments", config, "--json").stdout)
    assert (report["lines"], report["sound"], report["compared_with_file"]) == (59, True, 50)
    assert report["events"] == {"exposure": 50, "outcome": 9}
    assert sum(row["lines"] for row in report["exposures"]) == 50
    assert (report["first"], report["last"]) == (stamp(0), stamp(49))
    assert "sound" in run("check", "--logs", tmp_path).stdout


@pytest.mark.parametrize(
    ("lines", "tail", "key", "expected", "code"),
    [
        ([exposure(1), exposure(1)], b"", "repeated_exposures", 1, 0),
        ([outcome(1), outcome(1, ts=stamp(9))], b"", "repeated_outcomes", 1, 0),
        ([outcome(1), outcome(1, ts=stamp(9))], b"", "conflicting_outcomes", 0, 0),
        ([outcome(1), outcome(1, type="purchase")], b"", "repeated_outcomes", 1, 0),
        ([outcome(1), outcome(1, type="purchase")], b"", "conflicting_outcomes", 1, 0),
        ([outcome(1), outcome(1, user_id="else")], b"", "conflicting_outcomes", 1, 0),
        ([outcome(1, value=5), outcome(1, value=5.0)], b"", "conflicting_outcomes", 0, 0),
        ([outcome(1, synthetic=True), outcome(1, type="purchase")], b"", "repeated_outcomes", 0, 0),
        ([exposure(1)], b'{"torn', "torn", 1, 0),
        ([exposure(1)], b'{"torn\n{}x\n', "unreadable", 2, 1),
        ([exposure(1, status="FINE")], b"", "problems", {"exposure.status: is wrong": 1}, 1),
        ([without_bucket()], b"", "problems", {"exposure.bucket: is missing": 1}, 1),
        ([exposure(1), exposure(900)], b"", "gaps", 899, 0),
        ([exposure(900), exposure(1)], b"", "clock_set_back", 1, 0),
        ([exposure(3), exposure(1)], b"", "clock_set_back", 0, 0),
        ([exposure(1, group="treatment", bucket=7, model_version="v2")], b"", "mismatches", None, 1),
    ],
)
def test_what_check_finds(
    tmp_path: Path, lines: list[dict[str, Any]], tail: bytes, key: str, expected: object, code: int
) -> None:
    """Each kind of trouble is counted under its name, and only what spoils conclusions makes it exit 1."""
    path = put(tmp_path, lines, tail=tail)
    config = tmp_path / "e.yaml"
    config.write_text(CONFIG_TEXT)
    report = json.loads(run("check", "--logs", path, "--experiments", config, "--json", code=code).stdout)
    if key == "gaps":
        assert [one["seconds"] for one in report[key]] == [expected]
    elif key == "mismatches":
        assert report[key]["bucket"] == 1
    else:
        assert report[key] == expected
    assert report["sound"] is (code == 0)


def test_no_log(tmp_path: Path) -> None:
    """Told, with what would be one."""
    assert "no decision log" in run("check", "--logs", tmp_path, code=1).stderr
    assert "no such" in run("check", "--logs", tmp_path / "gone", code=1).stderr


# --- user and erase ---------------------------------------------------------------------------------------------------


def pack(path: Path) -> Path:
    packed = path.with_name(path.name + ".zst")
    packed.write_bytes(zstandard.ZstdCompressor().compress(path.read_bytes()))
    return packed


def a_life(folder: Path) -> None:
    """Two users in a plain, a compressed and a Parquet file, with an outcome that only a request leads to."""
    theirs = [exposure(3, "ann"), outcome(3, "ann"), outcome(3, None, outcome_id="lone"), exposure(4, "bob")]
    put(folder, theirs, tail=b'{"schema":1,"user_id":"ann","ev')
    packed = put(folder, [exposure(1, "bob"), exposure(2, "ann")], number=2)
    pack(packed)
    put(folder, [exposure(0, "ann"), outcome(0, "bob")], number=3)
    (folder / "compacted").mkdir()
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t (line VARCHAR)")
        for line in (exposure(10, "ann"), exposure(11, "bob")):
            connection.execute("INSERT INTO t VALUES (?)", [orjson.dumps(line).decode()])
        connection.execute(f"COPY t TO '{folder / 'compacted' / 'x.parquet'}' (FORMAT parquet)")


def test_the_life_of_a_user(tmp_path: Path) -> None:
    """Exposures and outcomes in the order of time, each once, from every kind of file, and nobody else's."""
    a_life(tmp_path)
    lines = [json.loads(line) for line in run("user", "ann", "--logs", tmp_path, "--json").stdout.splitlines()]
    assert [line.get("outcome_id") or line["request_id"] for line in lines] == [
        "r-0",
        "r-2",
        "r-3",
        "o-3",
        "lone",
        "r-10",
    ]
    assert len(run("user", "ann", "--logs", tmp_path).stdout.splitlines()) == 6
    assert run("user", "nobody", "--logs", tmp_path).stdout == ""


def test_erasing_a_user(tmp_path: Path) -> None:
    """No byte of the user is left in any file, every other line is as it was, and ages are kept."""
    a_life(tmp_path)
    ages = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    others = [line for line in lines_in(tmp_path) if line["user_id"] == "bob"]
    before = {path: path.read_bytes() for path in ages}
    dry = json.loads(run("erase", "ann", "--logs", tmp_path, "--dry-run", "--json").stdout)
    assert {path: path.read_bytes() for path in ages} == before
    done = json.loads(run("erase", "ann", "--logs", tmp_path, "--json").stdout)
    assert dry["lines"] == done["lines"] == 7, "the torn line with the name in it is one of them"
    assert lines_in(tmp_path) == others
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"ann" not in path.read_bytes()
    assert {path: path.stat().st_mtime_ns for path in ages if path.exists()}.items() <= ages.items()
    assert json.loads(run("erase", "ann", "--logs", tmp_path, "--json").stdout)["lines"] == 0
    assert not list(tmp_path.rglob(".erasing*"))


def test_a_users_calls_in_the_shadow(tmp_path: Path) -> None:
    """They are checked, shown with the others, and erased with the user, by id or by the keyed hash."""
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    digest = hmac.new(b"0123456789abcdef", b"ann", hashlib.sha256).hexdigest()
    log = tmp_path / "logs"
    mine = [exposure(1, "ann"), shadow(1, "ann"), shadow(1, "ann", version="v3"), shadow(1, None, user_id_hmac=digest)]
    put(log, [*mine, exposure(2, "bob"), shadow(2, "bob"), shadow(3, None)])
    report = json.loads(run("check", "--logs", log, "--json").stdout)
    assert (report["sound"], report["events"]) == (True, {"exposure": 2, "shadow": 5})
    words = ("--logs", log, "--user-id-hmac-key-file", key)
    assert len(run("user", "ann", *words).stdout.splitlines()) == 3
    run("erase", "ann", *words)
    assert [line["request_id"] for line in lines_in(log)] == ["r-2", "r-2", "r-3"]


def test_an_old_call_in_the_shadow_is_no_wrong_clock(tmp_path: Path) -> None:
    """No analysis over time reads it."""
    put(tmp_path, [*(exposure(3600 * n, "ann") for n in range(200)), shadow(-86_400 * 400)])
    report = json.loads(run("check", "--logs", tmp_path, "--json").stdout)
    assert (report["wrong_clock"], report["sound"]) == ({}, True)


def test_erasing_what_is_being_written(tmp_path: Path) -> None:
    """It is not touched, and not claimed to be done."""
    file, path = create(tmp_path, WriterIdentity(os.uname().nodename, 1), lambda: 1_790_000_000.0)
    os.write(file, orjson.dumps(exposure(1, "ann")) + b"\n")
    content = path.read_bytes()
    assert path.name in run("erase", "ann", "--logs", tmp_path, code=1).stderr
    assert path.read_bytes() == content
    os.close(file)


def test_hashed_users(tmp_path: Path) -> None:
    """With the routers' key a user is found and erased by id, although no id is in the log."""
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef")
    digest = hmac.new(b"0123456789abcdef", b"ann", hashlib.sha256).hexdigest()
    log = tmp_path / "logs"
    put(log, [exposure(1, user_id=None, user_id_hmac=digest), exposure(2, user_id=None, user_id_hmac="0" * 64)])
    assert run("user", "ann", "--logs", log).stdout == ""
    words = ("--logs", log, "--user-id-hmac-key-file", key)
    assert len(run("user", "ann", *words).stdout.splitlines()) == 1
    run("erase", "ann", *words)
    assert [line["request_id"] for line in lines_in(log)] == ["r-2"]
    key.write_bytes(b"short")
    assert "16 or more" in run("user", "ann", *words, code=2).stderr


# --- import -----------------------------------------------------------------------------------------------------------

ORDERS = [
    {"order": "a-1", "customer": "ann", "total": "12.50", "at": "2026-11-01T12:00:00+01:00"},
    {"order": "a-2", "customer": "bob", "total": "-3", "at": "2026-11-01T12:00:01Z"},
]
MAP = ("--map", "outcome_id=order", "--map", "user_id=customer", "--map", "value=total", "--map", "time=at")
SET = ("--set", "type=purchase", "--set", "currency=EUR")


def orders_file(folder: Path, suffix: str, rows: list[dict[str, str]]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"orders{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    table = path.with_suffix(".csv")
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    if suffix == ".parquet":
        with duckdb.connect() as connection:
            connection.execute(
                f"COPY (SELECT * FROM read_csv('{table}', all_varchar = true)) TO '{path}' (FORMAT parquet)"
            )
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_importing_orders(tmp_path: Path, suffix: str) -> None:
    """Columns become fields, lines are true to the schema, a dry run writes nothing, and again changes no count."""
    file, log = orders_file(tmp_path / "in", suffix, ORDERS), tmp_path / "logs"
    dry = json.loads(run("import-outcomes", file, "--logs", log, *MAP, *SET, "--dry-run", "--json").stdout)
    assert (dry["accepted"], dry["file"]) == (2, None)
    assert not log.exists()
    for _ in range(2):
        done = json.loads(run("import-outcomes", file, "--logs", log, *MAP, *SET, "--json").stdout)
        assert (done["rows"], done["accepted"], done["rejected"]) == (2, 2, 0)
    lines = lines_in(log)
    assert [schema.problems(line) for line in lines] == [[]] * 4
    assert [(line["outcome_id"], line["user_id"], line["value"], line["ts"]) for line in lines[:2]] == [
        ("a-1", "ann", 12.5, "2026-11-01T11:00:00.000000Z"),
        ("a-2", "bob", -3.0, "2026-11-01T12:00:01.000000Z"),
    ]
    assert json.loads(run("check", "--logs", log, "--json").stdout)["repeated_outcomes"] == 2


@pytest.mark.parametrize("column", ["group", "experiment"])
def test_groups_are_not_imported(tmp_path: Path, column: str) -> None:
    """A table with a column of groups is refused whole, and so is a mapping to one."""
    file = orders_file(tmp_path, ".csv", [{**row, column: "treatment"} for row in ORDERS])
    error = run("import-outcomes", file, "--logs", tmp_path / "logs", *MAP, *SET, code=1).stderr
    assert column in error
    assert "exposures alone" in error
    assert not (tmp_path / "logs").exists()
    run("import-outcomes", file, "--map", f"type={column}", code=1)
    run("import-outcomes", file, "--set", f"{column}=x", code=2)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"total": "much"}, "value: 'much'"),
        ({"total": "nan"}, "value: nan"),
        ({"total": "1_000"}, "value: '1_000'"),
        ({"total": "١٢"}, "value: '١٢'"),
        ({"order": "a-1"}, "outcome_id: 'a-1'; allowed: an id of its own"),
        ({"total": "-Infinity"}, "value: -inf"),
        ({"total": "1e19"}, "value: 1e+19"),
        ({"at": "yesterday"}, "time: 'yesterday'"),
        ({"at": "2026-11-01T12:00:00"}, "with an offset"),
        ({"at": ""}, "time: ''"),
        ({"at": "2999-01-01T00:00:00Z"}, "future"),
        ({"customer": ""}, "user_id: ''"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, row: dict[str, str], reason: str) -> None:
    """Told by number, field and value; nothing is written, unless the rest is asked for."""
    file, log = orders_file(tmp_path / "in", ".csv", [ORDERS[0], {**ORDERS[1], **row}]), tmp_path / "logs"
    result = run("import-outcomes", file, "--logs", log, *MAP, *SET, code=1)
    assert f"row 2: {reason}" in result.stderr or reason in result.stderr
    assert not log.exists()
    run("import-outcomes", file, "--logs", log, *MAP, *SET, "--skip-rejected", code=1)
    assert [line["outcome_id"] for line in lines_in(log)] == ["a-1"]


NO_NUMBERS = [
    ("value", "1_000", "value: '1_000'"),
    ("item_id", "1_000", "item_id: '1_000'"),
    ("item_id", "nan", "item_id: 'nan'"),
    ("time", "1_790_000_000", "time: '1_790_000_000'"),
    ("time", "nan", "time: 'nan'"),
    ("time", "0", "time: '0'; allowed: times from 2000 on"),
]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("name", "cell", "reason"), NO_NUMBERS)
def test_what_only_python_takes_for_a_number(tmp_path: Path, suffix: str, name: str, cell: str, reason: str) -> None:
    """Digits with underscores, nan, and the beginning of 1970 are refused in every column and every format."""
    row = {"user_id": "ann", "type": "click", "time": "1790000000", "value": "1", "item_id": "1", name: cell}
    file = orders_file(tmp_path / "in", suffix, [row])
    assert reason in run("import-outcomes", file, "--time-unit", "s", "--logs", tmp_path / "logs", code=1).stderr


def test_json_of_other_kinds_is_no_text(tmp_path: Path) -> None:
    """A list, an object or a boolean is refused with its field; a bare NaN is no JSON."""
    file, common = tmp_path / "in.jsonl", '"type": "click", "time": "2026-11-01T12:00:00Z"'
    for text, reason in (
        (f'{{"user_id": ["ann"], {common}}}', "user_id: ['ann']"),
        (f'{{"user_id": "ann", "value": true, {common}}}', "value: True"),
        (f'{{"user_id": "ann", "value": NaN, {common}}}', "row 1: is not JSON"),
    ):
        file.write_text(text + "\n")
        assert reason in run("import-outcomes", file, "--logs", tmp_path / "logs", code=1).stderr


def test_every_currency_is_imported(tmp_path: Path) -> None:
    """Which one counts is the file's to say, later; a code that is none is refused."""
    rows = [{**row, "currency": code} for row, code in zip(ORDERS, ("EUR", "JPY"), strict=True)]
    file, log, typed = orders_file(tmp_path / "in", ".csv", rows), tmp_path / "logs", ("--set", "type=purchase")
    run("import-outcomes", file, "--logs", log, *MAP, *typed)
    assert [line["currency"] for line in lines_in(log)] == ["EUR", "JPY"]
    file = orders_file(tmp_path / "in", ".csv", [{**ORDERS[0], "currency": "eur"}])
    assert "currency: 'eur'" in run("import-outcomes", file, "--logs", log, *MAP, *typed, code=1).stderr


def test_rows_without_an_id(tmp_path: Path) -> None:
    """Each gets one that its cells make: the same row has the same, another row another."""
    rows = [{"user_id": f"u-{n % 2}", "time": str(1_790_000_000 + n % 2), "type": "click"} for n in range(3)]
    file, log = orders_file(tmp_path / "in", ".csv", rows), tmp_path / "logs"
    done = json.loads(run("import-outcomes", file, "--logs", log, "--time-unit", "s", "--json").stdout)
    assert (done["accepted"], done["repeated"]) == (2, 1)
    assert len({line["outcome_id"] for line in lines_in(log)}) == 2
    assert lines_in(log)[0]["ts"] == "2026-09-21T14:13:20.000000Z"


@pytest.mark.parametrize("value", ["'nan'::DOUBLE", "'-inf'::FLOAT", "1e19::DOUBLE", "1e300::DOUBLE"])
def test_a_number_that_is_none_is_refused_in_parquet_too(tmp_path: Path, value: str) -> None:
    """A column of floats has its own nan, which is neither a value nor the absence of one."""
    file = tmp_path / "orders.parquet"
    with duckdb.connect() as connection:
        row = f"'a' AS outcome_id, 'ann' AS user_id, 'purchase' AS type, {value} AS value, '2026-11-01T12:00Z' AS time"
        connection.execute(f"COPY (SELECT {row}) TO '{file}' (FORMAT parquet)")
    error = run("import-outcomes", file, "--logs", tmp_path / "logs", code=1).stderr
    assert "row 1: value: " in error
    assert "finite numbers from -1e+15 to 1e+15" in error
    assert not (tmp_path / "logs").exists()


def test_import_usage(tmp_path: Path) -> None:
    """Wrong words are usage mistakes, with what is allowed."""
    file = orders_file(tmp_path, ".csv", ORDERS)
    run("import-outcomes", tmp_path / "gone.csv", code=2)
    run("import-outcomes", file, "--map", "colour=x", code=2)
    run("import-outcomes", file, "--time-unit", "days", code=2)
    assert "there are order" in run("import-outcomes", file, "--map", "value=price", code=1).stderr
    other = tmp_path / "orders.xls"
    other.write_text("")
    assert ".parquet" in run("import-outcomes", other, code=1).stderr


# --- tail and schema --------------------------------------------------------------------------------------------------


def test_tail(tmp_path: Path) -> None:
    """The newest lines of all files by time, filtered as asked, in words or as they are."""
    put(tmp_path, [exposure(n, f"user-{n % 3}") for n in range(0, 20, 2)])
    pack(put(tmp_path, [exposure(n, f"user-{n % 3}") for n in range(1, 20, 2)], number=2))
    words = ("tail", "--no-follow", "--logs", tmp_path)
    newest = [json.loads(line)["request_id"] for line in run(*words, "-n", "4", "--json").stdout.splitlines()]
    assert newest == ["r-16", "r-17", "r-18", "r-19"]
    text = run(*words, "-n", "2", "--user", "user-1").stdout.splitlines()
    assert len(text) == 2
    assert all("user-1" in line and "ranking/" in line for line in text)
    assert run(*words, "--experiment", "other").stdout == ""


def test_following(tmp_path: Path) -> None:
    """Lines that come later are shown once they are whole, in files that are there and in new ones."""
    path = put(tmp_path, [exposure(1)])
    seen: list[str] = []
    steps = iter(range(4))

    def wait(seconds: float) -> None:
        step = next(steps)
        whole = orjson.dumps(exposure(step + 10)) + b"\n"
        if step == 0:
            with path.open("ab") as file:
                file.write(whole[:20])
        elif step == 1:
            with path.open("ab") as file:
                file.write(orjson.dumps(exposure(10))[20:] + b"\n")
        elif step == 2:
            put(tmp_path, [exposure(12)], number=2)
        else:
            raise KeyboardInterrupt

    def follow() -> None:
        for line in new_lines([tmp_path], lambda line: True, wait):
            seen.append(line["request_id"])

    with pytest.raises(KeyboardInterrupt):
        follow()
    assert seen == ["r-10", "r-12"]


def test_every_kind_of_line_has_words() -> None:
    """None is shown as raw JSON, and synthetic lines are marked."""
    lines: list[dict[str, Any]] = [
        exposure(1, fallback="timeout", served_version="v1", synthetic=True),
        outcome(1, value=2.5, currency="EUR"),
        {"event": "allocation", "experiment": "ranking", "weights": {"control": 50.0}, "traffic": 100.0},
        {"event": "reload", "old_revision": "a", "new_revision": "b", "active": False, "errors": ["wrong"]},
        {"event": "conclusion", "experiment": "ranking", "winner": "canary", "concluded_at": "2026-11-30T09:12:44Z"},
        {"event": "rejected", "field": "limit", "message": "allowed: 1 to 100"},
        shadow(1, "ann"),
    ]
    texts = [one_line(line) for line in lines]
    assert all("{" not in text and "\n" not in text for text in texts)
    assert "synthetic" in texts[0]
    assert "(timeout)" in texts[0]
    assert "2.5 EUR" in texts[1]
    assert "ann  v2 in the shadow of v1  OK  2 items  3.0 ms" in texts[-1]


@pytest.mark.parametrize("item_id", [str(2**63), str(-(2**63) - 1), "1e400", "9" * 5000])
def test_an_item_id_that_no_log_can_hold_is_rejected(tmp_path: Path, item_id: str) -> None:
    """It is told with its row, and nothing else of the table is lost."""
    table = tmp_path / "table.csv"
    row = "u-1,click,{},2026-11-01T00:00:00Z"
    table.write_text("\n".join(["user_id,type,item_id,time", row.format(item_id), row.format(2**63 - 1)]))
    found = import_outcomes(
        table, tmp_path, ColumnMap(), frozenset({"click"}), WriterIdentity("host", 1), dry_run=True, skip_rejected=False
    )
    assert (found.accepted, found.rejected) == (1, 1)
    assert found.reasons[0].startswith("row 1: item_id: ")


def test_what_callers_sent_does_not_reach_the_terminal_raw() -> None:
    """A request id may hold what would clear the screen, begin a line or turn the direction of writing."""
    text = one_line(outcome(1, request_id="\x1b[2J\x9b2J\n2026 exposure\u202e"))
    assert text.isprintable()
    assert "[2J" in text


@pytest.mark.parametrize(
    "line",
    [
        {"event": "exposure", "items": 5, "latency_ms": None},
        {"event": "outcome", "value": "x"},
        {"event": ["x"]},
        {"event": "allocation", "weights": 1, "traffic": "all"},
        {"event": "reload", "errors": [None]},
        {"ts": 1},
    ],
)
def test_lines_of_others_are_shown_too(line: dict[str, Any]) -> None:
    """Whatever fields they have."""
    assert one_line(line)


def test_a_damaged_file_is_told_by_its_name(tmp_path: Path) -> None:
    """Compressed files that were cut or changed on their way; what is before the damage is not taken for all."""
    lines = b"".join(b'{"n":%d}\n' % n for n in range(100_000))
    content = zstandard.ZstdCompressor(write_checksum=True).compress(lines)  # as routers write it
    for name, data in (
        ("a.jsonl.zst", content[:1000] + b"\xff" * 50 + content[1050:]),
        ("b.jsonl.gz", b"\x1f\x8b\x08"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(LogsError, match=f"{name}: the compressed file is damaged"):
            list(lines_of(tmp_path / name))


def test_the_schema_that_is_documented() -> None:
    """docs/decision-log.schema.json is what the code knows; write it with `abfleet logs schema`."""
    documented = Path(__file__).resolve().parents[3] / "docs" / "decision-log.schema.json"
    assert documented.read_text() == run("schema").stdout
