"""From a log to the evidence of one experiment. Puts the expressions together; the rules are in what it calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from abfleet_experiments.analysis import cells as cells_of
from abfleet_experiments.analysis import frames, quantiles, sums
from abfleet_experiments.analysis.cells import UNKNOWN, Cells, Period
from abfleet_experiments.analysis.contributions import (
    OutcomeCounts,
    clicks_before,
    contributions,
    join_outcomes,
    values_before,
)
from abfleet_experiments.analysis.effects import Estimator
from abfleet_experiments.analysis.evidence import BadEvents, DataQuality, Evidence, MetricEvidence
from abfleet_experiments.analysis.frames import Lines
from abfleet_experiments.analysis.metrics import (
    DEFAULT_WINDOW,
    RESPONSE_TIME_QUANTILE,
    BadEvent,
    MetricRule,
    Source,
)
from abfleet_experiments.analysis.moments import Floats, Moments, from_sums
from abfleet_experiments.analysis.periods import (
    Found,
    Looks,
    allocation_events,
    find_periods,
    group_names,
    looks_until,
    microseconds,
)
from abfleet_experiments.analysis.sums import Shape, Value
from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import AnalysisPlan, Experiment

LEARNT_FROM: Final = 1000
"""Control's first responses, from whose 95 % quantile a slow response is learnt; after them counting begins."""
GROUPS_IN_NUMBER: Final = 128
"""More than an experiment may have groups."""
STEPS_PER_LOOK: Final = 200
"""How finely the e-process of a guardrail follows time."""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """What a report says of a group beside its metrics: of users who count, and of all its calls."""

    name: str
    model_version: str | None
    users: int
    exposures: int
    fallbacks: int
    errors: int


@dataclass(frozen=True, slots=True)
class Gathered:
    """One experiment's evidence with what the report shows beside it."""

    evidence: Evidence
    allocations: tuple[Found, ...]
    facts: tuple[GroupFacts, ...]
    looks: Looks


@dataclass(frozen=True, slots=True)
class UserChanges:
    """What each look changes in the sums of each user of one allocation.

    Attributes:
        users: How many. user: int[rows], which of them. look: int[rows]. entered: float64[rows], 1 at the user's first.
        parts: By metric and product of sums.PRODUCTS, float64[rows].
    """

    groups: tuple[str, ...]
    users: int
    user: NDArray[np.int64]
    look: NDArray[np.int64]
    entered: Floats
    parts: Mapping[str, Mapping[str, Floats]]
    rules: tuple[MetricRule, ...]
    looks: Looks


def user_changes(
    lines: Lines,
    name: str,
    experiment: Experiment,
    rules: Sequence[MetricRule],
    plan: AnalysisPlan,
    as_of: datetime,
) -> UserChanges | None:
    """The changes of each user of an experiment's largest allocation; None if nobody was in it."""
    exposures = frames.allocated(lines, name)
    groups = group_names(experiment, [], {})
    found = find_periods(exposures, groups, experiment, {}, as_of)
    if not found:
        return None
    return _Gathering(lines, name, exposures, groups, found, rules, plan, as_of).by_user()


def gather(
    lines: Lines,
    name: str,
    experiment: Experiment | None,
    rules: Sequence[MetricRule],
    plan: AnalysisPlan,
    as_of: datetime,
) -> Gathered:
    """The evidence of an experiment as known at a moment; of one without users, if none came."""
    exposures = frames.allocated(lines, name)
    seen = exposures.group_by("group").aggregate(p=exposures.propensity.mean()).to_pyarrow().to_pylist()
    events = allocation_events(lines.all, name, microseconds(as_of))
    listed = {row["group"] for row in seen}
    if experiment is None:
        listed |= {group for _, shares in events.values() for group in shares}
    groups = group_names(experiment, sorted(listed), {row["group"]: row["p"] or 0.0 for row in seen}) if (
        listed or experiment is not None) else ()  # fmt: skip
    found = find_periods(exposures, groups, experiment, events, as_of)
    if not found:
        return _nobody(lines, name, groups, experiment, rules, plan, as_of)
    return _Gathering(lines, name, exposures, groups, found, rules, plan, as_of).result()


