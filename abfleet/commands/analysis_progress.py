"""The progress of a long analysis: a moving line on a terminal, else a plain line for each long step."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

QUIET_SECONDS = 5.0
"""Without a terminal shorter analyses, which most are, print no progress."""


def plain_lines(say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> Callable[[str], None]:
    """A callback for steps; prints those that begin after some seconds of analysis, with the seconds so far."""
    begin = clock()

    def heard(step: str) -> None:
        taken = clock() - begin
        if taken >= QUIET_SECONDS:
            say(f"analyze: {step} ({taken:.0f} s)")

    return heard


@contextmanager
def steps(console: "Console") -> Iterator[Callable[[str], None]]:
    """A callback for steps; shows each with the time so far on a terminal, or prints plain lines elsewhere."""
    if not console.is_terminal:
        yield plain_lines(lambda line: console.print(line, highlight=False, soft_wrap=True))
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading the log", total=None)
        yield lambda step: progress.update(task, description=step)
