"""Several small whole numbers packed into one, so that one running sum adds up all of them.

A running sum over a user's looks costs about as much as sorting the looks. Counts are small, so the sums of several fit
beside each other into the 53 bits that a float64 has for a whole number, and no sum reaches into the next one's bits.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import ibis
import ibis.expr.types as ir

from abfleet_analysis.storage.storage import Storage

WORD_BITS: Final = 53
"""Whole numbers up to 2^53 are exact in a float64, which is added up alike by every database."""
PackedWord = Mapping[str, int]
"""Columns that are in one number, the lowest first, with the bits of each."""


def bits_of(
    storage: Storage, table: ir.Table, columns: Sequence[str], most_rows: int
) -> tuple[dict[str, int], frozenset[str]]:
    """How many bits the sum of at most so many rows needs, of each column with whole numbers from 0 on alone; and the
    columns that have a number below 0."""
    facts: dict[str, ir.Value] = {}
    for index, name in enumerate(columns):
        column = table[name]
        facts |= {
            f"high_{index}": column.max(),
            f"low_{index}": column.min(),
            # A case, that no number is rounded to a whole one that 64 bits have no room for.
            f"odd_{index}": ibis.ifelse(column.between(0, float(1 << WORD_BITS)), column != column.floor(), True)
            .cast("int32")
            .max(),
        }
    (row,) = storage.fetched(table.aggregate(**facts)).to_pylist()
    bits = {
        name: max(int(row[f"high_{index}"]) * most_rows, 1).bit_length()
        for index, name in enumerate(columns)
        if row[f"odd_{index}"] == 0
    }
    return bits, frozenset(name for index, name in enumerate(columns) if (row[f"low_{index}"] or 0) < 0)


def words_of(columns: Sequence[str], bits: Mapping[str, int]) -> list[PackedWord]:
    """Which columns go into one number: those whose bits are known, as many as fit; one alone is no word."""
    words: list[dict[str, int]] = []
    for name in sorted((name for name in columns if name in bits), key=lambda name: bits[name]):
        if not words or sum(words[-1].values()) + bits[name] > WORD_BITS:
            words.append({})
        words[-1][name] = bits[name]
    return [word for word in words if len(word) > 1]


def running_sums(
    table: ir.Table,
    columns: Sequence[str],
    *,
    keys: Sequence[str],
    by: Sequence[str],
    order: str,
    bits: Mapping[str, int],
    every_row: bool,
) -> ir.Table:
    """The keys and columns, and of each column the running sum `by` some keys as `now_` and its name.

    `first` is whether a row is the first of these. bits: As of `bits_of`. every_row: Whether rows in which
    all columns are 0 are kept.
    """
    words = words_of(columns, bits)
    plain = [name for name in columns if not any(name in word for word in words)]
    added = [*(f"word_{n}" for n in range(len(words))), *plain]
    few = table.select(*keys, *plain, **{f"word_{n}": packed(table, word) for n, word in enumerate(words)})
    if not every_row:
        few = few.filter(ibis.or_(*(few[name] != 0 for name in added)))
    so_far = ibis.cumulative_window(group_by=list(by), order_by=order)
    first = ibis.row_number().over(group_by=list(by), order_by=order) == 0
    summed = few.mutate(first=first, **{f"now_{name}": few[name].sum().over(so_far) for name in added})
    for n, word in enumerate(words):
        for prefix in ("", "now_"):
            summed = summed.mutate(**unpacked(summed[f"{prefix}word_{n}"], word, prefix))
    return summed


def packed(table: ir.Table, word: PackedWord) -> ir.FloatingValue:
    """The columns of a word as one number; none of them is null, and a condition that holds is 1."""
    total, place = ibis.literal(0.0), 0
    for name, bits in word.items():
        total = total + table[name].cast("float64") * float(1 << place)
        place += bits
    return total


def unpacked(number: ir.FloatingValue, word: PackedWord, prefix: str) -> dict[str, ir.FloatingValue]:
    """The columns again, each with a prefix."""
    whole = number.cast("int64")
    result, place = {}, 0
    for name, bits in word.items():
        result[prefix + name] = ((whole >> place) & ((1 << bits) - 1)).cast("float64")
        place += bits
    return result
