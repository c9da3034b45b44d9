"""What a reader takes in as one does not end a line in its middle, and stays the text that it is."""

from abfleet_dashboard.kept_together import kept_together
from abfleet_dashboard.local_times import with_times
from markupsafe import Markup


def test_numbers_keep_their_units() -> None:
    """By spaces that do not break; other spaces break as ever."""
    for text in ("20 %", "1,730 users", "1 call", "p = 0.2", "E = 822", "p < 0.0001", "p\u00a0= 0.2", "5 min"):
        assert kept_together(f"it is {text} now") == Markup.escape(f"it is {text} now".replace(text, joined(text)))
    assert kept_together("looks 1 to 20, group = 3 of userland") == "looks 1 to 20, group = 3 of userland"


def joined(text: str) -> str:
    """With spaces that do not break."""
    return text.replace(" ", "\u00a0")


def test_versions_are_whole() -> None:
    """And small numbers; words without a digit break at their hyphens."""
    assert kept_together("CTR: a (v1.3.0-beta) against b") == (
        'CTR: a <span class="whole">(v1.3.0-beta)</span> against b'
    )
    assert kept_together("8.2e-14") == '<span class="whole">8.2e-14</span>'
    assert kept_together("an always-valid interval") == "an always-valid interval"
    assert with_times("v1-x & v2") == '<span class="whole">v1-x</span> &amp; v2'


def test_names_are_text() -> None:
    """What others wrote is escaped and readable, inside a whole word too; our markup stays."""
    assert kept_together('<b>1-x"</b>\u200b') == '<span class="whole">&lt;b&gt;1-x&#34;&lt;/b&gt;⟨U+200B⟩</span>'
    assert kept_together(Markup("<b>v1-x</b>")) == "<b>v1-x</b>"
