"""`abfleet client`: calls a router and shows the answer, or the split that many users get."""

import asyncio
import csv
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from abfleet_process.addresses import ROUTER_ADDRESS
from abfleet_process.counting import counted

from abfleet.commands.access_options import AccessOptions
from abfleet.commands.option_groups import with_groups
from abfleet.commands.tables import say_json

if TYPE_CHECKING:
    from abfleet_client import AsyncRecommender, CallFailed, Recommendation

    from abfleet.observed_split import ObservedSplit

USAGE, FAILURE = 2, 1
LEFT_OUT = "marked as synthetic, so analysis leaves it out (--as-real marks it as real)"
BOTH = "both"
"""In place of a version, where two have answered together."""


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    app.command("client", epilog="Example: abfleet client --user-id user-1 --items 1,2,3,10,15 --titles movies.csv")(
        client
    )


@with_groups
def client(
    *,
    address: Annotated[str, typer.Option(help="Address of a router, or of a single worker.")] = ROUTER_ADDRESS,
    user_id: Annotated[str, typer.Option(help="User id, which decides the version; empty: no user id.")] = "",
    items: Annotated[str, typer.Option(help="Items that the user has seen, oldest first, such as 1,2,3.")] = "",
    item_names: Annotated[
        str,
        typer.Option(help="Names of these items, where items have names, such as red,blue; quote a name with a comma."),
    ] = "",
    limit: Annotated[int, typer.Option(min=0, max=100, help="Number of items to return; 0: the default of 10.")] = 0,
    attributes: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Request attribute, for audiences; may be repeated.")
    ] = None,
    users: Annotated[int, typer.Option(min=0, help="Call once for each of user-1 to user-N, and show the split.")] = 0,
    titles: Annotated[
        Path | None, typer.Option(help="CSV file with movieId and title, to show titles of items.")
    ] = None,
    as_real: Annotated[
        bool, typer.Option("--as-real/--synthetic", help="Do not mark the calls as synthetic: analysis counts them.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=0.001, metavar="SECONDS", help="For each call.")] = 5.0,
    access: AccessOptions,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Call Recommend once, or once for each of many users.

    A call that meets UNAVAILABLE is sent again, under the same request id, until its --timeout. Calls are marked as
    synthetic, so that trying a router out is no part of its experiments.
    """
    if items and item_names:
        raise typer.BadParameter("cannot be combined with --items; leave one out", param_hint="--item-names")
    question = {
        "items": next(csv.reader([item_names])) if item_names else _items(items),
        "limit": limit or 10,
        "attributes": _attributes(attributes or ()),
    }
    names = _titles(titles) if titles else {}
    if users and user_id:
        raise typer.BadParameter(
            "cannot be combined with --user-id, because it sets the user ids; leave one out", param_hint="--users"
        )
    from abfleet_client import AsyncRecommender

    recommender = AsyncRecommender(address, timeout=timeout, credentials=access.credentials(), synthetic=not as_real)
    try:
        if users:
            asyncio.run(_many(address, recommender, question, users, synthetic=not as_real, as_json=as_json))
        else:
            asyncio.run(_one(address, recommender, user_id, question, names, synthetic=not as_real, as_json=as_json))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


async def _one(
    address: str,
    recommender: "AsyncRecommender",
    user_id: str,
    question: Mapping[str, Any],
    titles: Mapping[int, str],
    *,
    synthetic: bool,
    as_json: bool,
) -> None:
    from abfleet_client import CallFailed, InvalidArgument

    async with recommender:
        begun = time.perf_counter()
        try:
            answer = await recommender.recommend(user_id=user_id, **question)
        except CallFailed as error:
            _stop(_complaint(address, error))
        except InvalidArgument as error:
            _stop(str(error))
        latency_ms = (time.perf_counter() - begun) * 1000
    if as_json:
        say_json(_answer_document(user_id, answer, latency_ms, titles) | {"synthetic": synthetic})
    else:
        _print_answer(user_id, answer, latency_ms, titles, synthetic=synthetic)


def _answer_document(
    user_id: str, answer: "Recommendation", latency_ms: float, titles: Mapping[int, str]
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "user_id": user_id,
        "item_ids": [item for item in answer.items if isinstance(item, int)],
        "item_names": [item for item in answer.items if isinstance(item, str)],
        "scores": answer.scores,
        "experiment": answer.experiment,
        "group": answer.group,
        "model_version": answer.model_version,
        "request_id": answer.request_id,
        "latency_ms": round(latency_ms, 3),
    }
    return document | ({"titles": [titles.get(item) for item in document["item_ids"]]} if titles else {})


def _print_answer(
    user_id: str, answer: "Recommendation", latency_ms: float, titles: Mapping[int, str], *, synthetic: bool
) -> None:
    where = f"{answer.experiment} / {answer.group}" if answer.experiment else "no experiment"
    served = answer.model_version or ("two versions" if answer.experiment else "a worker alone")
    line = f"{user_id or 'no user'}: {where}, served by {served} in {latency_ms:.1f} ms"
    typer.echo(f"{line}; {LEFT_OUT}" if synthetic else line)
    typer.echo(f"request {answer.request_id}")
    if not answer.items:
        typer.echo("no items")
    width = max((len(str(item)) for item in answer.items), default=0)
    for rank, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), 1):
        title = titles.get(item, "") if isinstance(item, int) else ""
        typer.echo(f"{rank:3}  {item:{width}}  {score:10.4f}  {title}".rstrip())


async def _many(
    address: str,
    recommender: "AsyncRecommender",
    question: Mapping[str, Any],
    users: int,
    *,
    synthetic: bool,
    as_json: bool,
) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from abfleet.observed_split import observe_split

    user_ids = (f"user-{number}" for number in range(1, users + 1))
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("Calling", total=users)
        async with recommender:
            split = await observe_split(recommender, user_ids, question, on_answer=lambda: progress.advance(bar))
    if as_json:
        say_json(_split_document(split) | {"synthetic": synthetic})
    else:
        _print_split(split, synthetic=synthetic)
    if split.first_failure is not None:
        _stop(_complaint(address, split.first_failure))


def _split_document(split: "ObservedSplit") -> dict[str, Any]:
    from abfleet.observed_split import quantile

    answered = sum(split.answered.values())
    return {
        "users": split.calls,
        "answered": answered,
        "split": [
            {
                "experiment": experiment or None,
                "group": group or None,
                "model_version": version,
                "users": count,
                "share": count / answered,
            }
            for (experiment, group, version), count in split.answered.most_common()
        ],
        "errors": dict(split.failed.most_common()),
        "latency_ms": {name: quantile(split.latencies_ms, part) for name, part in (("p50", 0.5), ("p99", 0.99))},
    }


def _print_split(split: "ObservedSplit", *, synthetic: bool) -> None:
    from abfleet.commands.tables import print_table, say

    document = _split_document(split)
    rows = [
        [
            row["experiment"] or "(no experiment)",
            row["group"] or "–",
            row["model_version"] or BOTH,
            str(row["users"]),
            f"{row['share'] * 100:.2f} %",
        ]
        for row in document["split"]
    ]
    latency = document["latency_ms"]
    print_table("", ["experiment", "group", "version", "users", "share"], rows, right=("users", "share"))
    line = f"{document['answered']} of {counted(document['users'], 'user')} answered"
    if latency["p50"] is not None:
        line += f", p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms"
    say(f"{line}; {LEFT_OUT}" if synthetic else line)
    for status, count in document["errors"].items():
        say(f"{count} failed: {status}")


def _complaint(address: str, error: "CallFailed") -> str:
    if error.status == "UNAVAILABLE" or "before that UNAVAILABLE" in error.details:
        return f"{address} does not answer ({error}); --address (ABFLEET_ADDRESS) names the router"
    return str(error)


def _items(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    for word in words:
        if not word.removeprefix("-").isdecimal() or not -(2**63) <= int(word) < 2**63:
            raise typer.BadParameter(
                f"{word[:64]!r} is not an item id; allowed: whole numbers, separated by commas; names go into "
                "--item-names",
                param_hint="--items",
            )
    return tuple(int(word) for word in words)


def _attributes(words: Sequence[str]) -> dict[str, str]:
    attributes = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not key or not separator:
            raise typer.BadParameter(f"{word[:64]!r} is not allowed; allowed: KEY=VALUE", param_hint="--attributes")
        attributes[key] = value
    return attributes


def _titles(path: Path) -> dict[int, str]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return {int(row["movieId"]): row["title"] for row in csv.DictReader(file)}
    except OSError as error:
        message = f"{path}: {error.strerror or error}"
    except (KeyError, ValueError, TypeError):
        message = f"{path} must be CSV with the columns movieId (a whole number) and title"
    raise typer.BadParameter(message, param_hint="--titles")


def _stop(message: str) -> NoReturn:
    sys.stderr.write(f"abfleet: {message}\n")
    raise typer.Exit(FAILURE)
