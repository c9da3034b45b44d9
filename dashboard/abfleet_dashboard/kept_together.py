"""Keeps on one line what a reader takes in as one: a number with its unit, a version with its hyphens."""

import re
from typing import Final

from markupsafe import Markup, escape

from abfleet_dashboard.foreign import readable
from abfleet_dashboard.numbers import NBSP

_UNITS: Final = "users?|calls?|errors?|fallbacks?|looks?|days?|hours?|minutes?|seconds?|pairs?|requests?|ms|min|s"
_NUMBER: Final = re.compile(rf"(?<=\d) (?=(?:%|(?:{_UNITS})\b))|(?<=\b[pEz]) (?=[=<] )|(?<=\b[pEz][ {NBSP}][=<]) ")
_HYPHENED: Final = re.compile(r"[^\s]*\w-\w[^\s]*")
"""Browsers break lines at hyphens. Of words, only those with a digit are kept whole: versions, and 8.2e-14."""


def kept_together(text: str) -> Markup:
    """The text, escaped; what is Markup already stays as it is."""
    return text if isinstance(text, Markup) else together(readable(text))


def together(shown: str) -> Markup:
    """The same for text that is readable."""
    spaced, parts, place = _NUMBER.sub(NBSP, shown), [], 0
    for found in _HYPHENED.finditer(spaced):
        if any(character.isdigit() for character in found[0]):
            parts += [escape(spaced[place : found.start()]), Markup('<span class="whole">{}</span>').format(found[0])]
            place = found.end()
    return Markup("").join([*parts, escape(spaced[place:])])
