"""Lines of several files come out in one order, whatever the order in which they came in."""

from abfleet_autopilot.lines import Other
from abfleet_autopilot.ordering import OrderedLines
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from("ab"), st.integers(0, 3)), unique=True), st.randoms())
def test_lines_come_by_time_file_and_number(keys: list[tuple[int, str, int]], rng: object) -> None:
    """All of them, once."""
    ordered = OrderedLines()
    for at, file, number in keys:
        ordered.add(file, number, Other(at, f"{file}{number}"))
    found = [(line.at, line.router) for line in ordered.until(100)]
    assert found == [(at, f"{file}{number}") for at, file, number in sorted(keys)]
    assert (len(ordered), ordered.late) == (0, 0)


def test_what_comes_too_late_is_counted_and_left_out() -> None:
    """What has been taken stands."""
    ordered = OrderedLines()
    for at in (10, 30):
        ordered.add("a", at, Other(at, "r"))
    assert [line.at for line in ordered.until(20)] == [10]
    for at in (5, 15):
        ordered.add("b", at, Other(at, "r"))
    assert [line.at for line in ordered.until(40)] == [15, 30]
    assert ordered.late == 1
