"""How tables are kept and results fetched: the same rows whichever way, without what a report can do without."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import ibis
import numpy as np
import pyarrow as pa
import pytest
from abfleet_analysis.reading.open_log import open_log
from abfleet_analysis.storage import duckdb_storage
from abfleet_analysis.storage.duckdb_storage import DuckDBStorage
from abfleet_analysis.storage.fetching import fetched, fetched_one, fetched_rows, numbers
from abfleet_analysis.storage.storage import Words

from tests.support import made_log
from tests.support.made_log import Size

ROWS = [("one", None, 1), ("o'ne", "x", 2), (None, "x", 3), ("one", "x", 4), (None, None, 5)]


@pytest.fixture
def storage() -> Iterator[DuckDBStorage]:
    """A database of its own."""
    one = DuckDBStorage(ibis.duckdb.connect())
    yield one
    one.close()


def words(storage: DuckDBStorage) -> Any:
    """A table with two columns of words."""
    columns = zip(*ROWS, strict=True)
    names = ("first", "second", "n")
    return storage.keep("words", pa.table(dict(zip(names, map(list, columns), strict=True))))


@pytest.mark.parametrize("limit", ["none", "few words", "few combinations", "same numbers"])
def test_narrow_columns_have_the_same_values(
    storage: DuckDBStorage, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one number for all of a row's words, or word by word where there are too many, or two have the same number."""
    if limit == "few words":
        monkeypatch.setattr(duckdb_storage, "MOST_ENUM_VALUES", 1)
    if limit == "few combinations":
        monkeypatch.setattr(duckdb_storage, "MOST_COMBINATIONS", 2)
    table = words(storage)
    combinations = [row[:2] for row in ROWS]
    if limit == "same numbers":  # of one combination that is listed twice
        combinations.append(combinations[0])
    narrow = storage.keep_words("narrow", table, Words(("first", "second"), combinations))
    assert fetched_rows(narrow.order_by("n")) == fetched_rows(table.order_by("n"))
    kinds = dict(
        storage.connection.con.execute(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'narrow'"
        ).fetchall()
    )
    assert kinds["second"].startswith("ENUM")
    assert kinds["first"].startswith("VARCHAR" if limit == "few words" else "ENUM")
    numbered = storage.connection.con.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'narrow_words'")
    assert numbered.fetchone() == (0 if limit == "few combinations" else 1,)


def test_a_column_without_words_and_a_table_without_rows(storage: DuckDBStorage) -> None:
    """Neither is a mistake."""
    table = words(storage)
    nothing = table.filter(table.n > 5)
    assert fetched_rows(storage.keep_words("none", nothing, Words(("first", "second"), []))) == []
    blank = table.filter(table.n == 5)
    row = {"first": None, "second": None, "n": 5}
    assert fetched_rows(storage.keep_words("blank", blank, Words(("first", "second"), [(None, None)]))) == [row]


def test_a_table_can_be_kept_under_the_name_of_one_that_it_is_made_from(storage: DuckDBStorage) -> None:
    """Which every experiment after the first does."""
    table = words(storage)
    kept = storage.keep("words", table.filter(table.n > 3))
    assert sorted(row["n"] for row in fetched_rows(kept)) == [4, 5]


