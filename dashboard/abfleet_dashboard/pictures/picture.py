"""What every picture has: a description for readers who do not see it, a legend, and its numbers as a table."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from markupsafe import Markup

from abfleet_dashboard.pictures.svg import element

MOST_PARTS: Final = 12
"""Things that a sentence lists; of names as long as they may be, it is then not yet so long that it is cut."""

ONE_POINT: Final = element(
    "p",
    "There is only one point so far, so nothing is drawn yet. Its numbers are below.",
    class_="empty",
)
"""In the place of a drawing that would be a single dot, as on the first day."""


@dataclass(frozen=True, slots=True)
class DataTable:
    """The numbers behind a picture, as text. The first cell of a row names it."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class LegendKey:
    """One line of a legend. `swatch` is a drawing that looks like what it stands for."""

    swatch: Markup
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawing and all that belongs to it.

    Attributes:
        id: Unique on its page; ids inside the drawing begin with it.
        title: What it shows, as a heading. description: What is to be seen, in a sentence.
        csv: The table of numbers for download that it is drawn from; empty where there is none.
    """

    id: str
    title: str
    description: str
    drawing: Markup
    table: DataTable
    legend: tuple[LegendKey, ...] = field(default=())
    csv: str = ""

    @property
    def is_drawn(self) -> bool:
        """Whether there is more to draw than one point; a legend says nothing else."""
        return self.drawing != ONE_POINT


def few(parts: Sequence[str], separator: str = ", ") -> str:
    """Parts of a sentence; of many only the first, and how many more there are: the table has them all."""
    if len(parts) <= MOST_PARTS:
        return separator.join(parts)
    return separator.join((*parts[:MOST_PARTS], f"and {len(parts) - MOST_PARTS} more"))


def thinned(count: int, most: int) -> list[int]:
    """Indices of at most so many of `count` things, evenly spread, first and last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})
