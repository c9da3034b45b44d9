"""What pages show: reports, routers and configuration at one moment."""

from dataclasses import dataclass, field
from datetime import datetime

from abfleet_analysis.report.report import Report
from abfleet_analysis.shadow.compare import ShadowReport
from abfleet_experiments.config import Config
from abfleet_log.tools.actions import AutopilotState, RecordedAction
from abfleet_protos.admin_pb2 import StatusResponse

from abfleet_dashboard.views.commands_view import Files
from abfleet_dashboard.views.links_view import OutsideLink


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterState:
    """One router as it was last seen.

    Attributes:
        status: Its newest one; None if it never answered.
        earlier: An older one, for rates over the time between; None: rates since the router's start.
        error: Why it could not be asked the last time, in a plain sentence; None if it answered.
    """

    address: str
    status: StatusResponse | None = None
    earlier: StatusResponse | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class AutopilotFiles:
    """What the autopilot has written: acts in order of time, its newest state, and why they cannot be read."""

    actions: tuple[RecordedAction, ...] = ()
    state: AutopilotState | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ShadowAnswers:
    """Answers in the shadow beside those of users: the newest comparisons, when, and why there are no newer ones."""

    report: ShadowReport | None = None
    made_at: datetime | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The values that a page is made from.

    Attributes:
        now: When the page is made, UTC.
        report: The last one that succeeded.
        made_at: When that was, UTC.
        analysing: Whether an analysis is under way.
        analysis_error: Why the newest one failed; `report` is then of an earlier one.
        config: The effective experiments file.
        config_errors: Why the file on disk cannot be taken.
        stale_after_s: A report older than this is called old.
        files: Where commands that a page shows find log and experiments.
        links: To Grafana and traces, as the operator gave them.
    """

    now: datetime
    report: Report | None = None
    made_at: datetime | None = None
    analysing: bool = False
    analysis_error: str | None = None
    config: Config | None = None
    config_errors: tuple[str, ...] = ()
    routers: tuple[RouterState, ...] = ()
    refresh_s: float = 2.0
    stale_after_s: float = 60.0
    files: Files = field(default_factory=Files)
    links: tuple[OutsideLink, ...] = ()
    autopilot: AutopilotFiles = field(default_factory=AutopilotFiles)
    shadow: ShadowAnswers = field(default_factory=ShadowAnswers)
