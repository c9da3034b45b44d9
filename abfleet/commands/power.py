"""`abfleet power`: how many users and days an effect needs."""

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from abfleet.commands.analysis_options import DEFAULT_LOGS, Name, analysis_extra, chosen_experiment
from abfleet.commands.experiment_file import DEFAULT_EXPERIMENTS, Experiments, Json, loaded, refuse
from abfleet.commands.tables import say

if TYPE_CHECKING:
    from abfleet_experiments.config import AnalysisPlan, Config, Experiment

DAY: Final = timedelta(days=1)
PREFERENCE: Final = 0.55
"""11 users of 20: a difference that is worth knowing, and that many rankings of one catalogue have."""


def register(app: typer.Typer) -> None:
    """Adds this command to the command line."""
    app.command()(power)


def power(
    *,
    experiments: Experiments = DEFAULT_EXPERIMENTS,
    experiment: Name = None,
    logs: Annotated[
        list[Path] | None,
        typer.Option(
            "--logs",
            envvar="ABFLEET_LOGS",
            metavar="PATH",
            help="Folder or file of the log to take base rates and traffic from.",
        ),
    ] = None,
    baseline: Annotated[
        float | None,
        typer.Option(min=0, help="Control's value of the primary metric, such as 0.05; no log is needed then."),
    ] = None,
    deviation: Annotated[
        float | None,
        typer.Option(min=0, help="Standard deviation between users. Default: √(baseline (1 - baseline))."),
    ] = None,
    users_per_day: Annotated[float | None, typer.Option(min=0, help="New users per day, to compute the days.")] = None,
    effect: Annotated[
        float | None, typer.Option(min=0.0001, help="Relative effect to detect. Default: that of the plan.")
    ] = None,
    preference: Annotated[
        float | None,
        typer.Option(
            help="Of an interleaving: share of the users with a preference who prefer the better version "
            f"[{PREFERENCE:g}]."
        ),
    ] = None,
    with_preference: Annotated[
        float | None,
        typer.Option(help="Of an interleaving: share of all users who have a preference; no log is needed then."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute how many users and days each treatment, or an interleaving, needs to show an effect.

    Example: abfleet power --baseline 0.05 --effect 0.10 --users-per-day 5000

    Example: abfleet power --experiment ranking-duel --preference 0.55 --with-preference 0.3 --users-per-day 5000
    """
    with analysis_extra():
        from abfleet_analysis.power import users_needed
    (config,) = loaded(experiments)
    chosen = chosen_experiment(config, experiment)
    if chosen.interleave is not None:
        if not (baseline is None and deviation is None and effect is None):
            refuse(
                f"--baseline, --deviation, --effect: are not of {chosen.name}, which interleaves; "
                "give --preference and --with-preference"
            )
        _interleaving(
            config,
            chosen,
            logs or DEFAULT_LOGS,
            preference=PREFERENCE if preference is None else preference,
            with_preference=with_preference,
            users_per_day=users_per_day,
            as_json=as_json,
        )
        return
    if not (preference is None and with_preference is None):
        refuse(
            f"--preference, --with-preference: are of interleavings, and {chosen.name} compares groups; leave them out"
        )
    if baseline is None:
        baseline, deviation, users_per_day = _base_rates(logs or DEFAULT_LOGS, config, chosen, users_per_day)
    elif deviation is None:
        if baseline > 1:
            refuse(f"--deviation: is missing; give it, because --baseline {baseline:g} is not a share from 0 to 1")
        deviation = (baseline * (1 - baseline)) ** 0.5
    shares = {group.name: group.weight_bp / 10_000 for group in chosen.groups}
    treatments = [name for name, share in shares.items() if share > 0 and name != chosen.control]
    rows: list[dict[str, Any]] = []
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
                plan=chosen.plan,
                users_per_day=users_per_day,
            )
        except ValueError as error:
            refuse(error)
        rows.append(
            {
                "group": name,
                "users_fixed": round(need.fixed),
                "users_planned": round(need.planned),
                "days_of_users": need.days_of_users,
                "days": need.days,
            }
        )
    answer = {
        "experiment": chosen.name,
        "metric": chosen.metrics.primary,
        "baseline": baseline,
        "deviation": deviation,
        "effect": effect or chosen.plan.effect,
        "power": chosen.plan.power,
        "minimum_days": chosen.plan.minimum / DAY,
        "horizon_days": chosen.plan.horizon / DAY,
        "groups": rows,
    }
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    say(
        f"{chosen.name}: to detect a change of {effect or chosen.plan.effect:.1%} in {chosen.metrics.primary} "
        f"(now {baseline:.4g}) with a power of {chosen.plan.power:.0%}, the experiment needs"
    )
    for row in rows:
        say(
            f"  {row['group']}: {row['users_planned']:,} users in all groups{_days(row, chosen.plan)} "
            f"({row['users_fixed']:,} for one look at a fixed sample)"
        )


def _days(row: dict[str, Any], plan: "AnalysisPlan") -> str:
    """How long that takes; nothing where nobody knows how many users come."""
    from abfleet_analysis.report.waiting import days_text

    days, coming = row["days"], row["days_of_users"]
    if days is None:
        return ""
    if coming < plan.minimum / DAY:
        come = f"the users come within {days_text(coming)}"
        return f", {days_text(days)}: {come}, but nothing is shipped before `plan.minimum`"
    late = days > plan.horizon / DAY
    return f", {days_text(days)}" + (
        f", which exceeds `plan.horizon` ({days_text(plan.horizon / DAY)})" if late else ""
    )


def _base_rates(
    logs: list[Path], config: "Config", chosen: "Experiment", users_per_day: float | None
) -> tuple[float, float, float | None]:
    """Control's value of the primary metric, its deviation between users, and new users a day, from a log."""
    with analysis_extra():
        from abfleet_analysis.analyse import analyse
        from abfleet_analysis.base_rates import base_rates
        from abfleet_analysis.reading.open_log import LogError

    try:
        report = analyse(logs, config, only=chosen.name)
    except LogError as error:
        refuse(f"--logs: {error}; --baseline needs no log")
    rates = base_rates(report.experiments[0]) if report.experiments else None
    if rates is None:
        refuse(f"--logs: too few users of {chosen.name} for a base rate of {chosen.metrics.primary}; give --baseline")
    return rates.value, rates.deviation, users_per_day or rates.users_per_day


def _interleaving(
    config: "Config",
    chosen: "Experiment",
    logs: list[Path],
    *,
    preference: float,
    with_preference: float | None,
    users_per_day: float | None,
    as_json: bool,
) -> None:
    """The same of an experiment that interleaves two versions."""
    from abfleet_analysis.power import users_for_preference
    from abfleet_analysis.report.waiting import days_text

    if with_preference is None:
        with_preference, users_per_day = _interleaved_rates(logs, config, chosen, users_per_day)
    try:
        need = users_for_preference(
            preference, power=chosen.plan.power, with_preference=with_preference, users_per_day=users_per_day
        )
    except ValueError as error:
        refuse(f"--{error}")
    answer = {
        "experiment": chosen.name,
        "preference": preference,
        "with_preference": with_preference,
        "power": chosen.plan.power,
        "horizon_days": chosen.plan.horizon / DAY,
        "users_with_preference": round(need.deciding),
        "users_planned": round(need.users),
        "days": need.days,
    }
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    days = ""
    if need.days is not None:
        late = need.days > chosen.plan.horizon / DAY
        horizon = f", which exceeds `plan.horizon` ({days_text(chosen.plan.horizon / DAY)})" if late else ""
        days = f", {days_text(need.days)}{horizon}"
    say(
        f"{chosen.name}: to detect that {preference:.1%} of the users with a preference prefer the same version, with "
        f"a power of {chosen.plan.power:.0%}, the experiment needs"
    )
    say(f"  {round(need.deciding):,} users with a preference, or {round(need.users):,} users{days}")


def _interleaved_rates(
    logs: list[Path], config: "Config", chosen: "Experiment", users_per_day: float | None
) -> tuple[float, float | None]:
    """The share of users with a preference, and users a day, from a log of the interleaving."""
    with analysis_extra():
        from abfleet_analysis.analyse import analyse
        from abfleet_analysis.base_rates import preference_rates
        from abfleet_analysis.reading.open_log import LogError

    try:
        report = analyse(logs, config, only=chosen.name)
    except LogError as error:
        refuse(f"--logs: {error}; --with-preference needs no log")
    rates = preference_rates(report.experiments[0])
    if rates is None:
        refuse(f"--logs: no user of {chosen.name} has a preference yet; give --with-preference")
    share, per_day = rates
    return share, users_per_day or per_day
