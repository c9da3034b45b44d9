"""Values and users of each group while there has been no look: descriptive points, more often than looks come.

They are the metrics' own values, by the same rules as at a look. No boundary, interval or verdict is made of them.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from abfleet_experiments.config import AnalysisPlan

from abfleet_analysis.decision.measurements import measure
from abfleet_analysis.evidence.gather_evidence import GatheredEvidence
from abfleet_analysis.report.details import BeforeFirstLook
from abfleet_analysis.report.paths import values

WIDTHS: Final = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 15, 60, 180, 360, 720, 1440))
"""Between two points: hourly on the first day of daily looks, and more often in the first hours."""
MOST_POINTS: Final = 24


def before_first_look(
    gathered: GatheredEvidence, plan: AnalysisPlan, at: datetime, gather: Callable[[AnalysisPlan], GatheredEvidence]
) -> BeforeFirstLook | None:
    """The points up to `at`; None where there has been a look, or nobody was in the experiment.

    gather: Gathers the experiment's evidence by another plan.
    """
    if gathered.evidence.calendar.done or not gathered.allocations:
        return None
    span = at - min(one.begin for one in gathered.allocations)
    width = next((one for one in WIDTHS if span / one <= MOST_POINTS), WIDTHS[-1])
    if width >= plan.look:
        return None
    # Its horizon is as short as what is drawn, since each look of a plan costs time.
    found = gather(replace(plan, look=width, minimum=width, horizon=width * (int(span / width) + 2)))
    measured = measure(found.evidence, plan)
    return BeforeFirstLook(width, found.looks.times, found.evidence.users, values(measured))