class _Gathering:
    """One experiment's way from lines to evidence. Made, asked once, dropped."""

    def __init__(
        self,
        lines: Lines,
        name: str,
        exposures: ir.Table,
        groups: tuple[str, ...],
        found: list[Found],
        rules: Sequence[MetricRule],
        plan: AnalysisPlan,
        as_of: datetime,
    ) -> None:
        self._lines = lines
        self._connection = lines.log.connection
        self._name = name
        self._groups = groups
        self._found = found
        self._rules = rules
        self._as_of = as_of
        self._exposures = exposures
        self._calls = frames.calls(exposures, groups, [one.id for one in found])
        first = min(one.begin for one in found)
        self._looks = looks_until(first, as_of, plan)
        calls = self._calls.mutate(look=self._looks.index(self._calls["at"]))
        self._calls = self._connection.create_view("calls", calls, overwrite=True)
        window = max([DEFAULT_WINDOW, *(rule.window for rule in rules)])
        self._points = self._quantile_points()
        self._visits = self._keep("visits", self._visits_table())
        plain = self._keep("plain_units", frames.units(self._visits))
        self._cells = self._divide(plain, window)
        self._units = self._keep("units", self._with_cells(plain))
        self._shape = Shape(len(self._looks.times), len(self._cells.cells), len(groups))

    def result(self) -> Gathered:
        """Everything."""
        counted = OutcomeCounts()
        metrics = self._metrics(counted)
        member = cells_of.membership(self._cells, self._looks.times)
        metrics = tuple(self._with_quantile(metric, member) for metric in metrics)
        new_users = sums.counts(self._entering(), self._entering().entry, self._shape)
        evidence = Evidence(
            groups=self._groups,
            weights=self._found[-1].weights,
            calendar=self._looks.calendar,
            membership=member,
            shares=cells_of.expected_shares(self._cells, self._looks.times),
            new_users=new_users,
            users=new_users.sum(axis=1),
            metrics=metrics,
            bad_events={rule.name: self._bad_events(rule) for rule in self._rules if rule.bad_event is not None},
            quality=self._quality(counted),
        )
        return Gathered(evidence, tuple(self._found), self._facts(), self._looks)

    def _keep(self, name: str, table: ir.Table) -> ir.Table:
        return self._connection.create_table(name, table, temp=True, overwrite=True)

    # --- users and cells ----------------------------------------------------------------------------------------------

    def _visits_table(self) -> ir.Table:
        """One row for each user, allocation and look."""
        table = self._calls
        slow = ibis.literal(0.0)
        if self._points is not None:
            points = ibis.cases(*((table.g == index, float(p)) for index, p in enumerate(self._points)), else_=0.0)
            slow = (table.timed * (table.latency_ms > points).cast("float64")).fill_null(0.0)
        # Time and group in one number, so that its least has the group of the first call.
        start = table["at"] * GROUPS_IN_NUMBER + table.g
        table = table.mutate(slow=slow, time=ibis.ifelse(table.timed == 1, table.latency_ms, 0.0), start=start)
        visits = table.group_by("user", "period", "look").aggregate(
            start=table.start.min(),
            g_low=table.g.min(),
            g_high=table.g.max(),
            bucket=table.bucket.max(),  # a user has one bucket under one salt
            calls=table.count(),
            answered=table.answered.sum(),
            error=table.error.sum(),
            fell_back=table.fell_back.sum(),
            timed=table.timed.sum(),
            time_sum=table["time"].sum(),
            slow=table.slow.sum(),
        )
        return visits.mutate(
            first=(visits.start - visits.start % GROUPS_IN_NUMBER) // GROUPS_IN_NUMBER,
            g=(visits.start % GROUPS_IN_NUMBER).cast("int64"),
        ).drop("start")

    def _divide(self, units: ir.Table, window: timedelta) -> Cells:
        if len(self._found) == 1:
            maps = [np.full(BUCKETS, UNKNOWN, dtype=np.int64)]
        else:
            counted = units.filter(units.bucket.notnull()).group_by("period", "bucket", "g").aggregate(n=ibis._.count())
            columns = {name: column.to_numpy() for name, column in _arrow(counted).items()}
            maps = [self._bucket_map(columns, period) for period in range(len(self._found))]
        periods = [
            Period(one.id, one.begin, one.weights, one.salt, table)
            for one, table in zip(self._found, maps, strict=True)
        ]
        return cells_of.divide(periods, window)

    def _bucket_map(self, columns: Mapping[str, NDArray[np.int64]], period: int) -> NDArray[np.int64]:
        """The group of each bucket in an allocation: the one of most of its users."""
        mine = columns["period"] == period
        mine &= (columns["bucket"] >= 0) & (columns["bucket"] < BUCKETS)
        votes = np.zeros((BUCKETS, len(self._groups)))
        np.add.at(votes, (columns["bucket"][mine], columns["g"][mine]), columns["n"][mine])
        voted = np.flatnonzero(votes.sum(axis=1))
        return cells_of.observed_buckets(voted, votes[voted].argmax(axis=1))

    def _with_cells(self, units: ir.Table) -> ir.Table:
        """The units with their cell, and whether their bucket's group is not theirs."""
        if not any(self._cells.moves):
            return units.mutate(cell=units.period.cast("int64"), strange=ibis.literal(False))
        fates = self._cells.fates
        period, bucket = np.nonzero(fates != UNKNOWN)
        table = self._connection.create_table(
            "fates", pa.table({"period": period, "bucket": bucket, "fate": fates[period, bucket]}), temp=True,
            overwrite=True,
        )  # fmt: skip
        mapped = self._connection.create_table("bucket_groups", self._bucket_groups(), temp=True, overwrite=True)
        with_fate = units.left_join(table, ["period", "bucket"]).drop("period_right", "bucket_right")
        with_group = with_fate.left_join(mapped, ["period", "bucket"]).drop("period_right", "bucket_right")
        limits = [
            (with_group.period == index, microseconds(limit))
            for index in range(len(self._found))
            for limit in self._cells.limits(index)
        ]
        span = ibis.literal(0)
        for here, limit in limits:
            span = span + (here & (with_group["first"] >= limit)).cast("int32")
        spanned = with_group.mutate(span=span, fate=with_group.fate.fill_null(UNKNOWN))
        index = self._connection.create_table("cell_index", pa.table({
            "period": [c.period for c in self._cells.cells], "fate": [c.fate for c in self._cells.cells],
            "span": [c.span for c in self._cells.cells], "cell": list(range(len(self._cells.cells))),
        }), temp=True, overwrite=True)  # fmt: skip
        numbered = spanned.inner_join(index, ["period", "fate", "span"])
        strange = (numbered.bucket_group != numbered.g).fill_null(False)
        return numbered.mutate(strange=strange).select(*units.columns, "cell", "strange")

    def _bucket_groups(self) -> pa.Table:
        known = np.stack([period.buckets for period in self._cells.periods])
        period, bucket = np.nonzero(known != UNKNOWN)
        return pa.table({"period": period, "bucket": bucket, "bucket_group": known[period, bucket]})

    def _entering(self) -> ir.Table:
        return self._units.mutate(look=self._looks.index(self._units["first"]))

    # --- metrics ------------------------------------------------------------------------------------------------------

    def _metrics(self, counted: OutcomeCounts) -> tuple[MetricEvidence, ...]:
        changed = self.changed(counted)
        names = [rule.name for rule in self._rules]
        if len(self._found) == 1:
            moments = sums.moments(changed, names, self._shape)
        else:
            changed = self._keep("changes", changed)
            moments = sums.moments(changed, names, self._shape)
            crosses = sums.crosses(changed, names, self._shape)
            moments = {name: replace(moments[name], cross=crosses.get(name)) for name in names}
        return tuple(MetricEvidence(rule, moments[rule.name]) for rule in self._rules)

    def changed(self, counted: OutcomeCounts) -> ir.Table:
        """What each look changes in each user's sums, of every metric."""
        outcomes = join_outcomes(
            self._lines, self._name, self._groups, [one.id for one in self._found], self._units, self._looks
        )
        table, values = contributions(outcomes, self._visits, self._rules, counted)
        table = table.inner_join(self._units.select("user", "period", "cell", "g"), ["user", "period"])
        if any(rule.winsorise is not None for rule in self._rules):
            table = self._keep("contributions", table)
        table, values = self._with_values_before(table, values, counted)
        return sums.changes(table, {rule.name: self._capped(table, rule, values[rule.name]) for rule in self._rules})

    def by_user(self) -> UserChanges:
        """The changes of the largest allocation's users, as arrays."""
        table = self.changed(OutcomeCounts())
        sizes = _arrow(self._units.group_by("period").aggregate(n=ibis._.count()))
        largest = max(zip(sizes["n"].to_pylist(), sizes["period"].to_pylist(), strict=True))[1]
        table = table.filter(table.period == largest)
        columns = {name: np.nan_to_num(column.to_numpy()) for name, column in _arrow(table).items()}
        users, index = np.unique(columns["user"], return_inverse=True)
        parts = {
            rule.name: {part: columns[f"{rule.name}_{part}"].astype(np.float64) for part in sums.PRODUCTS}
            for rule in self._rules
        }
        entered = columns["entered"].astype(np.float64)
        return UserChanges(
            self._groups,
            len(users),
            index,
            columns["look"].astype(np.int64),
            entered,
            parts,
            tuple(self._rules),
            self._looks,
        )

    def _with_values_before(
        self, table: ir.Table, values: dict[str, Value], counted: OutcomeCounts
    ) -> tuple[ir.Table, dict[str, Value]]:
        """The contributions with each CUPED metric's value before the experiment, where anyone has one."""
        values = dict(values)
        for rule in self._rules:
            if rule.estimator is not Estimator.CUPED or not self._any_before():
                continue
            column = f"before_{values[rule.name].y}"
            before = values_before(self._lines, self._starts(), rule, counted.currencies.get(rule.name))
            before = self._keep(column, before)
            table = table.left_join(before, "user").drop("user_right")
            table = table.mutate(**{column: table.before.fill_null(0.0)}).drop("before")
            values[rule.name] = replace(values[rule.name], z=column, constant_z=True)
        return table, values

    def _capped(self, table: ir.Table, rule: MetricRule, value: Value) -> Value:
        """The cap of a winsorised metric: a quantile of all users' values."""
        if rule.winsorise is None:
            return value
        totals = table.group_by("user", "period").aggregate(total=table[value.y].sum())
        cap = totals.total.cast("float64").quantile(rule.winsorise).to_pyarrow().as_py()
        return replace(value, cap=None if cap is None else float(cap))

    def _starts(self) -> ir.Table:
        """Each user's first exposure in the experiment, and where it was."""
        entering = self._units.filter(self._units.entry == 1)
        return entering.group_by("user").aggregate(
            first=entering["first"].min(),
            g=entering.g.argmin(entering["first"]),
            period=entering.period.argmin(entering["first"]),
        )

    def _any_before(self) -> bool:
        """Whether the log has anything from before the experiment began."""
        earliest = self._lines.all.filter(self._lines.all.event.isin(("exposure", "outcome")))["at"].min()
        return bool(earliest.to_pyarrow().as_py() < microseconds(min(one.begin for one in self._found)))

    # --- response times -----------------------------------------------------------------------------------------------

    def _quantile_points(self) -> Floats | None:
        """Each group's quantile of response times; None if no metric needs it."""
        if not any(rule.source is Source.TIME_QUANTILE for rule in self._rules):
            return None
        columns = _arrow(_histogram(self._calls, ["g"]))
        points = np.zeros(len(self._groups))
        group, bins = columns["g"].to_numpy(), columns["bin"].to_numpy()
        for index in range(len(self._groups)):
            order = np.argsort(bins[group == index])
            counts = columns["n"].to_numpy()[group == index][order].astype(np.float64)
            totals = columns["total"].to_numpy()[group == index][order]
            points[index] = np.nan_to_num(quantiles.point(counts, totals, RESPONSE_TIME_QUANTILE))
        return points

    def _with_quantile(self, metric: MetricEvidence, membership: Floats) -> MetricEvidence:
        if metric.rule.source is not Source.TIME_QUANTILE:
            return metric
        table = self._calls.drop("g").inner_join(self._units.select("user", "period", "cell", "g"), ["user", "period"])
        columns = _arrow(_histogram(table, ["look", "cell", "g"]))
        where = tuple(columns[name].to_numpy().astype(np.int64) for name in ("look", "cell", "g"))
        bins = columns["bin"].to_numpy()
        shape = (self._shape.times, self._shape.cells, self._shape.groups)
        counts = quantiles.dense(bins, where, columns["n"].to_numpy().astype(np.float64), shape)
        totals = quantiles.dense(bins, where, columns["total"].to_numpy(), shape)
        scale = quantiles.quantile_scale(metric.moments, membership, counts, totals, probability=RESPONSE_TIME_QUANTILE)
        return replace(metric, quantile=scale)

    # --- guardrails ---------------------------------------------------------------------------------------------------

    def _bad_events(self, rule: MetricRule) -> BadEvents:
        """Users by the time, group and shares of their first bad event."""
        bad = self._calls.filter(self._calls.error == 1) if rule.bad_event is BadEvent.ERROR else self._slow(rule)
        firsts = bad.group_by("user").aggregate(
            at=bad["at"].min(), g=bad.g.argmin(bad["at"]), period=bad.period.argmin(bad["at"])
        )
        width = max(self._looks.look_us // STEPS_PER_LOOK, 1)
        steps = firsts.mutate(look=self._looks.index(firsts["at"]), step=(firsts["at"] / width).floor().cast("int64"))
        columns = _arrow(steps.group_by("look", "step", "period", "g").aggregate(n=ibis._.count()))
        look, step, period, group, n = (columns[c].to_numpy() for c in ("look", "step", "period", "g", "n"))
        keys, index = np.unique(np.stack([look, step, period], axis=1), axis=0, return_inverse=True)
        counts = np.zeros((len(keys), len(self._groups)))
        np.add.at(counts, (index.reshape(-1), group.astype(np.int64)), n)
        weights = np.stack([one.weights for one in self._found])
        return BadEvents(keys[:, 0], counts, weights[keys[:, 2]])

    def _slow(self, rule: MetricRule) -> ir.Table:
        """Responses slower than the threshold; one learnt from control counts from then on only, in every group."""
        timed = self._calls.filter(self._calls.timed == 1)
        if rule.threshold_ms is not None:
            return timed.filter(timed.latency_ms > rule.threshold_ms)
        learnt = timed.filter(timed.g == 0).order_by("at").limit(LEARNT_FROM)
        row = learnt.aggregate(
            threshold=learnt.latency_ms.quantile(RESPONSE_TIME_QUANTILE), last=learnt["at"].max(), n=learnt.count()
        ).to_pyarrow().to_pylist()[0]  # fmt: skip
        if row["n"] < LEARNT_FROM:
            return timed.filter(ibis.literal(False))
        return timed.filter(timed["at"] > row["last"], timed.latency_ms > row["threshold"])

    # --- what else is to be said --------------------------------------------------------------------------------------

    def _quality(self, counted: OutcomeCounts) -> DataQuality:
        synthetic, overrides = frames.left_out_lines(self._lines, self._name)
        units = self._units
        out = np.flatnonzero(cells_of.left_out(self._cells, self._looks.times[-1])).tolist()
        open_after = microseconds(self._as_of) - DEFAULT_WINDOW // timedelta(microseconds=1)
        by_user = units.group_by("user").aggregate(
            two=(units.two_groups.any() | ((units.g.min() != units.g.max()) & units.strange.any())),
            moved=units.cell.isin(out).any() if out else ibis.literal(False),
            open=(units["first"] > open_after).any(),
        )
        row = by_user.aggregate(
            users=by_user.count(),
            two=by_user.two.cast("int64").sum(),
            moved=by_user.moved.cast("int64").sum(),
            open=by_user.open.cast("int64").sum(),
        ).to_pyarrow().to_pylist()[0]  # fmt: skip
        joined, unjoined, total = self._unjoined()
        return DataQuality(
            lines=self._lines.lines,
            unreadable=self._lines.unreadable,
            duplicates=self._lines.duplicates,
            synthetic=synthetic,
            overrides=overrides,
            no_user_id=self._lines.no_user_id,
            holdout=self._lines.holdout,
            users=int(row["users"]),
            users_in_two_groups=int(row["two"] or 0),
            moved_by_ramp=int(row["moved"] or 0),
            unjoined_outcomes=total,
            open_windows=int(row["open"] or 0),
            duplicate_outcomes=self._lines.duplicate_outcomes,
            clicks_not_in_list=counted.clicks_not_in_list,
            other_currencies=counted.other_currencies,
            joined=joined,
            unjoined=unjoined,
            before=self._before(),
        )

    def _unjoined(self) -> tuple[Floats, Floats, int]:
        """Outcomes of each group's users whose request is in the log, and is not; and all that are not."""
        found, missing = self._lines.joined, self._lines.missing
        starts = self._starts()
        result = []
        for table, column in ((found, "x_user"), (missing, "user")):
            users = table.select(user=table[column]).inner_join(starts.select("user", "g"), "user")
            columns = _arrow(users.group_by("g").aggregate(n=ibis._.count()))
            counts = np.zeros(len(self._groups))
            counts[columns["g"].to_numpy().astype(np.int64)] = columns["n"].to_numpy()
            result.append(counts)
        return result[0], result[1], int(missing.count().to_pyarrow().as_py())

    def _before(self) -> Moments | None:
        """The primary metric before each user's first exposure: [1, periods, groups]."""
        rule = next(rule for rule in self._rules if rule.role == "primary")
        if rule.source not in (Source.CLICKS, Source.OUTCOME_VALUE, Source.OUTCOME_COUNT, Source.OUTCOME_ANY):
            return None
        if not self._any_before():
            return None
        starts = self._keep("starts", self._starts())
        if rule.source is Source.CLICKS:
            table = clicks_before(self._lines, starts).rename(y="clicked", z="answered")
        else:
            table = values_before(self._lines, starts, rule, None).rename(y="before").mutate(z=0.0)
        table = starts.left_join(table, "user").select("user", "period", "g", "y", "z")
        if rule.source is Source.CLICKS:  # who had no call then says nothing of clicks over calls
            table = table.filter(table.z > 0)
        table = table.mutate(y=table.y.fill_null(0.0), z=table.z.fill_null(0.0), look=0, cell=table.period, entered=1)
        changed = table.mutate(
            m_y=table.y, m_z=table.z, m_yy=table.y * table.y, m_yz=table.y * table.z, m_zz=table.z * table.z,
            m_nonzero=(table.y != 0).cast("float64"),
        )  # fmt: skip
        moments = sums.moments(changed, ["m"], Shape(1, len(self._found), len(self._groups)))["m"]
        return moments if moments.y.sum() else None

    def _facts(self) -> tuple[GroupFacts, ...]:
        visits, units = self._visits, self._units
        lines = _arrow(visits.group_by("g").aggregate(
            calls=visits.calls.sum(), errors=visits.error.sum(), fallbacks=visits.fell_back.sum()
        ))  # fmt: skip
        out = np.flatnonzero(cells_of.left_out(self._cells, self._looks.times[-1])).tolist()
        counting = units.filter(~units.cell.isin(out)) if out else units
        users = _arrow(counting.group_by("g").aggregate(n=counting.user.nunique()))
        versions = _arrow(self._exposures.group_by("group").aggregate(
            version=self._exposures.model_version.argmax(self._exposures["at"])
        ))  # fmt: skip
        named = dict(zip(versions["group"].to_pylist(), versions["version"].to_pylist(), strict=True))
        of_users = dict(zip(users["g"].to_pylist(), users["n"].to_pylist(), strict=True))
        of_lines = {
            g: rest
            for g, *rest in zip(*(lines[c].to_pylist() for c in ("g", "calls", "fallbacks", "errors")), strict=True)
        }
        return tuple(
            GroupFacts(name, named.get(name), of_users.get(g, 0), *(int(n) for n in of_lines.get(g, (0, 0, 0))))
            for g, name in enumerate(self._groups)
        )


def _histogram(table: ir.Table, keys: list[str]) -> ir.Table:
    """Timed calls by response time, in bins of 0.1 %."""
    timed = table.filter(table.timed == 1)
    binned = timed.mutate(bin=(ibis.greatest(timed.latency_ms, 1e-6).ln() * quantiles.BINS_PER_E).floor().cast("int64"))
    return binned.group_by(*keys, "bin").aggregate(n=binned.count(), total=binned.latency_ms.sum())


def _arrow(table: ir.Table) -> dict[str, pa.ChunkedArray]:
    result = table.to_pyarrow()
    return {name: result[name] for name in result.schema.names}


def _nobody(
    lines: Lines,
    name: str,
    groups: tuple[str, ...],
    experiment: Experiment | None,
    rules: Sequence[MetricRule],
    plan: AnalysisPlan,
    as_of: datetime,
) -> Gathered:
    """The evidence of an experiment that nobody was in."""
    synthetic, overrides = frames.left_out_lines(lines, name)
    none = np.zeros((1, 1, len(groups)))
    weights = (
        np.array([experiment.group(g).weight_bp / 10_000 for g in groups]) if experiment else np.zeros(len(groups))
    )
    looks = looks_until(as_of, as_of, plan)
    evidence = Evidence(
        groups=groups,
        weights=weights,
        calendar=looks.calendar,
        membership=np.ones((1, 1, 1)),
        shares=weights.reshape(1, 1, -1),
        new_users=none,
        users=none[:, 0],
        metrics=tuple(MetricEvidence(rule, from_sums([none] * 7)) for rule in rules),
        bad_events={},
        quality=DataQuality(
            lines=lines.lines,
            unreadable=lines.unreadable,
            duplicates=lines.duplicates,
            synthetic=synthetic,
            overrides=overrides,
            no_user_id=lines.no_user_id,
            holdout=lines.holdout,
        ),
    )
    facts = tuple(GroupFacts(g, experiment.group(g).model if experiment else None, 0, 0, 0, 0) for g in groups)
    return Gathered(evidence, (), facts, looks)
