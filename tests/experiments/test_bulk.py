"""Lists of user ids: their lines, however they are cut and marked."""

import pytest
from abfleet_experiments.bulk import lines


@pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
def test_a_mark_of_the_encoding_is_no_part_of_the_first_id(size: int) -> None:
    """Spreadsheets and editors put one first; in the middle it is a character like any other."""
    data = b"\xef\xbb\xbfuser-1\r\nuser-2\n\xef\xbb\xbfuser-3"
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert [one for part in lines(chunks) for one in part] == ["user-1", "user-2", "\ufeffuser-3"]
    assert list(lines([b"\xef\xbb"])) == [["\udcef\udcbb"]]
    assert list(lines([b"\xef\xbb\xbf"])) == []
