"""What the autopilot may do with an experiment, from its values."""

from collections.abc import Sequence
from typing import Any

from abfleet_process.declarations.nodes import Findings, Path

from abfleet_experiments.config import Autopilot, AutopilotRamp, percent_text


def read_autopilot(
    findings: Findings,
    values: dict[str, Any] | None,
    path: Path,
    traffic_bp: int | None,
    groups: Sequence[dict[str, Any] | None] | None,
) -> Autopilot | None:
    """The autopilot, None without one. traffic_bp, groups: Of the experiment; None where they could not be read."""
    if values is None:
        return None
    if groups is not None and len(groups) < 2:
        findings.add(path, "needs a treatment beside control to act on", findings.key_node(path))
    given = values["ramp"]
    ramp = None if given is None else _ramp(findings, given, (*path, "ramp"), traffic_bp)
    kept = {key: value for key, value in values.items() if value is not None and key not in ("ramp", "halt")}
    halt = tuple(one for one in values["halt"] or () if one is not None)
    return Autopilot(ramp=ramp, halt=halt, **kept)


def _ramp(findings: Findings, values: dict[str, Any], path: Path, traffic_bp: int | None) -> AutopilotRamp | None:
    steps: list[int] = []
    for index, step in enumerate(values["traffic"] or ()):
        here = (*path, "traffic", index)
        if step is None:
            continue
        if not step:
            findings.add(here, "must be above 0; `halt` takes nobody")
        elif steps and step <= steps[-1]:
            findings.add(here, f"must be above the step before, {percent_text(steps[-1])}")
        elif traffic_bp is not None and step > traffic_bp:
            own = percent_text(traffic_bp)
            findings.add(here, f"{percent_text(step)} is more than the experiment's own `traffic` of {own}")
        steps.append(step)
    if values["hold"] is None or values["users"] is None:
        return None
    return AutopilotRamp(tuple(steps), values["hold"], values["users"], values["detect"])
