"""Shows tables and texts on a terminal so that no figure is cut or broken, however narrow it is.

A table that does not fit gets its words broken into lines, and where that does not do, becomes a block for each row
with a line for each value.
"""

import re
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

UNLIMITED: Final = 1_000_000
"""Columns: of a pipe, where nothing is folded."""
_GAP: Final = 2
"""Columns between a name and its value, and before both."""
_TEXT_LEAST: Final = 16
"""Sentences are not squeezed into fewer columns than this; a block reads better."""
# A figure with its unit, or the first bound of an interval with its `to`, stays on one line.
_PIECE: Final = re.compile(r"\S+(?:(?<=[\d%]) (?:%|to|s|ms|[kMG]?B)(?![^\s,;:.)])\S*)*")
# Of a name's parts each may have a line; what follows a hyphen of a figure or a date stays with it.
_NAME_PIECE: Final = re.compile(r"(?:\S+?(?<=[^\W_])[-_/](?=[^\W\d_])|" + _PIECE.pattern + ")")
_FIGURE: Final = frozenset("0123456789.,+-%")


def fitted(shown: RenderableType) -> RenderableType:
    """The same with every table and text in it shown so that no figure is cut or broken. Texts in a pipe stay."""
    if isinstance(shown, Table):
        return _FittedTable(shown)
    if isinstance(shown, Text):
        return _FittedText(shown)
    if isinstance(shown, Padding):
        around = (shown.top, shown.right, shown.bottom, shown.left)
        return Padding(fitted(shown.renderable), around, style=shown.style, expand=shown.expand)
    if isinstance(shown, Group):
        return Group(*map(fitted, shown.renderables), fit=shown.fit)
    return shown


def folded(line: str, width: int) -> list[str]:
    """A line in parts of at most so many columns; those after the first are indented."""
    if cell_len(line) <= width:
        return [line]
    indent = len(line) - len(line.lstrip()) + _GAP
    at = _breaks(line, max(width - indent, 1))
    parts = [line[begin:end].rstrip() for begin, end in zip((0, *at), (*at, len(line)), strict=True)]
    return [parts[0], *(" " * indent + part for part in parts[1:])]


@dataclass(frozen=True, slots=True)
class _FittedText:
    """A text whose lines end between words, and never between a figure and its unit."""

    text: Text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return iter(_lines(self.text, options.max_width) if options.is_terminal else [self.text])

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.text)


