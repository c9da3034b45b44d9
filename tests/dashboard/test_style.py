"""The style sheet: colours that can be told apart in light, in the dark and on paper, and nothing from elsewhere."""

import re

import pytest
from abfleet_dashboard.pages import STATIC, STYLE

SHEET = (STATIC / STYLE).read_text(encoding="utf-8")
TEXT = ("--ink", "--soft", "--link", "--good", "--bad", "--warn", "--quiet")
GROUNDS = ("--paper", "--panel", "--good-wash", "--bad-wash", "--warn-wash", "--quiet-wash")
LINES = ("--estimate", "--s0", "--s1", "--s2", "--s3", "--s4", "--s5", "--s6", "--s7", "--good", "--bad", "--quiet")


def palettes() -> dict[str, dict[str, str]]:
    """Colours by name for light, dark and paper."""
    blocks = re.findall(r":root \{(.*?)\}", SHEET, re.DOTALL)
    found = [dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{3,6})", block)) for block in blocks]
    light, dark, paper = found
    return {"light": light, "dark": light | dark, "paper": light | paper}


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[index : index + 2], 16) / 255 for index in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """From 1 to 21."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["light", "dark", "paper"])
def test_text_has_the_contrast_of_level_aa(name: str) -> None:
    """4.5 to 1 for every text colour on every ground."""
    palette = palettes()[name]
    low = {
        (text, ground): round(contrast(palette[text], palette[ground]), 2)
        for text in TEXT
        for ground in GROUNDS
        if contrast(palette[text], palette[ground]) < 4.5
    }
    assert low == {}


@pytest.mark.parametrize("name", ["light", "dark", "paper"])
def test_lines_stand_out(name: str) -> None:
    """3 to 1 for every line of a picture on the page."""
    palette = palettes()[name]
    assert {line for line in LINES if contrast(palette[line], palette["--paper"]) < 3} == set()


def test_contrast_is_that_of_wcag() -> None:
    """Black on white is 21, and the middle grey of the examples is 4.54."""
    assert contrast("#000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#fff") == pytest.approx(4.54, abs=0.01)


def test_the_sheet_needs_nothing_else() -> None:
    """No import, no address, no `<` that could end the style of a report file."""
    assert "<" not in SHEET
    assert "url(" not in SHEET
    assert "@import" not in SHEET
