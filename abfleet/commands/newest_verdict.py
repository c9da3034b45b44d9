"""The newest verdict on an experiment, quoted to who is about to conclude it, with a warning where it is another."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from abfleet_analysis.report.report import ExperimentReport
    from abfleet_experiments.config import Config


@dataclass(frozen=True, slots=True)
class VerdictNote:
    """What the log says of an experiment.

    Attributes:
        verdict: None where the log has none; `missing` then says why. group: Whom it is about; None for all.
        version: Whom an interleaving's users prefer.
        warning: Why the winner is not what the verdict says; None if it is.
    """

    verdict: str | None = None
    group: str | None = None
    version: str | None = None
    as_of: str | None = None
    missing: str | None = None
    warning: str | None = None
    quoted: str = ""

    @property
    def sentences(self) -> tuple[str, ...]:
        """For people."""
        if self.missing is not None:
            return (f"no verdict in the log: {self.missing}",)
        return (self.quoted, *([f"warning: {self.warning}"] if self.warning else []))

    def as_dict(self) -> dict[str, object]:
        """The key `newest_verdict` of the JSON."""
        names = ("verdict", "group", "version", "as_of", "missing", "warning")
        return {"newest_verdict": {name: getattr(self, name) for name in names}}


def newest_verdict(logs: Sequence[Path], config: "Config", experiment: str, winner: str) -> VerdictNote:
    """The verdict that the log's newest line allows. Never refuses: who concludes may know more than the log."""
    from rich.console import Console

    from abfleet.commands.analysis_progress import steps

    try:
        from abfleet_analysis.analyse import analyse
        from abfleet_analysis.reading.open_log import LogError
        from abfleet_analysis.report.render import verdict_words, whom
    except ImportError as error:
        return VerdictNote(missing=f"analysis needs {error.name}; run pip install 'abfleet[analysis]'")
    try:
        with steps(Console(stderr=True)) as progress:
            report = analyse(logs, config, only=experiment, progress=progress)
    except LogError as error:
        return VerdictNote(missing=f"--logs: {error}")
    (found,) = report.experiments
    if report.as_of is None or not found.gathered.allocations:
        return VerdictNote(missing=f"--logs: the log has no users of {experiment}")
    from abfleet_experiments.config import time_text

    decision, at = found.decision, time_text(report.as_of)
    words = verdict_words(decision.verdict, whom(decision))
    reason = f": {decision.reasons[0]}" if decision.reasons else ""
    return VerdictNote(
        verdict=str(decision.verdict),
        group=decision.group,
        version=decision.version,
        as_of=at,
        warning=_otherwise(found, winner),
        quoted=f"the newest verdict, as of {at}: {words}{reason}",
    )


def _otherwise(report: "ExperimentReport", winner: str) -> str | None:
    """What speaks against this winner; control needs less than a treatment, since nothing changes for anyone."""
    from abfleet_analysis.decision.verdicts import Verdict
    from abfleet_analysis.report.render import verdict_words

    if report.preference is not None:
        return _not_preferred(report, winner)
    verdicts = {one.group: one.verdict for one in report.decision.groups}
    mine = verdicts.get(winner)
    if mine is Verdict.SHIP:
        return None
    if mine is not None:
        return f"the log has another verdict for {winner}: {verdict_words(mine, winner)}"
    better = [group for group, verdict in verdicts.items() if verdict is Verdict.SHIP]
    if better:
        return f"the verdict of the log is {verdict_words(Verdict.SHIP, better[0])}, but the winner here is {winner}"
    if winner != report.gathered.evidence.groups[0]:
        return f"the log has no verdict on {winner}, which has no share of the users"
    if Verdict.KEEP_RUNNING in verdicts.values():
        return "the experiment is not decided: the verdict of the log is KEEP RUNNING"
    return None


def _not_preferred(report: "ExperimentReport", winner: str) -> str | None:
    """The same of a version that is the winner of an interleaving."""
    from abfleet_analysis.decision.verdicts import Verdict
    from abfleet_analysis.report.render import verdict_words, whom

    decision = report.decision
    if decision.version == winner:
        return None
    if decision.verdict is Verdict.KEEP_RUNNING:
        return "the experiment is not decided: the verdict of the log is KEEP RUNNING"
    return (
        f"the verdict of the log is {verdict_words(decision.verdict, whom(decision))}, but the winner here is {winner}"
    )
