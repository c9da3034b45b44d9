"""`abfleet simulate --autopilot`: how soon harm is halted, and how often health is, over made-up services."""

import json
from typing import TYPE_CHECKING

import typer

from abfleet.commands.analysis_options import analysis_extra
from abfleet.commands.experiment_file import refuse
from abfleet.commands.tables import say

if TYPE_CHECKING:
    from abfleet_autopilot.simulation import Summary

EXIT_FAILURE = 1


def simulate_autopilot(names: list[str], runs: int, seed: int, *, as_json: bool) -> None:
    """Shows each scenario as soon as its runs are done. Exit code 1 if a promise was not kept."""
    with analysis_extra():
        from abfleet_autopilot.simulation import flights, scenarios, summary
    known = scenarios()
    if unknown := [name for name in names if name not in known]:
        refuse(f"SCENARIO: `{unknown[0][:64]}` is not known; allowed with --autopilot: {', '.join(known)}")
    found = []
    for name in names or known:
        one = summary(known[name], list(flights(known[name], runs=runs, seed=seed)))
        found.append(one)
        if not as_json:
            for line in _sentences(one):
                say(line)
    if as_json:
        typer.echo(json.dumps([_document(one) for one in found], indent=2))
    if not all(one.kept for one in found):
        raise typer.Exit(EXIT_FAILURE)


def _sentences(one: "Summary") -> list[str]:
    scenario = one.scenario
    lines = [f"{scenario.name}: {scenario.story}"]
    when = "" if one.median is None else f", after {one.median:.1f} min in the median and {one.ninetieth:.1f} in 90 %"
    promises = []
    if scenario.most_halted is not None:
        promises.append(f"halted in at most {scenario.most_halted:.1%}")
    if scenario.median_minutes is not None:
        promises.append(f"halted within {scenario.median_minutes:g} min in the median")
    if scenario.least_at_the_top is not None:
        promises.append(f"100 % reached in at least {scenario.least_at_the_top:.0%}")
        lines.append(f"  100 % of traffic reached in {one.at_the_top:.1%} of runs")
    harmed = f"; {one.harmed:,.0f} users harmed" if scenario.service.harms else ""
    lines.append(f"  autopilot         halted {one.halted:.1%} of {one.runs} runs{when}{harmed}")
    fixed = "" if one.fixed_median is None else f", after {one.fixed_median:.1f} min in the median"
    lines.append(f"  fixed thresholds  halted {one.fixed:.1%}{fixed}")
    if promises:
        lines.append(f"  promised: {' and '.join(promises)}: {'kept' if one.kept else 'NOT KEPT'}")
    return lines


def _document(one: "Summary") -> dict[str, object]:
    return {
        "scenario": one.scenario.name,
        "runs": one.runs,
        "halted": one.halted,
        "median_minutes": one.median,
        "ninetieth_minutes": one.ninetieth,
        "users_harmed": one.harmed,
        "at_the_top": one.at_the_top,
        "fixed_thresholds_halted": one.fixed,
        "fixed_thresholds_median_minutes": one.fixed_median,
        "kept": one.kept,
    }
