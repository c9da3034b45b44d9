"""`abfleet traffic`: people who call a router and act on what they are shown."""

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from abfleet_process.addresses import ROUTER_ADDRESS
from abfleet_process.counting import counted

from abfleet.commands.access_options import AccessOptions
from abfleet.commands.client import BOTH, LEFT_OUT
from abfleet.commands.option_groups import with_groups

if TYPE_CHECKING:
    from abfleet.traffic.running import TrafficPlan, Workload

FAILURE = 1
LEAST_EFFECT = -1.0


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    app.command("traffic", epilog="Example: abfleet traffic --users 500 --rate 100 --effect experiment=+0.10")(traffic)


@with_groups
def traffic(
    *,
    address: Annotated[str, typer.Option(help="Address of the router.")] = ROUTER_ADDRESS,
    users: Annotated[int, typer.Option(min=1, max=10_000_000, help="Number of users, named user-1 to user-N.")] = 1000,
    rate: Annotated[float, typer.Option(min=0.01, max=100_000, metavar="CALLS", help="Calls per second.")] = 50.0,
    duration: Annotated[float, typer.Option(min=0.01, metavar="SECONDS", help="Duration of the traffic.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Seed of users, their order and their behaviour.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder with MovieLens ratings to replay.", show_default="a built-in population"
        ),
    ] = None,
    item_names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An items.txt: histories are names of it, for versions whose items have names."
        ),
    ] = None,
    effect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GROUP=CHANGE",
            help="True relative change of a group's clicks, such as canary=-0.2; may be repeated.",
        ),
    ] = None,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="Share of outcomes that are sent twice.")] = 0.02,
    loss: Annotated[float, typer.Option(min=0, max=1, help="Share of outcomes that are never sent.")] = 0.01,
    delay: Annotated[
        float, typer.Option(min=0, max=10, metavar="SECONDS", help="Mean time from a call to its outcome.")
    ] = 2.0,
    run: Annotated[str, typer.Option(help="Prefix of every request id.", show_default="the time")] = "",
    as_real: Annotated[
        bool, typer.Option("--as-real", help="Do not mark the traffic as synthetic, so that analysis counts it.")
    ] = False,
    access: AccessOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Simulate users who call a router: they see a list, click from the top down, and sometimes convert or buy.

    Outcomes arrive late, some twice and some never. The same seed gives the same users in the same order. Ctrl-C ends
    the traffic and prints the summary.
    """
    from abfleet.traffic.population import ITEMS, PopulationError, built_in, from_movielens, names_of
    from abfleet.traffic.running import TrafficPlan, summary

    plan = TrafficPlan(
        address=address,
        rate=rate,
        duration_seconds=duration,
        seed=seed,
        run=run or f"t{time.time_ns():x}",
        effects=_effects(effect or []),
        duplicates=duplicates,
        loss=loss,
        mean_delay_seconds=delay,
        as_real=as_real,
        access=access.credentials(),
    )
    if data is not None and item_names is not None:
        raise typer.BadParameter(
            "ratings are of numbers; allowed: one of --data and --item-names", param_hint="--item-names"
        )
    try:
        if data is not None:
            people = from_movielens(data, users)
        else:
            people = built_in(users, seed, ITEMS if item_names is None else names_of(item_names))
    except PopulationError as error:
        raise typer.BadParameter(str(error), param_hint="--data" if item_names is None else "--item-names") from None
    workload = asyncio.run(_run(plan, people))
    document = {"run": plan.run, "seed": seed, "synthetic": not as_real, **summary(workload)}
    if as_json:
        typer.echo(json.dumps(document))
    else:
        _print(document)
    if not document["answered"] or document["outcomes"]["lost"]:
        sys.stderr.write(f"abfleet: {_complaint(address, document)}\n")
        raise typer.Exit(FAILURE)


async def _run(plan: "TrafficPlan", people: Any) -> "Workload":
    from rich.console import Console
    from rich.progress import Progress

    from abfleet.traffic.running import Workload

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("Calling", total=plan.calls)
        workload = Workload(plan, people, on_call=lambda: progress.advance(bar))
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, workload.stop)
        await workload.run()
    return workload


def _print(document: dict[str, Any]) -> None:
    from abfleet.commands.tables import print_table, say

    rows = [
        [
            one["experiment"] or "(no experiment)",
            one["group"] or "–",
            one["model_version"] or BOTH,
            str(one["users"]),
            str(one["lists"]),
            str(one["clicks"]),
            f"{one['clicks_per_list']:.4f}",
            str(one["conversions"]),
            f"{one['revenue']:.2f}",
        ]
        for one in document["groups"]
    ]
    columns = ["experiment", "group", "version", "users", "lists", "clicks", "a list", "conversions", "revenue"]
    print_table("", columns, rows, right=columns[3:])
    latency, outcomes = document["latency_ms"], document["outcomes"]
    line = (
        f"{document['answered']} of {counted(document['calls'], 'call')} answered, {document['calls_per_s']} per second"
    )
    if latency["p50"] is not None:
        line += f", p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms"
    say(line)
    say(
        f"outcomes: {outcomes['accepted']:,} accepted, {outcomes['duplicate']:,} duplicate, "
        f"{outcomes['rejected']:,} rejected, {outcomes['lost']:,} lost; {outcomes['withheld']:,} left out on purpose"
    )
    if document["synthetic"]:
        say(LEFT_OUT)
    for status, count in document["errors"].items():
        say(f"{count} failed: {status}")


def _complaint(address: str, document: dict[str, Any]) -> str:
    if not document["answered"]:
        return f"{address} does not answer; --address (ABFLEET_ADDRESS) names the router"
    return f"outcomes that could not be delivered: {document['outcomes']['lost']:,}"


def _effects(words: list[str]) -> dict[str, float]:
    from abfleet.traffic.behaviour import MAX_EFFECT

    effects = {}
    for word in words:
        name, separator, change = word.partition("=")
        try:
            value = float(change)
        except ValueError:
            value = float("nan")
        if not name or not separator or not LEAST_EFFECT <= value <= MAX_EFFECT:
            allowed = f"GROUP=CHANGE, CHANGE from {LEAST_EFFECT:g} to {MAX_EFFECT:.2f}"
            raise typer.BadParameter(f"{word[:64]!r} is not allowed; allowed: {allowed}", param_hint="--effect")
        effects[name] = value
    return effects