@pytest.mark.parametrize("way", ["sorted", "in parts", "grouped"])
def test_numbers_that_come_again(storage: DuckDBStorage, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, with the count of rows that are too many, however they are found; null never comes again."""
    if way == "in parts":
        monkeypatch.setattr(duckdb_storage, "SORTED_AT_ONCE", 2)
    if way == "grouped":
        monkeypatch.setattr(duckdb_storage, "MOST_LISTED", 1)
    large = 2**63 - 1
    keys = [7, None, large, 8, 7, None, large, 9, 7, 0, 1, 2, 3]
    table = storage.keep("keys", pa.table({"key": pa.array(keys, pa.uint64())}))
    repeated, extra = storage.keep_repeated("repeated", table, "key")
    assert sorted(row["key"] for row in fetched_rows(repeated)) == [7, large]
    assert extra == 3
    single = table.filter(table.key < 5)
    repeated, extra = storage.keep_repeated("repeated", single, "key")
    assert (fetched_rows(repeated), extra) == ([], 0)
    assert storage.keep_repeated("repeated", table.filter(table.key.isnull()), "key")[1] == 0


FOREVER = "CREATE TABLE forever AS SELECT sum(a.range * b.range) FROM range(1_000_000) a, range(1_000_000) b"


def test_threads_ask_in_turn(storage: DuckDBStorage) -> None:
    """Each gets its own rows, though a connection refuses a second call while one runs."""
    table = storage.keep("many", pa.table({"n": np.arange(200_000)}))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda rest: fetched_one((table.n % 8 == rest).sum() * 10 + rest), range(8)))
    assert found == [250_000 + rest for rest in range(8)]


def test_a_failure_ends_what_runs_beside_it(storage: DuckDBStorage) -> None:
    """Without waiting for it, and the connection is as good as before."""
    asked = []

    def fail() -> None:
        with storage.alongside() as beside:
            asked.extend(beside(storage.execute, query) for query in (FOREVER, "CREATE TABLE never (n INT)"))
            while not asked[0].running():
                time.sleep(0.01)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert isinstance(asked[0].exception(), duckdb.InterruptException)
    assert asked[1].cancelled()
    tables = fetched_rows(storage.named("duckdb_tables").select("table_name"))
    assert {row["table_name"] for row in tables}.isdisjoint({"forever", "never"})


def said_by(code: str) -> str:
    """What Python prints that runs the code in a process of its own, without a mistake."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, stdout=subprocess.PIPE, text=True
    ).stdout


def test_a_closed_log_leaves_no_thread(tmp_path: Path) -> None:
    """A dashboard makes a report again and again, in one process."""
    made_log.write_lines(tmp_path, Size(700, 70), files=1)
    before = set(threading.enumerate())
    with open_log([tmp_path]) as log:
        assert fetched_one(log.lines.count()) == 700
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before


def test_ctrl_c_ends_a_query(tmp_path: Path) -> None:
    """At once, not when the query would be at its end."""
    made_log.write_lines(tmp_path, Size(700, 70), files=1)
    code = (
        "import os, signal, threading\nfrom pathlib import Path\n"
        "from abfleet_analysis.reading.open_log import open_log\n"
        f"with open_log([Path({str(tmp_path)!r})]) as log:\n"
        "    threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()\n"
        f"    try:\n        log.storage.execute({FOREVER!r})\n"
        "    except KeyboardInterrupt:\n        print('interrupted')\n"
    )
    assert said_by(code) == "interrupted\n"


def test_numbers_of_every_kind(storage: DuckDBStorage) -> None:
    """Whole ones stay whole, null is nan, decimals are floats, and no rows are an empty array."""
    table = words(storage)
    totals = fetched(table.group_by("second").aggregate(n=table.n.sum()).order_by("n"))
    assert numbers(totals["n"]).tolist() == [6, 9]
    assert numbers(totals["n"]).dtype == np.int64
    assert numbers(fetched(table.filter(table.n > 9).select("n"))["n"]).shape == (0,)
    some = pa.chunked_array([pa.array([1, None]), pa.array([3])])
    np.testing.assert_array_equal(numbers(some), [1.0, np.nan, 3.0])
    assert numbers(pa.chunked_array([pa.array([1, 2]), pa.array([3])])).tolist() == [1, 2, 3]
    assert numbers(pa.chunked_array([pa.array([1]).cast(pa.decimal128(38, 2))])).tolist() == [1.0]
    assert fetched_one(table.n.max()) == 5
    assert fetched_one(table.filter(table.n > 9).n.max()) is None


def test_a_report_needs_no_pandas(tmp_path: Path) -> None:
    """It takes half a second to import, and nothing of it is used."""
    made_log.write_lines(tmp_path, Size(700, 70), files=1)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from abfleet_analysis.analyse import analyse\nfrom abfleet_experiments.file.load import load_text\n"
        f"report = analyse([Path({str(tmp_path)!r})], load_text({made_log.TEXT!r}))\n"
        "assert report.experiments\nassert 'pandas' not in sys.modules\n"
    )
    said_by(code)
