"""What every picture comes with: words for those who do not see it, a legend, and its numbers as a table."""

from dataclasses import dataclass, field

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Table:
    """The numbers behind a picture, as text. The first cell of a row names it."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """One line of a legend. `swatch` is a drawing that looks like what it stands for."""

    swatch: Markup
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A drawing and all that belongs to it.

    Attributes:
        id: Unique on its page; ids inside the drawing begin with it.
        title: What it shows, as a heading. description: What is to be seen, in a sentence.
    """

    id: str
    title: str
    description: str
    drawing: Markup
    table: Table
    legend: tuple[Key, ...] = field(default=())


def thinned(count: int, most: int) -> list[int]:
    """Indices of at most so many of `count` things, evenly spread, first and last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(index * (count - 1) / (most - 1)) for index in range(most)})
