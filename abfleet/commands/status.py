"""`abfleet status`: what running routers have in force and how their fleets are doing."""

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from abfleet_process.addresses import ADMIN_ADDRESS

from abfleet.commands.access_options import AccessOptions, Admin
from abfleet.commands.option_groups import with_groups
from abfleet.commands.tables import is_terminal, printable, terminal

if TYPE_CHECKING:
    from abfleet_client import ClientCredentials
    from abfleet_protos.admin_pb2 import StatusResponse

FAILURE = 1
WATCH_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    app.command("status", epilog="Example: abfleet status --admin 127.0.0.1:50052 --watch")(status)


@with_groups
def status(
    *,
    admin: Admin = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line per poll.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every second.")] = False,
    actions: Annotated[
        Path | None,
        typer.Option(
            "--actions",
            envvar="ABFLEET_ACTIONS",
            metavar="DIR",
            exists=True,
            file_okay=False,
            help="Folder of what the autopilot has done; without it that of a router's log, if it is on this machine.",
        ),
    ] = None,
    access: AccessOptions,
) -> None:
    """Show configuration, groups, replicas and log of running routers, and what the autopilot has done.

    Without --watch, rates and percentiles cover the time since the router's start; with it, the last ten seconds. The
    exit code is 1 if a router does not answer.
    """
    addresses = admin or [ADMIN_ADDRESS]
    shown = access.credentials()
    show = _watch if watch else _once
    try:
        reached = asyncio.run(show(addresses, shown, actions, as_json=as_json))
    except KeyboardInterrupt:
        raise typer.Exit(0 if watch else 130) from None
    if not reached:
        raise typer.Exit(FAILURE)


class _Answer(NamedTuple):
    """What a router said, or why it said nothing."""

    admin: str
    status: "StatusResponse | None"
    problem: str = ""


async def _fetch(address: str, access: "ClientCredentials") -> _Answer:
    from abfleet_transport.client.router_admin import RouterAdmin, Unreachable

    async with RouterAdmin(address, access) as router:
        try:
            return _Answer(address, await router.status())
        except Unreachable as error:
            return _Answer(address, None, f"{error}; --admin (ABFLEET_ADMIN) names the admin port")


async def _once(addresses: Sequence[str], access: "ClientCredentials", actions: Path | None, *, as_json: bool) -> bool:
    """Shows every router once; whether all of them answered."""
    from abfleet_transport.client.rates import between

    from abfleet.up.status_view import plain, screen

    answers = await asyncio.gather(*(_fetch(address, access) for address in addresses))
    reached = _print_problems(answers)
    if as_json:
        _print_json(answers, actions)
        return reached
    for status in (answer.status for answer in answers if answer.status is not None):
        rates = between(None, status)
        if is_terminal():
            from abfleet.commands.fitting import fitted

            terminal().print(fitted(screen(status, rates)))
        else:
            typer.echo(plain(status, rates))
    for line in _autopilots(answers, actions):
        typer.echo(line)
    return reached


def _print_json(answers: Sequence[_Answer], actions: Path | None) -> None:
    """One router is an object, several are an array: what most people have is simple to read."""
    documents = [{"admin": one.admin, **_document(one, actions)} for one in answers]
    if len(documents) > 1:
        typer.echo(json.dumps(documents))
    elif "error" not in documents[0]:
        typer.echo(json.dumps(documents[0]))


def _document(answer: _Answer, actions: Path | None) -> dict[str, Any]:
    from abfleet_transport.client.status_document import as_document

    from abfleet.commands.autopilot_rows import autopilot_document, folder_beside

    if answer.status is None:
        return {"error": answer.problem}
    folder = actions or folder_beside(answer.status.decision_log.path)
    return as_document(answer.status) | {"autopilot": autopilot_document(folder, datetime.now(UTC))}


def _autopilots(answers: Sequence[_Answer], actions: Path | None) -> Iterator[str]:
    """What was done in each folder of actions: routers beside each other share one."""
    from abfleet.commands.autopilot_rows import autopilot_lines, folder_beside

    folders = {
        actions or folder_beside(answer.status.decision_log.path) for answer in answers if answer.status is not None
    }
    for folder in sorted(folders - {None}, key=str):
        for line in autopilot_lines(folder, datetime.now(UTC)):
            yield printable(line)


def _print_problems(answers: Sequence[_Answer]) -> bool:
    problems = [answer.problem for answer in answers if answer.status is None]
    for problem in problems:
        sys.stderr.write(f"abfleet: {problem}\n")
    return not problems


async def _watch(addresses: Sequence[str], access: "ClientCredentials", actions: Path | None, *, as_json: bool) -> bool:
    """Shows the routers every second until Ctrl-C, or until none answers."""
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.text import Text

    from abfleet.commands.fitting import fitted
    from abfleet.up.status_view import StatusWindow, plain, screen

    console = terminal()
    windows = {address: StatusWindow() for address in addresses}
    with Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else _Nothing() as live:
        while True:
            answers = await asyncio.gather(*(_fetch(address, access) for address in addresses))
            if all(answer.status is None for answer in answers):
                return _print_problems(answers)
            parts: list[RenderableType] = []
            for answer in answers:
                if answer.status is None:
                    parts.append(Text(answer.problem, style="red"))
                    continue
                windows[answer.admin].add(answer.status)
                rates = windows[answer.admin].rates()
                assert rates is not None, "it has a status"
                parts.append(screen(answer.status, rates))
                if not isinstance(live, Live) and not as_json:
                    typer.echo(plain(answer.status, rates))
            if as_json:
                _print_json(answers, actions)
            else:
                lines = list(_autopilots(answers, actions))
                parts += [Text(line) for line in lines]
                if not isinstance(live, Live):
                    for line in lines:
                        typer.echo(line)
            if isinstance(live, Live):
                live.update(fitted(Group(*parts)), refresh=True)
            await asyncio.sleep(WATCH_SECONDS)


class _Nothing:
    """Used instead of a live table where there is no terminal."""

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...
