"""`abfleet log-level`: sets the level of running routers' operational logs."""

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from abfleet_process.addresses import ADMIN_ADDRESS

from abfleet.commands.access_options import AccessOptions, Admin
from abfleet.commands.option_groups import with_groups

if TYPE_CHECKING:
    from abfleet_client import ClientCredentials

FAILURE = 1
DEFAULT = "default"


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    app.command("log-level", epilog="Example: abfleet log-level debug --admin 127.0.0.1:50052")(log_level)


@with_groups
def log_level(
    *,
    level: Annotated[
        str, typer.Argument(help="debug, info, warning or error; default: the level that the router started with.")
    ],
    admin: Admin = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line per router.")] = False,
    access: AccessOptions,
) -> None:
    """Set the level of running routers' operational logs, until it is set again or the router ends.

    A worker has no admin port: SIGUSR1 sets it (and a router) to debug, SIGUSR2 to the level that it started with.
    """
    from abfleet_process.log_levels import LOG_LEVELS

    if level not in (*LOG_LEVELS, DEFAULT):
        allowed = ", ".join((*LOG_LEVELS, DEFAULT))
        raise typer.BadParameter(f"{level[:64]!r} is not allowed; allowed: {allowed}", param_hint="LEVEL")
    addresses = admin or [ADMIN_ADDRESS]
    with_what = access.credentials()
    if not asyncio.run(_set_all(addresses, "" if level == DEFAULT else level, with_what, as_json=as_json)):
        raise typer.Exit(FAILURE)


async def _set_all(addresses: list[str], level: str, with_what: "ClientCredentials", *, as_json: bool) -> bool:
    """Asks one router after the other; whether all of them answered."""
    from abfleet_transport.client.router_admin import RouterAdmin, Unreachable

    reached = True
    for address in addresses:
        async with RouterAdmin(address, with_what) as router:
            try:
                was, now = await router.set_log_level(level)
            except Unreachable as error:
                reached = False
                print(f"abfleet: {error}; --admin (ABFLEET_ADMIN) names the admin port", file=sys.stderr)
                continue
        print(json.dumps({"admin": address, "was": was, "level": now}) if as_json else f"{address}: {was} -> {now}")
    return reached
