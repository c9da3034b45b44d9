"""`abfleet analyze --watch` and its notifications."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from abfleet_log.tools.actions import STATE_FILE
from abfleet_process.counting import counted
from abfleet_process.file_state import file_states

from abfleet.commands import report_page
from abfleet.commands.analysis_options import analysis_extra
from abfleet.commands.experiment_file import loaded, refuse
from abfleet.commands.tables import say_json
from abfleet.notify.verdict_changes import Conclusion, changes, conclusions

if TYPE_CHECKING:
    from abfleet_experiments.config import ExcludedWindow
    from abfleet_models.offline import Offline
    from abfleet_process.notify.receivers import Receiver
    from rich.live import Live

    from abfleet.notify.notifier import Notifier

FAILURE = 1
TRIES = 3
"""Attempts to deliver without --watch, some 3 s in all. The next run sends what is still pending then."""
LEAST_SECONDS = 0.1

Watch = Annotated[
    bool,
    typer.Option("--watch", envvar="ABFLEET_WATCH", help="Keep running and report each change; Ctrl-C ends it."),
]
Every = Annotated[
    float,
    typer.Option(
        "--every",
        envvar="ABFLEET_EVERY",
        min=LEAST_SECONDS,
        max=86_400,
        metavar="SECONDS",
        help="Time between two polls of --watch; a poll without changes costs nothing.",
    ),
]
DEFAULT_STATE = Path(".abfleet/notifications.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifications:
    """The flags of notifications, as they were given."""

    url: Annotated[
        str | None,
        typer.Option(
            "--notify-url",
            metavar="URL",
            help="POST each change of a verdict to this URL as JSON, and retry until it is accepted.",
        ),
    ] = None
    secret_file: Annotated[
        Path | None,
        typer.Option(
            "--notify-secret-file",
            metavar="FILE",
            help="File with the secret that signs notifications (HMAC-SHA256).",
        ),
    ] = None
    command: Annotated[
        str | None,
        typer.Option(
            "--notify-command",
            metavar="COMMAND",
            help="Run this program for each change of a verdict, with the JSON on standard input; no shell.",
        ),
    ] = None
    state: Annotated[
        Path,
        typer.Option(
            "--notify-state",
            metavar="FILE",
            help="File that records what was sent, so that a restart neither repeats nor loses a notification.",
        ),
    ] = DEFAULT_STATE
    dry_run: Annotated[bool, typer.Option("--notify-dry-run", help="Print what would be sent, and send nothing.")] = (
        False
    )


@dataclass(frozen=True, slots=True)
class RenderedReport:
    """A report as people and as programs read it."""

    document: Mapping[str, Any]
    shown: Any


def receivers(notifications: Notifications) -> "list[Receiver]":
    """The receivers that the flags name; empty if there are none. Exits 2 for a mistake in the flags."""
    from abfleet_process.notify.receivers import NotifyError, chosen

    nobody = notifications.url is None and notifications.command is None
    if nobody and (notifications.secret_file is not None or notifications.dry_run):
        refuse("--notify-secret-file and --notify-dry-run need --notify-url or --notify-command")
    try:
        return chosen(notifications.url, notifications.command, notifications.secret_file)
    except NotifyError as error:
        refuse(error)


@contextmanager
def notifier(notifications: Notifications) -> "Iterator[Notifier | None]":
    """A notifier with its state file locked; None without receivers. Exits 2 if the flags or their files are wrong."""
    from abfleet_process.notify.receivers import NotifyError

    from abfleet.notify.notifier import Notifier

    chosen = receivers(notifications)
    if not chosen:
        yield None
        return
    try:
        with Notifier(notifications.state, chosen) as sender:
            yield sender
    except NotifyError as error:
        refuse(error)


def notify_once(notifications: Notifications, document: Mapping[str, Any]) -> None:
    """Sends what is new in one report; exits 1 if a message was not delivered, which the next run then sends."""
    with notifier(notifications) as sender:
        if sender is None:
            return
        if notifications.dry_run:
            for text in sender.described(document):
                typer.echo(text)
        else:
            _send_for_a_while(sender, document)


def _send_for_a_while(sender: "Notifier", document: Mapping[str, Any]) -> None:
    sender.note(document)
    complaints = sender.send(time.monotonic())
    for _ in range(TRIES - 1):
        due = sender.next_due()
        if due is None:
            break
        time.sleep(max(0.0, due - time.monotonic()))
        complaints = sender.send(time.monotonic())
    for complaint in complaints:
        typer.echo(complaint.partition("; trying again")[0], err=True)
    if sender.pending:
        typer.echo(f"undelivered notifications: {sender.pending}; the next run sends them", err=True)
        raise typer.Exit(FAILURE)


@dataclass(frozen=True, slots=True)
class ReportSource:
    """What is analysed, and where the page of the newest report goes."""

    logs: list[Path]
    experiments: Path
    fleet: Path | None
    only: str | None
    html: Path | None
    known: "Mapping[str, Offline]"
    """What the registry says of versions, for the page."""
    exclude: "Sequence[ExcludedWindow]" = ()

    @property
    def files(self) -> list[Path]:
        """The files that the report depends on."""
        return [*self.logs, self.experiments, *([] if self.fleet is None else [self.fleet])]

    def make_report(self) -> RenderedReport:
        """Analyses the log, and writes the page if one is wanted. Raises Waiting."""
        from abfleet_analysis.analyse import analyse
        from abfleet_analysis.reading.open_log import LogError
        from abfleet_analysis.report.render import rendered
        from abfleet_experiments.file.errors import ConfigErrors
        from abfleet_experiments.file.load import load

        from abfleet.commands.fitting import fitted

        try:
            config = load(self.experiments, self.fleet)
            report = analyse(
                self.logs,
                config,
                only=self.only,
                detailed=self.html is not None,
                known=self.known,
                exclude=self.exclude,
            )
        except ConfigErrors as error:
            raise Waiting(str(error.errors[0])) from error
        except LogError as error:
            raise Waiting(f"--logs: {error}") from error
        except KeyError as error:
            raise Waiting(f"--experiment: `{str(self.only)[:64]}` is in neither the file nor the log") from error
        if self.html is not None:
            report_page.write(self.html, report, config)
        return RenderedReport(report.as_dict(), fitted(rendered(report)))


def watch_until(
    source: ReportSource, notifications: Notifications, *, every_seconds: float, as_json: bool, until: frozenset[str]
) -> bool:
    """Watches until Ctrl-C, which gives False, or until an experiment has one of these verdicts, which gives True."""
    loaded(source.experiments, fleet=source.fleet)  # what is wrong from the beginning ends it
    with analysis_extra():
        import abfleet_analysis.analyse  # noqa: F401 - asked early, used later
    with notifier(notifications) as sender:
        return Watcher(
            source.make_report,
            source.files,
            sender,
            every_seconds=every_seconds,
            as_json=as_json,
            dry_run=notifications.dry_run,
            until=until,
        ).run()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C until messages under way are delivered and recorded, so that they are not sent again."""
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


