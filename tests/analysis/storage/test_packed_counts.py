"""Several running sums in one number: what comes out is what went in."""

import ibis
import numpy as np
import pyarrow as pa
import pytest
from abfleet_analysis.evidence.layout import Layout
from abfleet_analysis.evidence.sums import PRODUCTS, Shape, Value, changes, column
from abfleet_analysis.storage import packed_counts
from abfleet_analysis.storage.fetching import storage_of

COLUMNS = ("seldom", "often", "most", "money", "refunds")
VALUES = {
    "ratio": Value("seldom", "often"),
    "any": Value("most", any=True),
    "paid": Value("money"),
    "net": Value("refunds", cap=3.0),
}
SHAPE = Shape(6, 1, 2)


def rows(seed: int) -> pa.Table:
    """Users with some rows at some looks; sums of a column reach the most that is allowed for."""
    random = np.random.default_rng(seed)
    user, look = np.divmod(np.arange(60), 6)
    kept = random.random(60) < 0.7
    kept[:6] = True
    columns = {
        "seldom": random.integers(0, 2, 60),
        "often": random.integers(0, 1000, 60),
        "most": np.full(60, 4095),
        "money": np.round(random.random(60), 2),
        "refunds": random.integers(-5, 5, 60),
    }
    keys = {"user": user, "period": user * 0, "cell": user * 0, "g": user % 2, "look": look}
    return pa.table({name: pa.array(column[kept]) for name, column in (keys | columns).items()})


@pytest.mark.parametrize("seed", range(3))
def test_packing_changes_no_number(seed: int) -> None:
    """What looks change is the same with and without it; fractions and negative numbers are left alone."""
    storage = storage_of(ibis.duckdb.connect())
    table = storage.keep("rows", rows(seed))
    table = table.mutate(**{name: table[name].cast("float64") for name in COLUMNS})
    bits, _ = packed_counts.bits_of(storage, table, COLUMNS, 6)
    assert set(bits) == {"seldom", "often", "most"}
    assert bits["most"] == (4095 * 6).bit_length()
    assert packed_counts.words_of(COLUMNS, bits) != []
    plain, packed = (
        changes(table, VALUES, SHAPE, Layout(ramped), given).order_by("user", "place").to_pyarrow().to_pylist()
        for ramped, given in ((True, None), (False, bits))
    )
    assert packed == plain


def test_rows_that_change_nothing_are_left_out() -> None:
    """Fewer rows give the same sums, in every place."""
    table = storage_of(ibis.duckdb.connect()).keep("rows", rows(1))
    table = table.mutate(**{name: table[name].cast("float64") for name in COLUMNS})
    values = {"any": Value("seldom", any=True)}
    every, some = (changes(table, values, SHAPE, Layout(ramped=True, everyone=everyone)) for everyone in (True, False))
    totals = [
        rows.group_by("place")
        .aggregate(**{name: rows[name].sum() for name in (column(m, part) for m in values for part in PRODUCTS)})
        .order_by("place")
        .to_pyarrow()
        .to_pylist()
        for rows in (every, some)
    ]
    assert [row for row in totals[0] if row["any_y"]] == [row for row in totals[1] if row["any_y"]] != []
    assert some.count().to_pyarrow().as_py() < every.count().to_pyarrow().as_py()


def test_words_are_exact() -> None:
    """No word has more bits than a whole number of a float64, and no column is alone in one."""
    bits = {f"c{n}": n for n in (1, 9, 20, 24, 30, 52, 60)}
    words = packed_counts.words_of(list(bits), bits)
    assert all(sum(word.values()) <= packed_counts.WORD_BITS and len(word) > 1 for word in words)
    assert set().union(*words) >= {"c1", "c9", "c20"}
