"""Items that have names: items.txt, any CSV as training data, models that are added with names, comparing them."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from abfleet_models.adding.candidate import examine
from abfleet_models.adding.drafting import AddOptions
from abfleet_models.comparison import compare
from abfleet_models.errors import IntegrityError
from abfleet_models.golden.verification import verify_golden
from abfleet_models.item_names import MAX_NAME_BYTES, read_names, written
from abfleet_models.registry import Registry
from abfleet_models.train.build import build
from abfleet_models.train.dataset import TrainingColumns, TrainingDataError, read_split
from abfleet_models.train.recipes import chosen
from typer.testing import CliRunner

from abfleet.cli import app
from tests.models.conftest import NOW
from tests.support import small_graphs
from tests.support.small_graphs import HISTORIES, add_model

SHOP = TrainingColumns(user="customer", item="sku", time="at")
NAMES = ("red", "SKU 2", "зелёный", "4", "007", "a,b")


def shop(path: Path, items: Sequence[object] = NAMES, times: str = "2026-01-{day:02}T{hour:02}:00:00+01:00") -> Path:
    """Six customers who each have four of six items."""
    with path.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        rows.writerow(["at", "note", "sku", "customer"])
        for user in range(6):
            for step in range(4):
                at = times.format(day=user + 1, hour=step, seconds=1_000_000 + 100 * user + step)
                rows.writerow([at, "", items[(user + step * step) % len(items)], f"c{user}"])
    return path


def ratings(path: Path, line: str, header: str = "customer,sku,at") -> Path:
    path.write_text(f"{header}\n{line}\n", encoding="utf-8")
    return path


def test_ids_that_are_no_numbers_are_names(tmp_path: Path) -> None:
    """One that is no number, or is written otherwise, makes all of them names: 4 is then the text "4"."""
    split = read_split(shop(tmp_path / "orders.csv"), min_ratings=1, columns=SHOP)
    assert split.names is not None
    assert set(split.names) == set(NAMES)
    assert split.item_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert len(split.histories) == 6
    assert dict(split.files).keys() == {"orders.csv"}
    for ids in (["7", "8", "9"], [f"{one}" for one in (4_194_303, 1, 2)]):
        numbers = read_split(shop(tmp_path / "numbers.csv", ids), min_ratings=1, columns=SHOP)
        assert numbers.names is None
        assert set(numbers.item_ids.tolist()) == {int(one) for one in ids}
    for ids in (["7", "08", "9"], ["7", "0", "9"], ["7", "4194304", "9"], ["7", "9780316769488", "1"]):
        assert set(read_split(shop(tmp_path / "texts.csv", ids), min_ratings=1, columns=SHOP).names or ()) == set(ids)


def test_times_are_seconds_or_iso(tmp_path: Path) -> None:
    """The order is the same whichever way the times are written; an offset counts."""
    made = [
        read_split(shop(tmp_path / "orders.csv", times=times), min_ratings=1, columns=SHOP)
        for times in (
            "2026-01-{day:02}T{hour:02}:00:00+01:00",
            "{seconds}",
            "{seconds}.25",
            "2026-01-0{day} 0{hour}:00",
        )
    ]
    for other in made[1:]:
        assert [one.tolist() for one in other.histories] == [one.tolist() for one in made[0].histories]
    two = tmp_path / "two.csv"
    rows = [
        f"u{user},{item},{at}"
        for user in (1, 2)
        for item, at in (("b", "2026-01-01T01:00Z"), ("a", "2026-01-01T01:30+01:00"))
    ]
    two.write_text("\n".join(["customer,sku,at", *rows]))
    split = read_split(two, min_ratings=1, columns=SHOP)
    assert [split.names[one[0]] for one in split.histories] == ["a", "a"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("c1,,2026-01-01", r"x\.csv:2: sku: '' is not an item; allowed: 1 to 256 bytes"),
        ("c1,a\tb,2026-01-01", r"x\.csv:2: sku: 'a\\tb' is not an item"),
        (f"c1,{'a' * 257},5", r"x\.csv:2: sku: 'a+.* is not an item"),
        (",a,2026-01-01", r"x\.csv:2: customer: is empty"),
        ("c1,a,yesterday", r"x\.csv:2: at: 'yesterday' is not an integer from 0 to .* nor a time in ISO 8601"),
        ("c1,a,-5", r"x\.csv:2: at: '-5' is not an integer"),
        ("c1,a,99999999999999999999", r"x\.csv:2: at: '9+' is not"),
        ("c1,a", r"x\.csv:2: 2 columns, the header has 3"),
    ],
)
def test_wrong_cells_name_file_line_and_column(tmp_path: Path, line: str, message: str) -> None:
    """By the names that the file itself has."""
    with pytest.raises(TrainingDataError, match=message):
        read_split(ratings(tmp_path / "x.csv", line), min_ratings=1, columns=SHOP)


def test_a_missing_column_says_which_option_names_it(tmp_path: Path) -> None:
    """And what the header has."""
    path = ratings(tmp_path / "x.csv", "", header="who,what,timestamp")
    with pytest.raises(
        TrainingDataError, match="has no userId, sku; --user-column, --item-column names another column"
    ):
        read_split(path, min_ratings=1, columns=TrainingColumns(item="sku"))


def test_a_folder_may_have_one_csv_of_any_name(tmp_path: Path) -> None:
    """Two are one too many, unless one is ratings.csv."""
    shop(tmp_path / "orders.csv")
    assert read_split(tmp_path, min_ratings=1, columns=SHOP).names
    shop(tmp_path / "views.csv")
    with pytest.raises(TrainingDataError, match=r"several other CSV files; name one of orders\.csv, views\.csv"):
        read_split(tmp_path, min_ratings=1, columns=SHOP)
    shop(tmp_path / "ratings.csv")
    assert dict(read_split(tmp_path, min_ratings=1, columns=SHOP).files).keys() == {"ratings.csv"}


def test_the_command_trains_what_is_asked_for(tmp_path: Path) -> None:
    """Prefixed, those alone that are named, with items.txt that is vouched for; the same data give the same bytes."""
    file, root = shop(tmp_path / "orders.csv"), tmp_path / "models"
    arguments = ["models", "train", "--data", str(file), "--min-ratings", "1", "--version-prefix", "shop-"]
    columns = ["--user-column", "customer", "--item-column", "sku", "--time-column", "at"]
    only = ["--only", "ease", "--only", "v1.2.3"]
    result = CliRunner().invoke(app, [*arguments, *columns, *only, "--out", str(root)])
    assert result.exit_code == 0, result.output
    assert "items have names" in result.output
    registry = Registry(root)
    assert registry.versions() == ["shop-v1.2.3", "shop-v1.3.0-beta"]
    assert registry.aliases() == {"production": "shop-v1.2.3", "staging": "shop-v1.3.0-beta"}
    assert registry.archived_versions() == []
    assert registry.check() == []
    version = registry.resolve("shop-v1.2.3")
    verify_golden(version)
    assert set(version.item_names() or ()) == set(NAMES)
    (version.path / "items.txt").write_text("red\n")
    with pytest.raises(IntegrityError, match=r"items\.txt has a different sha256"):
        version.item_names()
    outcomes = {
        one.version: one.outcome
        for one in build(file, root, seed=7, now=NOW, min_ratings=1, columns=SHOP, version_prefix="shop-")
    }
    assert outcomes["shop-v1.2.3"] == "rebuilt"
    assert outcomes["shop-v1.3.0-beta"] == "unchanged"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "best"], "--only: 'best' is not a version or algorithm; allowed: v1.2.2 (popularity)"),
        (["--version-prefix", "../"], "--version-prefix: '../' is not allowed; a version is 1 to 64 of"),
        (["--data", "nowhere.csv"], "nowhere.csv: cannot be read"),
    ],
)
def test_wrong_options_say_what_is_allowed(tmp_path: Path, arguments: list[str], message: str) -> None:
    """In one line, with the exit code of a usage mistake."""
    result = CliRunner().invoke(app, ["models", "train", "--data", str(tmp_path), "--out", str(tmp_path), *arguments])
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize("name", ["a\x07b", "x" * (MAX_NAME_BYTES + 1)])
def test_a_name_is_what_an_outcome_may_say(name: str) -> None:
    """No control characters, at most 256 bytes; whatever else there is comes back as it was."""
    with pytest.raises(IntegrityError, match=r"items\.txt: line 2 has .*; allowed: 1 to 256 bytes"):
        read_names(f"good\n{name}\n".encode())
    assert read_names(written(NAMES)) == NAMES
    assert read_names(b"a\r\nb\r\n") == ("a", "b")


def test_a_recommender_is_added_with_its_names(tmp_path: Path) -> None:
    """Its golden histories are of its own items, and it says that callers use names."""
    (tmp_path / "items.txt").write_bytes(written([f"item {number}" for number in range(1, 501)]))
    folder = add_model(tmp_path / "models", "v2", small_graphs.recommender())
    metadata = json.loads((folder / "metadata.json").read_text())
    assert metadata["golden"]["history"] == [
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1],
        [1, 2, 3, 4, 5],
        [496, 497, 498, 499, 500],
    ]
    assert Registry(tmp_path / "models").resolve("v2").item_names() == tuple(f"item {one}" for one in range(1, 501))


def test_an_item_without_a_name_is_refused(tmp_path: Path) -> None:
    """A model that could answer it would fail its callers."""
    (tmp_path / "items.txt").write_text("only one\n")
    (tmp_path / "model.onnx").write_bytes(small_graphs.recommender())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(
        IntegrityError, match=r"the model has item \d+, but items\.txt has only 1 lines; line n must name item n"
    ):
        examine(tmp_path / "model.onnx", scratch, HISTORIES, AddOptions(version="v2"))


def test_versions_are_compared_by_name(tmp_path: Path) -> None:
    """Two versions number the same items differently; one with numbers is not compared with one with names."""
    root = tmp_path / "models"
    only = chosen(["ease"])
    for prefix, items in (("a-", NAMES), ("b-", ("blue", *NAMES[1:])), ("n-", range(1, 7))):
        file = tmp_path / f"{prefix}.csv"
        shop(file, [*map(str, items)])
        options = {"min_ratings": 1, "columns": SHOP, "version_prefix": prefix, "only": only}
        list(build(file, root, seed=7, now=NOW, **options))  # type: ignore[arg-type]
    first, second, numbered = (Registry(root).resolve(f"{prefix}v1.3.0-beta") for prefix in ("a-", "b-", "n-"))
    assert first.item_names() != second.item_names()
    found = compare(first, second)
    every = {item for one in found.answers for item in (*one.history, *one.a, *one.b) if isinstance(item, str)}
    assert every <= {"blue", *NAMES}
    cold = next(one for one in found.answers if not one.history)
    assert (set(cold.a), set(cold.b)) == ({*NAMES}, {"blue", *NAMES[1:]})
    assert all(not set(one.history) & {*one.a, *one.b} for one in found.answers)
    assert compare(first, first).same_list == 1.0
    other = compare(first, numbered)
    assert (other.answers, other.cases_alike) == ((), None)
    assert np.isclose(compare(numbered, numbered).same_first, 1.0)