class Waiting(Exception):
    """There is nothing to analyse yet, or the files cannot be read at this moment."""


class Watcher:
    """Polls until it is stopped. `report` makes a report, or raises `Waiting` with the reason why there is none."""

    def __init__(
        self,
        report: Callable[[], RenderedReport],
        followed: list[Path],
        sender: "Notifier | None",
        *,
        every_seconds: float,
        as_json: bool,
        dry_run: bool,
        until: frozenset[str],
    ) -> None:
        """`followed`: files and folders that the report depends on; `until`: verdicts that end the watching."""
        self._make_report = report
        self._followed = followed
        self._sender = sender
        self._every_seconds = every_seconds
        self._as_json = as_json
        self._dry_run = dry_run
        self._until = until
        self._seen: object = None
        self._shown: dict[str, Conclusion] = {}
        self._last_message = ""

    def run(self) -> bool:
        """Polls until Ctrl-C, which gives False, or until one of the verdicts in `until`, which gives True."""
        try:
            with self._screen() as screen:
                while not self._step(screen):
                    time.sleep(self._pause())
        except KeyboardInterrupt:
            return False
        return True

    @contextmanager
    def _screen(self) -> "Iterator[Live | None]":
        from rich.live import Live

        from abfleet.commands.tables import terminal

        console = terminal()
        with ExitStack() as stack:
            live = console.is_terminal and not self._as_json
            # A report that is taller than the terminal scrolls: nothing of it is left out.
            shown = Live(console=console, auto_refresh=False, vertical_overflow="visible")
            yield stack.enter_context(shown) if live else None

    def _pause(self) -> float:
        due = None if self._sender is None else self._sender.next_due()
        return self._every_seconds if due is None else max(0.0, min(self._every_seconds, due - time.monotonic()))

    def _step(self, screen: "Live | None") -> bool:
        """One round; whether that was the last one."""
        ended = False
        seen = file_states(
            self._followed, without=(STATE_FILE,)
        )  # before the report is made, so that what is written meanwhile is news
        if seen != self._seen:
            try:
                report = self._make_report()
            except Waiting as reason:
                self._print_once(str(reason))
            else:
                self._seen = seen
                self._show(screen, report)
                if self._sender is not None and not self._dry_run:
                    self._sender.note(report.document)
                ended = any(one.verdict in self._until for one in conclusions(report.document).values())
        if self._sender is not None and not self._dry_run:
            with _uninterrupted():
                complaints = self._sender.send(time.monotonic())
            for complaint in complaints:
                self._print_once(complaint)
        return ended

    def _show(self, screen: "Live | None", report: RenderedReport) -> None:
        news = changes(self._shown, report.document)
        if screen is not None:
            screen.update(report.shown, refresh=True)
        first = not self._shown
        self._shown |= conclusions(report.document)
        for change in news:
            if screen is not None:
                screen.console.bell()
            elif self._as_json:
                say_json(change.message())
            else:
                typer.echo(change.sentence())
        if first and not news and screen is None and not self._as_json:
            typer.echo(f"{report.document['as_of']} {counted(len(self._shown), 'experiment')} on KEEP RUNNING")
        if self._dry_run and self._sender is not None and news:
            for text in self._sender.described(report.document):
                typer.echo(text)

    def _print_once(self, words: str) -> None:
        """Prints a message on standard error, unless it is the same as the one before."""
        if words != self._last_message:
            self._last_message = words
            typer.echo(words, err=True)
