"""Instants in sentences, as elements that the page's script adds the reader's own time to. Without it they are UTC."""

import re
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup

from abfleet_dashboard.foreign import readable
from abfleet_dashboard.kept_together import together

_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_INSTANT: Final = re.compile(
    rf"(\d{{1,2}})\u00a0({'|'.join(_MONTHS)})\u00a0(\d{{4}}), (\d\d):(\d\d)(?::(\d\d))?\u00a0UTC"
)
"""As `numbers.instant` writes it."""


def with_times(text: str) -> Markup:
    """The text, escaped and kept together, with each instant of ours in it as `<time class="instant" datetime="…">`."""
    parts, place = [], 0
    shown = readable(text)
    for found in _INSTANT.finditer(shown):
        at = _read(found)
        if at is not None:
            parts += [together(shown[place : found.start()]), _element(at, found[0])]
            place = found.end()
    return Markup("").join([*parts, together(shown[place:])])


def _read(found: re.Match[str]) -> datetime | None:
    day, month, year, hour, minute, second = found.groups()
    try:
        return datetime(
            int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second or 0), tzinfo=UTC
        )
    except ValueError:
        return None


def _element(at: datetime, text: str) -> Markup:
    return Markup('<time class="instant" datetime="{}">{}</time>').format(at.strftime("%Y-%m-%dT%H:%M:%SZ"), text)
