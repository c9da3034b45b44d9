"""Assembles the details that are shown beside a conclusion."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import numpy as np

from abfleet_analysis.decision.measurements import Measurements
from abfleet_analysis.evidence.gather_evidence import GatheredEvidence
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.tables import Tables
from abfleet_analysis.report.breakdowns import breakdowns
from abfleet_analysis.report.changes import changes
from abfleet_analysis.report.details import BeforeFirstLook, Details, Recommended, Traffic
from abfleet_analysis.report.paths import paths
from abfleet_analysis.report.recommended import VersionFacts, recommended
from abfleet_analysis.report.traffic_over_time import traffic


def details(
    lines: LogTables,
    name: str,
    gathered: GatheredEvidence,
    tables: Tables | None,
    measurements: Measurements,
    *,
    known: Mapping[str, VersionFacts],
    before_first_look: Callable[[], BeforeFirstLook | None],
) -> Details:
    """The details of one experiment, from the tables of its evidence; `tables` is None if nobody was in it.

    known: What the registry says of each version. before_first_look: Makes those points. It is called last, since it
    makes the tables anew.
    """
    times = gathered.looks.times
    found = paths(measurements, times)
    if tables is None:
        return Details(found, _no_traffic(times, gathered.evidence.groups), (), _nothing(), changes(lines, name))
    return Details(
        paths=found,
        traffic=traffic(tables),
        breakdowns=breakdowns(tables, gathered.evidence.membership[-1]),
        recommended=recommended(tables, known),
        changes=changes(lines, name),
        before_first_look=before_first_look(),
    )


def _no_traffic(times: Sequence[datetime], groups: Sequence[str]) -> Traffic:
    none = np.zeros((0, len(groups)), dtype=np.int64)
    return Traffic(times[-1], timedelta(hours=1), none, none, none, none, times[-1], times[-1])


def _nothing() -> Recommended:
    return Recommended((), np.zeros((0, 0)))
