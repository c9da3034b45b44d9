"""Commands from the log to a conclusion: analyze, power, simulate. Knows flags and terminals, not the rules."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from abfleet.commands.experiment_file import DEFAULT_EXPERIMENTS, Experiments, Fleet, Json, loaded, refuse

if TYPE_CHECKING:
    from abfleet_experiments.analysis.report import Report
    from abfleet_experiments.analysis.simulate import Characteristic
    from abfleet_experiments.config import Config, Experiment

EXIT_FAILURE = 1
EXIT_VERDICT = 3
_Item = TypeVar("_Item")

Logs = Annotated[
    list[Path],
    typer.Option("--logs", envvar="ABFLEET_LOGS", metavar="PATH",
                 help="A folder or file of the decision log; may be repeated."),
]  # fmt: skip
DEFAULT_LOGS = [Path("logs")]
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", envvar="ABFLEET_AS_OF", metavar="TIME",
                 help="Look at nothing later, for example 2026-11-08T00:00:00Z. Default: the newest line."),
]  # fmt: skip
Name = Annotated[
    str | None,
    typer.Option("--experiment", envvar="ABFLEET_EXPERIMENT", metavar="NAME", help="Only this experiment."),
]


def register(app: typer.Typer) -> None:
    """Adds this family's commands to the command line."""
    for command in (analyze, power, simulate):
        app.command()(command)


