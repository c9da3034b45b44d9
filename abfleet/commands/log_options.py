"""What the commands of `abfleet logs` share: flags, a progress count, and errors in one line."""

import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from abfleet_process.counting import counted

if TYPE_CHECKING:
    from abfleet_log.files import WriterIdentity
    from abfleet_log.tools.erase import LoggedUser

USAGE, FAILURE = 2, 1
Logs = Annotated[
    list[Path] | None,
    typer.Option(
        "--logs",
        envvar="ABFLEET_LOGS",
        help="Folder or file of the decision log; may be repeated.",
        show_default="logs",
    ),
]
Folder = Annotated[Path, typer.Option("--logs", envvar="ABFLEET_LOGS", help="Folder of the decision log.")]
DEFAULT_FOLDER = Path("logs")
Json = Annotated[bool, typer.Option("--json", envvar="ABFLEET_JSON", help="Print JSON.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        envvar="ABFLEET_USER_ID_HMAC_KEY_FILE", help="Key file of the routers, for logs with hashed user ids."
    ),
]


def logged_user(user_id: str, key_file: Path | None) -> "LoggedUser":
    """The user, with the keyed hash where a key file is given. Exits 2 when the key file cannot be used."""
    from abfleet_log.tools.erase import LoggedUser
    from abfleet_log.user_id_hash import KeyFileError, keyed_hash

    if key_file is None:
        return LoggedUser(user_id)
    try:
        return LoggedUser(user_id, keyed_hash(key_file)(user_id))
    except KeyFileError as error:
        stop(str(error), USAGE)


def identity() -> "WriterIdentity":
    """This process, as names of log files contain it."""
    import os

    from abfleet_log.files import WriterIdentity

    return WriterIdentity(socket.gethostname(), os.getpid())


@contextmanager
def progress_count(words: str) -> "Iterator[Any]":
    """A progress count on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(words, total=None)
        yield lambda: progress.advance(task)


@contextmanager
def unreadable_lines() -> "Iterator[Callable[[Path], None]]":
    """Counts what cannot be read, by file; says so on stderr in the end."""
    found = Counter[Path]()
    yield lambda path: found.update([path])
    if found:
        where, lines = next(iter(found)), found.total()
        typer.echo(
            f"{counted(lines, 'unreadable line')}, the first in {where}; see abfleet logs check",
            err=True,
        )


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Ends the command with one line on stderr when log files cannot be read or changed."""
    from abfleet_log.tools.read_lines import LogsError

    try:
        yield
    except (LogsError, OSError) as error:
        stop(str(error))


def stop(message: str, code: int = FAILURE) -> NoReturn:
    """Ends the command with a line on stderr."""
    sys.stderr.write(f"abfleet: {message}\n")
    raise typer.Exit(code)
