"""The glossary as a page shows it: sections of terms, each with its meaning. The text is a copy of docs/glossary.md."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from markupsafe import Markup, escape

TEXT: Final = Path(__file__).parents[1] / "glossary.txt"
_ROW: Final = re.compile(r"^\| (?P<term>[^|]+?) \| (?P<meaning>[^|]+?) \|$", re.MULTILINE)
_LINK: Final = re.compile(r"\[([^\]]+)\]\([^)]*\)")
_CODE: Final = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class GlossarySection:
    """One table of terms, by the heading above it; `id` is what a link to it names."""

    id: str
    title: str
    rows: tuple[tuple[Markup, Markup], ...]


@cache
def glossary_sections() -> tuple[GlossarySection, ...]:
    """Every section of the glossary, in its order."""
    sections = []
    for part in TEXT.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        _, _, table = body.partition("\n|---|---|\n")
        rows = tuple((_inline(row["term"]), _inline(row["meaning"])) for row in _ROW.finditer(table))
        sections.append(GlossarySection(title.lower().replace(" ", "-"), title, rows))
    return tuple(sections)


def _inline(text: str) -> Markup:
    """A cell's text with code in it marked. Of a link only its words stay: it leads to another page of the docs."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(_LINK.sub(r"\1", text)))))  # noqa: S704 - escaped
