"""Text that others wrote: everything that is there can be seen."""

import unicodedata

from abfleet_dashboard.foreign import LONGEST, readable
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(st.characters(), max_size=40))
def test_what_cannot_be_seen_is_written_out(text: str) -> None:
    """No control, format, surrogate or separator character is left, and the rest is as it was."""
    shown = readable(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\t\n"]
    if all(c.isprintable() for c in text) and text.isascii():
        assert shown == text


def test_endless_text_is_cut() -> None:
    """To a bound, with a sign that it was."""
    assert readable("x" * LONGEST) == "x" * LONGEST
    assert readable("x" * 10**6) == "x" * (LONGEST - 1) + "…"