@dataclass(frozen=True, slots=True)
class _FittedTable:
    """A table as it is where there is room for it."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._shown(console, options)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        shown = self._shown(console, options)
        if isinstance(shown, Table):
            return Measurement.get(console, options, shown)
        return Measurement(options.max_width, options.max_width)  # in a narrower space it would be laid out differently

    def _shown(self, console: Console, options: ConsoleOptions) -> RenderableType:
        wanted = Measurement.get(console, options.update(width=UNLIMITED), self.table).maximum
        if wanted <= options.max_width:
            return self.table
        columns = [_Cells.of(console, column) for column in self.table.columns]
        natural = [cells.natural for cells in columns]
        widths = _widths(columns, options.max_width - (wanted - sum(natural)))
        if widths is not None:
            return _narrowed(self.table, columns, widths)
        title = "" if self.table.title is None else str(self.table.title)
        lines = _lines(console.render_str(title, style="italic"), options.max_width) if title else []
        for index, row in enumerate(self.table.rows):
            for line in _block(columns, index, options.max_width):
                line.stylize(row.style or "")
                lines.append(line)
        return Group(*lines)


@dataclass(frozen=True, slots=True)
class _Cells:
    """A column as texts. `least`: the fewest columns in which no figure breaks."""

    column: Column
    header: Text
    cells: tuple[Text, ...]

    @staticmethod
    def of(console: Console, column: Column) -> "_Cells":
        def text(cell: RenderableType) -> Text:
            return cell if isinstance(cell, Text) else console.render_str(str(cell), highlight=False)

        return _Cells(column, text(column.header), tuple(map(text, column.cells)))

    @property
    def is_figures(self) -> bool:
        return self.column.justify == "right"

    @property
    def natural(self) -> int:
        texts = (line for text in (self.header, *self.cells) for line in text.plain.split("\n"))
        return max(self.column.min_width or 0, *map(cell_len, texts))

    @property
    def least(self) -> int:
        if self.column.no_wrap:
            return self.natural
        needed = max(_longest_piece(text.plain, self.pieces) for text in (self.header, *self.cells))
        return max(needed, self.column.min_width or 0 if self.is_figures else min(self.natural // 2, _TEXT_LEAST))

    @property
    def pieces(self) -> re.Pattern[str]:
        return _PIECE if self.is_figures else _NAME_PIECE


def _widths(columns: Sequence[_Cells], room: int) -> list[int] | None:
    """A width for each column, those that lack little first; None where not even the least has room."""
    found = [cells.least for cells in columns]
    spare = room - sum(found)
    if spare < 0:
        return None
    lacking = [cells.natural - width for cells, width in zip(columns, found, strict=True)]
    for index in sorted(range(len(columns)), key=lacking.__getitem__):
        given = min(lacking[index], spare)
        found[index] += given
        spare -= given
    return found


def _narrowed(table: Table, columns: Sequence[_Cells], widths: Sequence[int]) -> Table:
    """The table with its cells broken into lines of these widths."""

    def broken(text: Text, width: int, pieces: re.Pattern[str]) -> Text:
        return Text("\n").join(_lines(text, width, pieces))

    made = copy(table)
    made.columns = [
        replace(
            cells.column,
            header=broken(cells.header, width, cells.pieces),
            width=width,
            min_width=None,
            no_wrap=True,
            _cells=[broken(cell, width, cells.pieces) for cell in cells.cells],
        )
        for cells, width in zip(columns, widths, strict=True)
    ]
    return made


def _block(columns: Sequence[_Cells], row: int, width: int) -> Iterator[Text]:
    """One row: what names it, then a line for each value."""
    named = 1
    if any(cells.is_figures for cells in columns):
        named = max(next(index for index, cells in enumerate(columns) if cells.is_figures), 1)
    names = [cells.cells[row] for cells in columns[:named] if cells.cells[row].plain.strip()]
    heading = Text("  ").join(names) if names else Text("–")
    heading.stylize("bold")
    yield from _lines(heading, width)
    pairs = [(cells.header, cells.cells[row]) for cells in columns[named:] if cells.cells[row].plain.strip()]
    room = max(width - 2 * _GAP, 1)
    beside = max((label.cell_len for label, _ in pairs if label.cell_len <= room // 2), default=0)
    for label, value in pairs:
        yield from _pair(label, value, beside, width)


def _pair(label: Text, value: Text, beside: int, width: int) -> Iterator[Text]:
    """A value beside its name, or below it where there is no room for either."""
    indent = Text(" " * _GAP)
    first = " " * (2 * _GAP + beside)
    room = width - len(first)
    if _longest_piece(value.plain) > room:
        first = " " * (2 * _GAP)
        room = max(width - len(first), 1)
    values = _lines(value, room)
    if label.cell_len <= beside and len(first) > 2 * _GAP:
        gap = " " * (_GAP + beside - label.cell_len)
        yield Text.assemble(indent, (label.plain, "dim"), gap, values.pop(0))
    else:
        for line in _lines(label, max(width - _GAP, 1)):
            yield Text.assemble(indent, (line.plain, "dim"))
    for line in values:
        yield Text.assemble(first, line)


def _lines(text: Text, width: int, pieces: re.Pattern[str] = _PIECE) -> list[Text]:
    """The text in lines of at most so many columns."""
    found = []
    for line in text.split("\n", allow_blank=True):
        for part in line.divide(_breaks(line.plain, width, pieces)):
            part.rstrip()
            found.append(part)
    return found


def _longest_piece(text: str, pieces: re.Pattern[str] = _PIECE) -> int:
    return max((cell_len(piece.group()) for piece in pieces.finditer(text)), default=0)


def _breaks(text: str, width: int, pieces: re.Pattern[str] = _PIECE) -> list[int]:
    """Where new lines begin, so that none has more columns; inside a word only where it is longer than a line."""
    found: list[int] = []
    begin = 0
    for piece in pieces.finditer(text):
        if cell_len(text[begin : piece.end()]) <= width:
            continue
        if text[begin : piece.start()].strip():
            found.append(begin := piece.start())
        while cell_len(text[begin : piece.end()]) > width:
            found.append(begin := _cut(text, begin, width))
    return found


def _cut(text: str, begin: int, width: int) -> int:
    """Where the longest beginning of a word that fits ends, rather before a figure in it than inside."""
    end = begin + 1
    while cell_len(text[begin : end + 1]) <= width:
        end += 1
    kept = end
    while kept > begin + 1 and {text[kept - 1], text[kept]} <= _FIGURE:
        kept -= 1
    return kept if kept > begin + 1 else end
