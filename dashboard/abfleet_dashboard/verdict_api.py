"""An experiment's verdict for controllers of rollouts: GET tells it (Argo Rollouts), POST says go on or not (Flagger).

`/api/experiments/NAME/verdict`. A POST changes nothing here; what is in its body is not read.
"""

from dataclasses import dataclass
from typing import Any, Final

from abfleet_analysis.decision.verdicts import Verdict
from abfleet_experiments.config import time_text

from abfleet_dashboard.situation import Situation

PREFIX: Final = "/api/experiments/"
SUFFIX: Final = "/verdict"
PATH: Final = f"{PREFIX}{{name:path}}{SUFFIX}"
GO_ON, HOLD, UNKNOWN, NOT_YET = 200, 409, 404, 503
STOPPING: Final = frozenset({Verdict.ROLL_BACK, Verdict.REFUSE, Verdict.CHECK_FIRST})
"""With any of these a rollout does not go on by itself."""


@dataclass(frozen=True, slots=True)
class VerdictAnswer:
    """What is answered. status: Of a GET; `go_on`: whether a POST is answered with 200."""

    status: int
    go_on: bool
    document: dict[str, Any]

    def status_of(self, method: str) -> int:
        """HTTP's status for a method: a POST asks whether to go on, and no data is a reason not to."""
        if method != "POST" or self.status == UNKNOWN:
            return self.status
        return GO_ON if self.go_on else HOLD


def takes_post(path: str) -> bool:
    """Whether a POST may come to a path."""
    return path.startswith(PREFIX) and path.endswith(SUFFIX)


def verdict_of(now: Situation, name: str) -> VerdictAnswer:
    """The verdict on an experiment at this moment."""
    known = now.config is not None and any(one.name == name for one in now.config.experiments)
    report = next((one for one in now.report.experiments if one.name == name), None) if now.report is not None else None
    if report is None:
        if known or now.report is None:
            return VerdictAnswer(NOT_YET, False, {"error": "there is no report of it yet", "go_on": False})
        return VerdictAnswer(UNKNOWN, False, {"error": f"there is no experiment {name[:64]!r}", "go_on": False})
    decision, as_of = report.decision, None if now.report is None else now.report.as_of
    age = None if now.made_at is None else (now.now - now.made_at).total_seconds()
    stale = age is None or age > now.stale_after_s or now.analysis_error is not None
    go_on = not stale and decision.verdict not in STOPPING
    return VerdictAnswer(
        GO_ON,
        go_on,
        {
            "experiment": name,
            "verdict": str(decision.verdict),
            "group": decision.group,
            "version": decision.version,
            "groups": {one.group: str(one.verdict) for one in decision.groups},
            "reasons": list(decision.reasons),
            "as_of": None if as_of is None else time_text(as_of),
            "stale": stale,
            "go_on": go_on,
        },
    )
