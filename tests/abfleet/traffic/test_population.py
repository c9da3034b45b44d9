"""Who calls: the same people for the same seed, and histories that end before what is held out."""

from pathlib import Path

import pytest

from abfleet.traffic.population import LIKED_SHARE, LONGEST_HISTORY, PopulationError, built_in, from_movielens, names_of


def test_people_depend_on_seed_and_number_alone() -> None:
    """The same seed gives the same; more users change nobody; another seed gives others."""
    few, many, other = built_in(20, 7), built_in(50, 7), built_in(20, 8)
    for one, same in zip(few, many, strict=False):
        assert (one.user_id, one.history) == (same.user_id, same.history)
        assert [one.likes(item) for item in range(200)] == [same.likes(item) for item in range(200)]
    assert [one.history for one in few] != [one.history for one in other]
    assert [one.user_id for one in few] == [f"user-{n}" for n in range(1, 21)]


def test_the_shape_of_the_built_in_population() -> None:
    """Histories are not empty, not too long, without repeats, and lean to popular items; tastes have their share."""
    people = built_in(300, 1)
    assert all(1 <= len(one.history) <= LONGEST_HISTORY for one in people)
    assert all(len(set(one.history)) == len(one.history) for one in people)
    items = [item for one in people for item in one.history]
    assert sum(int(item) <= 1000 for item in items) > len(items) * 0.4
    liked = sum(one.likes(item) for one in people for item in range(1, 101))
    assert abs(liked / 30_000 - LIKED_SHARE) < 0.02
    assert not any(one.likes(item) for one in people for item in one.history)


def test_items_with_names(tmp_path: Path) -> None:
    """Histories are names of the file, and tastes are of names."""
    file = tmp_path / "items.txt"
    file.write_text("".join(f"item {n}\n" for n in range(1, 40)))
    names = names_of(file)
    people = built_in(50, 1, names)
    assert all(set(one.history) <= set(names) and one.history for one in people)
    assert 0 < sum(one.likes(name) for one in people for name in names) < 50 * 39
    assert not any(one.likes(item) for one in people for item in one.history)


@pytest.mark.parametrize(("content", "told"), [(None, "No such file"), (b"a\na\n", "repeats"), (b"\xff\n", "UTF-8")])
def test_names_that_are_none(tmp_path: Path, content: bytes | None, told: str) -> None:
    """The error names the flag and the file."""
    file = tmp_path / "items.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(PopulationError, match=told) as caught:
        names_of(file)
    assert str(caught.value).startswith("--item-names: ")


def ratings(folder: Path, text: str) -> Path:
    (folder / "ratings.csv").write_text(text)
    return folder


def test_movielens(tmp_path: Path) -> None:
    """In the order of time; the newest fifth is held out, and that is what the person likes; people take turns."""
    rows = [f"{user},{user * 100 + n},4.0,{1000 - n if user == 1 else n}" for user in (1, 2) for n in range(10)]
    rows.append("3,1,5.0,1")
    people = from_movielens(ratings(tmp_path, "userId,movieId,rating,timestamp\n" + "\n".join(rows)), 4)
    first, second, third, _ = people
    assert first.history == (109, 108, 107, 106, 105, 104, 103, 102)
    assert first.likes(101)
    assert first.likes(100)
    assert not first.likes(102)
    assert second.history == tuple(range(200, 208))
    assert third.history == first.history
    assert third.user_id == "user-3"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "ratings.csv"),
        ("a,b\n1,2\n", "userId, movieId, timestamp"),
        ("userId,movieId,timestamp\nx,1,2\n", "whole numbers"),
        ("userId,movieId,timestamp\n1,1,2\n", "five ratings"),
    ],
)
def test_data_that_is_none(tmp_path: Path, text: str | None, told: str) -> None:
    """The error names the flag and what is allowed."""
    if text is not None:
        ratings(tmp_path, text)
    with pytest.raises(PopulationError, match=told) as caught:
        from_movielens(tmp_path, 3)
    assert str(caught.value).startswith("--data: ")
