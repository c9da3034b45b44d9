"""One experiment's tables: its calls, visits and users, each user with a cell. Ibis expressions and small queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from abfleet_experiments.config import AnalysisPlan

from abfleet_analysis.decision.metrics import DEFAULT_WINDOW, MetricRule, MetricSource
from abfleet_analysis.evidence import log_lines
from abfleet_analysis.evidence.exclusion import Exclusion
from abfleet_analysis.evidence.layout import Layout, layout_of_experiment
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.response_times import histogram, quantile_points
from abfleet_analysis.evidence.sums import Shape
from abfleet_analysis.evidence.thresholds import Thresholds
from abfleet_analysis.evidence.visits import units_of, visits_of
from abfleet_analysis.periods import cells as cells_of
from abfleet_analysis.periods.allocation_periods import LoggedAllocation, Looks, looks_until, microseconds
from abfleet_analysis.periods.cells import UNKNOWN, Cells
from abfleet_analysis.periods.deployment import Deployment
from abfleet_analysis.periods.placing import divided, follow_from_calls, placed, with_cells

UNKNOWN_DEPLOYMENT: Final = Deployment()


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything of one experiment that expressions start from.

    Attributes:
        exposures: The ones that count. calls: The same in numbers, with what became of each and their look.
        visits: What each user did in an allocation and a look, in one row or several. units: One row for each user and
            allocation. Both with the user's cell and group.
        times: The histogram of response times by look, cell and group; None if no metric needs it.
        slow: What a slow call takes longer than; None likewise.
        layout: Which shortcuts hold for the experiment.
        exclusion: What is in none of these because its time is excluded; None where nothing is.
    """

    lines: LogTables
    name: str
    groups: tuple[str, ...]
    allocations: tuple[LoggedAllocation, ...]
    rules: tuple[MetricRule, ...]
    as_of: datetime
    exposures: ir.Table
    calls: ir.Table
    looks: Looks
    times: ir.Table | None
    slow: Thresholds | None
    visits: ir.Table
    units: ir.Table
    cells: Cells
    shape: Shape
    deployment: Deployment
    layout: Layout
    exclusion: Exclusion | None = None

    @property
    def began(self) -> datetime:
        """The experiment's first call, whether it counts or not."""
        return began(self.allocations, self.exclusion)

    def keep(self, name: str, table: ir.Table | pa.Table) -> ir.Table:
        """Computes a table once and stores it under a name, in the database that holds the log."""
        return self.lines.log.storage.keep(name, table)

    def entering(self) -> ir.Table:
        """The units with the look that first knows of them."""
        return self.units.mutate(look=self.looks.index(self.units["first"]))

    def starts(self) -> ir.Table:
        """Each user's first exposure in the experiment, and where it was."""
        if len(self.allocations) == 1:
            return self.units.select("user", "first", "g", "period")
        entering = self.units.filter(self.units.entry == 1)
        return entering.group_by("user").aggregate(
            first=entering["first"].min(),
            g=entering.g.argmin(entering["first"]),
            period=entering.period.argmin(entering["first"]),
        )

    def exposed(self) -> ir.Table:
        """As `starts`, with the first exposure of all, so that nothing after one that is left out was before."""
        starts = self.starts()
        if self.exclusion is None:
            return starts
        every = self.exclusion.every_call
        earliest = every.group_by("user").aggregate(earliest=every["at"].min())
        joined = starts.inner_join(earliest, "user")
        return joined.select("user", "g", "period", first=joined.earliest)

    def moved(self) -> ir.BooleanValue:
        """Of each unit, whether its bucket has moved, so that it does not count any more.

        A column even where none has: a database has no `any` of a constant.
        """
        return self.out_of(self.units.cell)

    def out_of(self, cell: ir.IntegerValue) -> ir.BooleanValue:
        """The same of a column of cells."""
        out = np.flatnonzero(cells_of.left_out(self.cells, self.looks.times[-1])).tolist()
        return cell.isin(out or [UNKNOWN])

    def any_before(self) -> bool:
        """Whether the log has anything from before the experiment began."""
        earliest = self.lines.survey.oldest
        return earliest is not None and earliest < microseconds(self.began)


def began(allocations: Sequence[LoggedAllocation], exclusion: Exclusion | None) -> datetime:
    """When an experiment began; excluding its beginning moves no look."""
    return min(one.begin for one in allocations) if exclusion is None else exclusion.began


def tables_of(
    lines: LogTables,
    name: str,
    groups: tuple[str, ...],
    allocations: Sequence[LoggedAllocation],
    rules: Sequence[MetricRule],
    plan: AnalysisPlan,
    as_of: datetime,
    *,
    ordered: bool = True,
    deployment: Deployment = UNKNOWN_DEPLOYMENT,
    exclusion: Exclusion | None = None,
) -> Tables:
    """The tables of an experiment that somebody was in; lines and allocations are without what is excluded.

    ordered: Whether the treatments among the groups are in the file's order.
    """
    storage = lines.log.storage
    exposures = log_lines.allocated(lines, name)
    looks = looks_until(began(allocations, exclusion), as_of, plan)
    calls = log_lines.calls(exposures, groups, [one.id for one in allocations])
    calls = storage.view("calls", calls.mutate(look=looks.index(calls["at"])))
    counted = sum(row["n"] for row in lines.calls.allocated(name))
    layout = layout_of_experiment(lines.layout, calls, counted=counted, allocations=len(allocations), rules=rules)
    times = points = None
    if any(rule.source is MetricSource.TIME_QUANTILE for rule in rules):
        times = storage.keep("times", histogram(calls, ["look", "period", "g"]))
        points = quantile_points(times, len(looks.times), len(groups))
    visits = storage.view("visits", visits_of(storage, calls, points, layout))
    plain = storage.keep("plain_units", units_of(visits, layout))
    window = max([DEFAULT_WINDOW, *(rule.window for rule in rules)])
    cells = divided(plain, calls, allocations, looks, window, ordered=ordered)
    units = storage.keep("units", with_cells(storage, plain, allocations, cells))
    if follow_from_calls(units):
        visits = visits.mutate(cell=visits.period)
        times = None if times is None else times.mutate(cell=times.period)
    else:
        visits = placed(visits.drop("g"), units)
        times = None if times is None else histogram(placed(calls.drop("g"), units), ["look", "cell", "g"])
    return Tables(
        lines=lines,
        name=name,
        groups=groups,
        allocations=tuple(allocations),
        rules=tuple(rules),
        as_of=as_of,
        exposures=exposures,
        calls=calls,
        looks=looks,
        times=times,
        slow=points,
        visits=storage.view("placed_visits", visits),
        units=units,
        cells=cells,
        shape=Shape(len(looks.times), len(cells.cells), len(groups)),
        deployment=deployment,
        layout=layout,
        exclusion=exclusion,
    )
