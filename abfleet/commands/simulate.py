"""`abfleet simulate`: how often the analysis is wrong, over made-up experiments or a real log's users."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from abfleet.commands.analysis_options import Name, analysis_extra, chosen_experiment
from abfleet.commands.experiment_file import DEFAULT_EXPERIMENTS, Experiments, Json, loaded, refuse
from abfleet.commands.simulate_autopilot import simulate_autopilot
from abfleet.commands.tables import say

if TYPE_CHECKING:
    from abfleet_analysis.simulation.simulate import Characteristic

EXIT_FAILURE = 1
_Item = TypeVar("_Item")


def register(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command()(simulate)


def simulate(
    scenarios: Annotated[
        list[str] | None, typer.Argument(metavar="[SCENARIO]...", help="Scenarios to run. Default: all.")
    ] = None,
    *,
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Experiments per scenario.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same runs.")] = 1,
    split: Annotated[
        str | None, typer.Option(metavar="SHARES", help="Groups, control first, such as 90/10 [70/20/10].")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Share of control's users who convert [0.05].")] = None,
    users_a_day: Annotated[int | None, typer.Option(help="Users of all groups, over 28 days [5571].")] = None,
    aa: Annotated[
        list[Path] | None,
        typer.Option("--aa", metavar="LOG", help="Instead, assign the users of this log to groups at random."),
    ] = None,
    autopilot: Annotated[
        bool, typer.Option("--autopilot", help="Instead, what the autopilot halts and raises, and how soon.")
    ] = False,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    experiment: Name = None,
    as_json: Json = False,
) -> None:
    """Simulate experiments, and compare how often each verdict comes with the promised rates.

    The exit code is 1 if a promise is not kept. Simulated days go through the same decision as days of a log.

    With --aa, users of a real log are assigned to groups that do not differ; a sound analysis finds no difference.

    --split, --rate and --users-a-day describe your own experiment; the power is then shown, not promised.

    Example: abfleet simulate no-effect ramp --runs 200

    With --autopilot the scenarios are services: healthy, outages, errors, wrong, absent, slow, ramp and others.

    Example: abfleet simulate --split 90/10 --rate 0.02 --users-a-day 2000
    """
    if autopilot:
        if aa is not None or not (split is None and rate is None and users_a_day is None):
            refuse("--autopilot: has services of its own; leave out --aa, --split, --rate and --users-a-day")
        simulate_autopilot(scenarios or [], runs, seed, as_json=as_json)
        return
    if aa is not None:
        if not (split is None and rate is None and users_a_day is None):
            refuse(
                "--aa: cannot be combined with --split, --rate and --users-a-day, because it takes users from a "
                "log; leave them out"
            )
        _show_aa(aa, experiments, experiment, runs, seed, as_json=as_json)
        return
    with analysis_extra():
        from abfleet_analysis.simulation.scenarios import SCENARIOS, scenarios_of
        from abfleet_analysis.simulation.simulate import characteristics, runs_of
    unknown = [name for name in scenarios or () if name not in SCENARIOS]
    if unknown:
        refuse(f"SCENARIO: `{unknown[0][:64]}` is not a scenario; allowed: {', '.join(SCENARIOS)}")
    try:
        own = scenarios_of(_shares(split), rate, users_a_day)
    except ValueError as error:
        refuse(f"--{error}")
    if left_out := [name for name in scenarios or () if name not in own]:
        refuse(f"SCENARIO: `{left_out[0]}` has its own shares and rates; leave out the scenario, or the flags")
    found: list[Characteristic] = []
    with _bar(len(scenarios or own) * runs) as advance:
        for name in scenarios or own:
            scenario = own[name]
            decisions = list(_counted(runs_of(scenario.draw, runs=runs, seed=seed), advance))
            found += characteristics(scenario, decisions)
    if as_json:
        typer.echo(json.dumps([_characteristic(one) for one in found], indent=2))
    else:
        _show(found, {name: scenario.story for name, scenario in own.items()})
    if not all(one.kept for one in found):
        raise typer.Exit(EXIT_FAILURE)


def _shares(text: str | None) -> tuple[float, ...] | None:
    """Shares of 1 from a text such as `90/10`. Raises ValueError."""
    if text is None:
        return None
    try:
        return tuple(float(part) / 100 for part in text.split("/"))
    except ValueError:
        raise ValueError(
            f"split: `{text[:64]}` is not allowed; allowed: numbers separated by /, such as 90/10"
        ) from None


def _show_aa(logs: list[Path], experiments: Path, name: str | None, runs: int, seed: int, *, as_json: bool) -> None:
    with analysis_extra():
        from abfleet_analysis.reading.open_log import LogError
        from abfleet_analysis.simulation.aa_test import AaError, aa_test

    (config,) = loaded(experiments)
    chosen = chosen_experiment(config, name)
    try:
        with _bar(runs) as advance:
            result = aa_test(logs, config, chosen, runs=runs, seed=seed, advance=advance)
    except (LogError, AaError) as error:
        refuse(f"--aa: {error}")
    if as_json:
        typer.echo(json.dumps(result.as_dict(), indent=2))
    else:
        for line in result.sentences():
            say(line)
    if not result.kept:
        raise typer.Exit(EXIT_FAILURE)


def _characteristic(one: "Characteristic") -> dict[str, object]:
    return {
        "scenario": one.scenario,
        "outcome": one.promise.outcome,
        "runs": one.runs,
        "share": one.share,
        "most": one.promise.most,
        "least": one.promise.least,
        "kept": bool(one.kept),
    }


def _show(found: "list[Characteristic]", stories: dict[str, str]) -> None:
    last = None
    for one in found:
        if one.scenario != last:
            say(f"{one.scenario}: {stories[one.scenario]}")
        last = one.scenario
        promise = ""
        if one.promise.most is not None:
            promise = f"promised: at most {one.promise.most:.1%}"
        elif one.promise.least is not None:
            promise = f"promised: at least {one.promise.least:.1%}"
        mark = "" if not promise else "kept" if one.kept else "NOT KEPT"
        where = "any group" if one.promise.any_group else ""
        row = f"  {one.promise.outcome:<22}{one.share:>8.2%} ± {one.standard_error:.2%}  {promise:<27}{mark:<10}{where}"
        say(row.rstrip())


def _counted(items: Iterable[_Item], advance: Callable[[], None]) -> Iterator[_Item]:
    for item in items:
        advance()
        yield item


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("Simulating", total=total)
        yield lambda: progress.advance(task)
