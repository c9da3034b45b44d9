"""Tasks and results of the analysis process, as values that are pickled between two processes."""

from dataclasses import dataclass
from pathlib import Path

from abfleet_analysis.report.report import Report
from abfleet_analysis.shadow.compare import ShadowReport
from abfleet_experiments.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisTask:
    """One analysis to make: which files, which experiments file, and the memory that it may use."""

    logs: tuple[Path, ...]
    config: Config
    registry: Path
    memory_limit_bytes: int


@dataclass(frozen=True, slots=True)
class AnalysisDone:
    """A report, and how long it took."""

    report: Report
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShadowTask:
    """Answers in the shadow to compare with those of users."""

    logs: tuple[Path, ...]
    memory_limit_bytes: int


@dataclass(frozen=True, slots=True)
class ShadowDone:
    """The comparisons, and how long they took."""

    report: ShadowReport
    seconds: float


@dataclass(frozen=True, slots=True)
class AnalysisFailed:
    """Why there is no report, in a sentence. `expected`: the input is at fault, and trying again does not help."""

    reason: str
    expected: bool