def analyze(
    *,
    logs: Logs = DEFAULT_LOGS,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    fleet: Fleet = None,
    as_of: AsOf = None,
    experiment: Name = None,
    fail_on: Annotated[
        str | None,
        typer.Option("--fail-on", envvar="ABFLEET_FAIL_ON", metavar="VERDICT,…",
                     help="Exit with code 3 if an experiment's verdict is one of these."),
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Conclude from the log: ship, roll back, keep running, stop, check first, or refuse because the data is broken.

    However often one looks, the conclusion stays as reliable as it says. Exits 0 whatever it is, unless --fail-on.

    Example: abfleet analyze --logs logs --fail-on roll_back,refuse
    """
    unwanted = _verdicts(fail_on)
    report = _report(logs, experiments, fleet, as_of, experiment)
    if as_json:
        typer.echo(json.dumps(report.as_dict(), indent=2, ensure_ascii=False))
    else:
        from abfleet_experiments.analysis.render import rendered
        from rich.console import Console

        console = Console(highlight=False)
        console = console if console.is_terminal else Console(highlight=False, width=160)
        console.print(rendered(report))
    if any(str(one.decision.verdict) in unwanted for one in report.experiments):
        raise typer.Exit(EXIT_VERDICT)


def power(
    *,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    experiment: Name = None,
    logs: Annotated[
        list[Path] | None,
        typer.Option("--logs", envvar="ABFLEET_LOGS", metavar="PATH", help="Take base rates and traffic from here."),
    ] = None,
    baseline: Annotated[
        float | None, typer.Option(min=0, help="Control's primary metric, for example 0.05; then no log is needed.")
    ] = None,
    deviation: Annotated[
        float | None,
        typer.Option(min=0, help="Standard deviation between users. Default: √(baseline (1 - baseline))."),
    ] = None,
    users_per_day: Annotated[float | None, typer.Option(min=0, help="New users a day, for the days.")] = None,
    effect: Annotated[
        float | None, typer.Option(min=0.0001, help="Relative effect to be found. Default: the plan's.")
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Say how many users and days an effect needs, for each treatment.

    Example: abfleet power --baseline 0.05 --effect 0.10 --users-per-day 5000
    """
    with _extra():
        from abfleet_experiments.analysis.power import users_needed
    (config,) = loaded(experiments)
    chosen = _chosen(config, experiment)
    if baseline is None:
        baseline, deviation, users_per_day = _base_rates(logs or DEFAULT_LOGS, config, chosen, users_per_day)
    elif deviation is None:
        if baseline > 1:
            refuse(f"--deviation: is needed, as --baseline {baseline:g} is no share")
        deviation = (baseline * (1 - baseline)) ** 0.5
    shares = {group.name: group.weight_bp / 10_000 for group in chosen.groups}
    treatments = [name for name, share in shares.items() if share > 0 and name != chosen.control]
    rows: list[dict[str, object]] = []
    for name in treatments:
        try:
            need = users_needed(
                baseline=baseline,
                variance=deviation**2,
                effect=effect or chosen.plan.effect,
                power=chosen.plan.power,
                control_share=shares[chosen.control],
                treatment_share=shares[name],
                treatments=len(treatments),
                users_per_day=users_per_day,
            )
        except ValueError as error:
            refuse(error)
        rows.append({"group": name, "users_fixed": round(need.fixed), "users_planned": round(need.planned),
                     "days": need.days})  # fmt: skip
    answer = {
        "experiment": chosen.name, "metric": chosen.metrics.primary, "baseline": baseline, "deviation": deviation,
        "effect": effect or chosen.plan.effect, "power": chosen.plan.power, "groups": rows,
    }  # fmt: skip
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    typer.echo(f"{chosen.name}: to find a change of {effect or chosen.plan.effect:.1%} in {chosen.metrics.primary} "
               f"(now {baseline:.4g}) with a probability of {chosen.plan.power:.0%}:")  # fmt: skip
    for row in rows:
        days = "" if row["days"] is None else f", {row['days']:.1f} days"
        typer.echo(f"  {row['group']}: {row['users_planned']:,} users of the whole experiment{days} "
                   f"({row['users_fixed']:,} for one look at a fixed sample)")  # fmt: skip


def simulate(
    scenarios: Annotated[list[str] | None, typer.Argument(metavar="[SCENARIO]...", help="Default: all.")] = None,
    *,
    runs: Annotated[int, typer.Option(min=1, max=1_000_000, help="Experiments a scenario.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same runs.")] = 1,
    aa: Annotated[
        list[Path] | None,
        typer.Option("--aa", metavar="LOG", help="Instead, deal the users of this log to groups at random."),
    ] = None,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    experiment: Name = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Show how often each verdict falls, over made-up experiments, beside what is promised. Exit code 1 if not kept.

    The sums of each made-up day go into the same decision as those of a log. With --aa the users of a real log are
    dealt to groups that do not differ, which any sound analysis must find.

    Example: abfleet simulate no-effect ramp --runs 200
    """
    if aa is not None:
        _show_aa(aa, experiments, experiment, runs, seed, as_json=as_json)
        return
    with _extra():
        from abfleet_experiments.analysis.scenarios import SCENARIOS
        from abfleet_experiments.analysis.simulate import characteristics, runs_of
    unknown = [name for name in scenarios or () if name not in SCENARIOS]
    if unknown:
        refuse(f"SCENARIO: `{unknown[0][:64]}` is not known; allowed: {', '.join(SCENARIOS)}")
    found: list[Characteristic] = []
    with _bar(len(scenarios or SCENARIOS) * runs) as advance:
        for name in scenarios or SCENARIOS:
            scenario = SCENARIOS[name]
            decisions = list(_counted(runs_of(scenario.draw, runs=runs, seed=seed), advance))
            found += characteristics(scenario, decisions)
    if as_json:
        typer.echo(json.dumps([_characteristic(one) for one in found], indent=2))
    else:
        _show(found, {name: SCENARIOS[name].story for name in SCENARIOS})
    if not all(one.kept for one in found):
        raise typer.Exit(EXIT_FAILURE)


def _report(logs: list[Path], experiments: Path, fleet: Path | None, as_of: str | None, only: str | None) -> "Report":
    (config,) = loaded(experiments, fleet=fleet)
    at = None if as_of is None else _as_of(as_of)
    with _extra():
        from abfleet_experiments.analysis.analyse import analyse
        from abfleet_experiments.readlog import LogError
    from rich.console import Console

    console = Console(stderr=True)
    try:
        if not console.is_terminal:
            return analyse(logs, config, as_of=at, only=only)
        with console.status("") as status:
            return analyse(logs, config, as_of=at, only=only, progress=status.update)
    except LogError as error:
        refuse(f"--logs: {error}")
    except KeyError:
        refuse(f"--experiment: `{str(only)[:64]}` is neither in {experiments} nor in the log")


@contextmanager
def _extra() -> Iterator[None]:
    """Around imports that need the `analysis` extra."""
    try:
        yield
    except ImportError as error:
        refuse(f"analysis needs {error.name}: pip install 'abfleet[analysis]'")


def _as_of(text: str) -> datetime:
    from abfleet_experiments.fields import parse_time

    try:
        return parse_time(text)
    except (ValueError, OverflowError) as error:
        refuse(f"--as-of: {error}")


def _verdicts(text: str | None) -> frozenset[str]:
    if text is None:
        return frozenset()
    with _extra():
        from abfleet_experiments.analysis.verdicts import Verdict
    wanted = [word.strip() for word in text.split(",") if word.strip()]
    for word in wanted:
        if word not in list(Verdict):
            refuse(f"--fail-on: `{word[:64]}` is no verdict; allowed: {', '.join(Verdict)}")
    return frozenset(wanted)


def _chosen(config: "Config", name: str | None) -> "Experiment":
    if name is None:
        if not config.experiments:
            refuse("--experiments: the file has no experiment")
        return config.experiments[0]
    try:
        return config.experiment(name)
    except KeyError:
        refuse(
            f"--experiment: `{name[:64]}` is not in the file; allowed: {', '.join(e.name for e in config.experiments)}"
        )


def _base_rates(
    logs: list[Path], config: "Config", chosen: "Experiment", users_per_day: float | None
) -> tuple[float, float, float | None]:
    """Control's value of the primary metric, its deviation between users, and new users a day, from a log."""
    with _extra():
        from abfleet_experiments.analysis.analyse import analyse
        from abfleet_experiments.analysis.base_rates import base_rates
        from abfleet_experiments.readlog import LogError

    try:
        report = analyse(logs, config, only=chosen.name)
    except LogError as error:
        refuse(f"--logs: {error}; or give --baseline")
    rates = base_rates(report.experiments[0]) if report.experiments else None
    if rates is None:
        refuse(f"--logs: too few users of {chosen.name} for a base rate of {chosen.metrics.primary}; give --baseline")
    return rates.value, rates.deviation, users_per_day or rates.users_per_day


def _show_aa(logs: list[Path], experiments: Path, name: str | None, runs: int, seed: int, *, as_json: bool) -> None:
    with _extra():
        from abfleet_experiments.analysis.again import AaError, again
        from abfleet_experiments.readlog import LogError

    (config,) = loaded(experiments)
    chosen = _chosen(config, name)
    try:
        with _bar(runs) as advance:
            result = again(logs, config, chosen, runs=runs, seed=seed, advance=advance)
    except (LogError, AaError) as error:
        refuse(f"--aa: {error}")
    if as_json:
        typer.echo(json.dumps(result.as_dict(), indent=2))
    else:
        for line in result.sentences():
            typer.echo(line)
    if not result.kept:
        raise typer.Exit(EXIT_FAILURE)


def _characteristic(one: "Characteristic") -> dict[str, object]:
    return {
        "scenario": one.scenario, "outcome": one.promise.outcome, "runs": one.runs, "share": one.share,
        "most": one.promise.most, "least": one.promise.least, "kept": bool(one.kept),
    }  # fmt: skip


def _show(found: "list[Characteristic]", stories: dict[str, str]) -> None:
    last = None
    for one in found:
        if one.scenario != last:
            typer.echo(f"{one.scenario}: {stories[one.scenario]}")
        last = one.scenario
        promise = ""
        if one.promise.most is not None:
            promise = f"promised: at most {one.promise.most:.1%}"
        elif one.promise.least is not None:
            promise = f"promised: at least {one.promise.least:.1%}"
        mark = "" if not promise else "kept" if one.kept else "NOT KEPT"
        where = "any group" if one.promise.any_group else ""
        row = f"  {one.promise.outcome:<22}{one.share:>8.2%} ± {one.standard_error:.2%}  {promise:<27}{mark:<10}{where}"
        typer.echo(row.rstrip())


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
