"""`abfleet status`: what running routers have in force and how their fleets are doing."""

import asyncio
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from abfleet_process.addresses import ADMIN_ADDRESS

from abfleet.commands.access_options import AccessOptions, Admin
from abfleet.commands.option_groups import with_groups

if TYPE_CHECKING:
    from abfleet_transport.client.channel import ClientCredentials

FAILURE = 1
WATCH_SECONDS = 1.0


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    app.command("status", epilog="Example: abfleet status --admin 127.0.0.1:50052 --watch")(status)


@with_groups
def status(
    *,
    admin: Admin = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line a poll.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Ask again every second.")] = False,
    access: AccessOptions,
) -> None:
    """Shows configuration, groups, replicas and log of running routers; exits 1 when one of them does not answer.

    Without --watch, rates and percentiles are those since the router's start; with it, of the last ten seconds.
    """
    addresses = admin or [ADMIN_ADDRESS]
    shown = access.credentials()
    show = _watch if watch else _once
    try:
        reached = asyncio.run(show(addresses, shown, as_json=as_json))
    except KeyboardInterrupt:
        raise typer.Exit(0 if watch else 130) from None
    if not reached:
        raise typer.Exit(FAILURE)


async def _fetch(address: str, access: "ClientCredentials") -> dict[str, Any]:
    """A status document with the address it came from; an `error` alone when nobody answers there."""
    from abfleet_transport.client.router_admin import RouterAdmin, Unreachable

    async with RouterAdmin(address, access) as router:
        try:
            return {"admin": address, **await router.status()}
        except Unreachable as error:
            return {"admin": address, "error": f"{error}; --admin (ABFLEET_ADMIN) names the admin port"}


async def _once(addresses: Sequence[str], access: "ClientCredentials", *, as_json: bool) -> bool:
    """Shows every router once; whether all of them answered."""
    from abfleet.commands.fitting import fitted
    from abfleet.commands.tables import terminal
    from abfleet.up.status_view import StatusWindow, plain, screen

    documents = await asyncio.gather(*(_fetch(address, access) for address in addresses))
    reached = _print_errors(documents)
    if as_json:
        _print_json(documents)
        return reached
    console = terminal()
    for document in documents:
        windows = StatusWindow()
        if "error" in document:
            continue
        windows.add(document)
        rates = windows.rates()
        assert rates is not None, "it has a document"
        if console.is_terminal:
            console.print(fitted(screen(document, rates)))
        else:
            typer.echo(plain(document, rates))
    return reached


def _print_json(documents: Sequence[dict[str, Any]]) -> None:
    """One router is an object, several are an array: what most people have is simple to read."""
    if len(documents) > 1:
        typer.echo(json.dumps(documents))
    elif "error" not in documents[0]:
        typer.echo(json.dumps(documents[0]))


def _print_errors(documents: Sequence[dict[str, Any]]) -> bool:
    problems = [document["error"] for document in documents if "error" in document]
    for problem in problems:
        sys.stderr.write(f"abfleet: {problem}\n")
    return not problems


async def _watch(addresses: Sequence[str], access: "ClientCredentials", *, as_json: bool) -> bool:
    """Shows the routers every second until Ctrl-C, or until none answers."""
    from rich.console import Group, RenderableType
    from rich.live import Live
    from rich.text import Text

    from abfleet.commands.fitting import fitted
    from abfleet.commands.tables import terminal
    from abfleet.up.status_view import StatusWindow, plain, screen

    console = terminal()
    windows = {address: StatusWindow() for address in addresses}
    with Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else _Nothing() as live:
        while True:
            documents = await asyncio.gather(*(_fetch(address, access) for address in addresses))
            answered = [document for document in documents if "error" not in document]
            if not answered:
                return _print_errors(documents)
            parts: list[RenderableType] = []
            for document in documents:
                if "error" in document:
                    parts.append(Text(document["error"], style="red"))
                    continue
                windows[document["admin"]].add(document)
                rates = windows[document["admin"]].rates()
                assert rates is not None, "it has a document"
                parts.append(screen(document, rates))
                if not isinstance(live, Live) and not as_json:
                    typer.echo(plain(document, rates))
            if as_json:
                _print_json(documents)
            if isinstance(live, Live):
                live.update(fitted(Group(*parts)), refresh=True)
            await asyncio.sleep(WATCH_SECONDS)


class _Nothing:
    """Used instead of a live table where there is no terminal."""

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...
