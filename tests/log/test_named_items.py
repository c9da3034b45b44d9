"""Outcomes about items that have names: checked, written, imported and shown beside those about numbers."""

from pathlib import Path

import orjson
import pytest
from abfleet_log.files import WriterIdentity
from abfleet_log.outcome import BUILT_IN_TYPES, content, line, problem
from abfleet_log.schema import problems
from abfleet_log.tools.check import Checker
from abfleet_log.tools.import_outcomes import ColumnMap, ImportedOutcome, ImportResult, import_outcomes
from abfleet_log.tools.show import one_line

NOW_US = 1_800_000_000_000_000
MADE = ImportedOutcome(outcome_id="o", type="click", user_id="u")


def with_item(**changed: object) -> ImportedOutcome:
    return ImportedOutcome(outcome_id="o", type="click", user_id="u", **changed)  # type: ignore[arg-type]


def test_a_name_is_written_beside_a_null() -> None:
    """A line has one kind; one about a number is as it was before items could have names."""
    named, numbered, neither = (line(one, NOW_US) for one in (with_item(item="é"), with_item(item_id=3), MADE))
    assert (named["item_id"], named["item_name"]) == (None, "é")
    assert [(one["item_id"], "item_name" in one) for one in (numbered, neither)] == [(3, False), (None, False)]
    assert [problems(one) for one in (named, numbered, neither)] == [[], [], []]
    assert problems(named | {"item_name": 3}) == ["item_name: is '3', and must be: string"]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (with_item(item="a", item_id=1), "item: 'a'; allowed: a name, or a number in item_id, not both"),
        (with_item(item="é" * 129), "allowed: at most 256 bytes of UTF-8"),
        (with_item(item="a\x00"), "without control characters"),
    ],
)
def test_a_wrong_name_is_refused(outcome: ImportedOutcome, words: str) -> None:
    """The field is named, with what is allowed."""
    assert words in (problem(outcome, BUILT_IN_TYPES, NOW_US) or "")


def test_a_name_is_part_of_what_an_outcome_says() -> None:
    """The same id with another item is a conflict, for the router and for `check`; 3 and "3" are two."""
    ones = [MADE, with_item(item_id=3), with_item(item="3"), with_item(item="4")]
    assert len({content(one) for one in ones}) == 4
    assert problem(with_item(item="x" * 256), BUILT_IN_TYPES, NOW_US) is None
    lines = [orjson.dumps(line(one, NOW_US)) for one in ones[1:]]
    found = Checker(gap_seconds=60).take([(Path("log"), one, True) for one in lines])
    assert (found.sound, found.repeated_outcomes, found.conflicting_outcomes) == (True, 2, 2)


def test_lines_are_shown_with_names() -> None:
    """Of an exposure how many there are, of an outcome which."""
    assert "item red shoes" in one_line(line(with_item(item="red shoes"), NOW_US))
    shown = one_line({"event": "exposure", "items": None, "item_names": ["a", "b"], "latency_ms": 1.0, "reason": "x"})
    assert "2 items" in shown


def imported(folder: Path, text: str, **columns: str) -> ImportResult:
    file = folder / "orders.csv"
    file.write_text(text)
    mapping = ColumnMap(columns=columns, constants={"type": "click"})
    identity = WriterIdentity("host", 1)
    return import_outcomes(
        file, folder, mapping, BUILT_IN_TYPES, identity, dry_run=False, skip_rejected=True, wall=lambda: NOW_US / 1e6
    )


def lines_of(result: ImportResult) -> list[dict[str, object]]:
    assert result.path is not None
    return [orjson.loads(one) for one in result.path.read_bytes().splitlines()]


def test_names_are_imported(tmp_path: Path) -> None:
    """From a column of that name, or from one that is mapped; both kinds in a row are refused."""
    text = "user_id,time,sku,item_id\nu,2026-11-01T00:00:00Z,red shoes,\nu,2026-11-01T00:00:00Z,red,3\n"
    result = imported(tmp_path, text, item_name="sku")
    (one,) = lines_of(result)
    assert (one["item_id"], one["item_name"]) == (None, "red shoes")
    assert (result.rejected, "not both" in result.reasons[0]) == (1, True)
    (again,) = lines_of(imported(tmp_path, "user_id,time,item_name\nu,2026-11-01T00:00:00Z,red\n"))
    assert again["item_name"] == "red"


def test_rows_of_before_are_imported_as_before(tmp_path: Path) -> None:
    """A title beside the number is no id, and a row's made up outcome id is what it was, so that it counts once."""
    before = "user_id,time,item_id,item_name\nu,2026-11-01T00:00:00Z,3,Toy Story\n"
    plain = "user_id,time,item_id\nu,2026-11-01T00:00:00Z,3\n"
    first, second = (lines_of(imported(tmp_path, text))[0] for text in (before, plain))
    assert first["outcome_id"] == second["outcome_id"] == "row-0ab675e4c408246373d58eb434f048cf"
    assert (first["item_id"], "item_name" in first) == (3, False)
