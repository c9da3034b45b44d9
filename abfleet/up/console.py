"""The terminal of `up`: lines on stdout, a live table under them on a terminal, errors on stderr."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from abfleet_process.standard_output import ReaderGone
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text


class UpConsole:
    """Prints lines and the table. When the reader of stdout has gone it prints nothing, and the fleet runs on."""

    def __init__(self, *, live: bool) -> None:
        """`live`: show the table, which needs a terminal."""
        self.is_live = live
        self._console = Console()
        self._table: Live | None = None

    def note(self, line: str) -> None:
        """Prints a line that stays, above the table if there is one."""
        with suppress(OSError, ReaderGone):
            if self._table is None:
                print(line, flush=True)
            else:
                self._console.print(Text(line), soft_wrap=True)

    def print_errors(self, lines: Iterable[str]) -> None:
        """Prints to stderr why the command ends, each line after `abfleet: `."""
        for line in lines:
            print(f"abfleet: {line}", file=sys.stderr)

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keeps the table on the screen inside the `with`; does nothing without a terminal."""
        if not self.is_live:
            yield
            return
        # No refresh thread: `show` refreshes the table.
        with Live(console=self._console, auto_refresh=False, transient=True) as self._table:
            try:
                yield
            finally:
                self._table = None

    def show(self, table: RenderableType) -> None:
        """Replaces the table on the screen; does nothing outside `live`."""
        if self._table is not None:
            with suppress(OSError, ReaderGone):
                self._table.update(table, refresh=True)
