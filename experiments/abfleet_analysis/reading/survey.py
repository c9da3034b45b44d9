"""The log in numbers: lines of each kind, and calls, each counted once.

Both are a row for each combination of columns that have few different values, and so small that all else that is asked
of them is Python.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import ibis.expr.types as ir
from abfleet_experiments.assign import PINNED
from abfleet_experiments.config import INTERLEAVED

from abfleet_analysis.reading.open_log import Log
from abfleet_analysis.storage.fetching import counted

CATEGORICAL: Final = (
    "experiment",
    "group",
    "reason",
    "allocation",
    "status",
    "fallback",
    "cause",
    "model_version",
    "served_version",
    "unsent",
    "unlisted",
)
"""Columns of an exposure that have few different values."""
_COUNTED: Final = ("exposure", "outcome")


@dataclass(frozen=True, slots=True)
class _Kinds:
    rows: tuple[Mapping[str, Any], ...]

    def count(self, wanted: Callable[[Mapping[str, Any]], bool]) -> int:
        """How many are in the rows that are wanted."""
        return sum(row["n"] for row in self.rows if wanted(row))


@dataclass(frozen=True, slots=True)
class Survey(_Kinds):
    """What one pass over the lines finds: how many there are of each kind.

    Attributes:
        rows: A row for each combination of `event`, CATEGORICAL, `synthetic` and `timeless`, with `n`, `oldest`,
            `newest` and `unusable`, how many of them have a value that is not a usable number.
    """

    @property
    def newest(self) -> int | None:
        """The newest time, in microseconds since 1970; None if no line has one."""
        return max((row["newest"] for row in self.rows if row["newest"] is not None), default=None)

    @property
    def oldest(self) -> int | None:
        """The oldest time of an exposure or outcome."""
        times = (row["oldest"] for row in self.rows if row["event"] in _COUNTED and row["oldest"] is not None)
        return min(times, default=None)

    @property
    def unreadable(self) -> int:
        """Lines without a kind, and exposures and outcomes without a time."""
        return self.count(_unreadable)

    @property
    def lines(self) -> int:
        """Lines that were read: unreadable ones, and all others that have a time."""
        return self.count(lambda row: _unreadable(row) or not row["timeless"])

    @property
    def unusable(self) -> int:
        """Lines with a time and with a value that is not a usable number, such as nan."""
        return sum(int(row["unusable"]) for row in self.rows if not row["timeless"])

    @property
    def holdout(self) -> int:
        """Calls of users who are held out of every experiment."""
        return self.count(
            lambda row: row["event"] == "exposure" and not row["synthetic"] and row["reason"] == "holdout"
        )

    @property
    def pinned(self) -> int:
        """Calls whose caller named the version."""
        return self.count(lambda row: row["event"] == "exposure" and not row["synthetic"] and row["reason"] == PINNED)

    @property
    def ramped(self) -> bool:
        """Whether an experiment has exposures of more than one allocation."""
        pairs = {(row["experiment"], row["allocation"]) for row in self.rows if row["event"] == "exposure"}
        return len(pairs) > len({experiment for experiment, _ in pairs})

    def same(self) -> dict[str, str | bool | None]:
        """The columns of CATEGORICAL and `synthetic` with one value in all exposures, and that value."""
        found: dict[str, str | bool | None] = {}
        for column in (*CATEGORICAL, "synthetic"):
            values = {row[column] for row in self._exposures()} or {None}
            if len(values) == 1:
                (found[column],) = values
        return found

    def combinations(self, columns: Iterable[str]) -> list[tuple[str | None, ...]]:
        """The different combinations of values that exposures have in these columns of CATEGORICAL, sorted."""
        columns = tuple(columns)
        rows = {tuple(row[column] for column in columns) for row in self._exposures()}
        return sorted(rows, key=lambda row: tuple(word or "" for word in row))

    def _exposures(self) -> Iterable[Mapping[str, Any]]:
        return (row for row in self.rows if row["event"] == "exposure")


def survey_of(log: Log, until_us: int | None = None) -> Survey:
    """The log in numbers, up to a moment; lines without a time or kind are always in it."""
    lines = log.lines
    unusable = lines.unusable
    if until_us is not None:
        known = lines["at"] <= until_us
        lines = lines.filter(lines["at"].isnull() | lines.event.isnull() | known)
        unusable &= known.fill_null(False)
    keyed = lines.select(
        "event", *CATEGORICAL, "synthetic", "at", timeless=lines["at"].isnull(), unusable=unusable.cast("int32")
    )
    facts = {**_TIMES, "unusable": ("sum", "unusable")}
    return Survey(tuple(counted(keyed, ("event", *CATEGORICAL, "synthetic", "timeless"), facts)))


_TIMES: Final = {"n": ("count", "*"), "oldest": ("min", "at"), "newest": ("max", "at")}


def _unreadable(row: Mapping[str, Any]) -> bool:
    return row["event"] is None or (row["event"] in _COUNTED and row["timeless"])


@dataclass(frozen=True, slots=True)
class Calls(_Kinds):
    """How many calls there are of each kind, each of them counted once.

    Attributes:
        rows: A row for each combination of CATEGORICAL, `synthetic`, `error`, `nobody` (no user is known) and `counts`,
            with `n`, `oldest` and `newest`, and `highest` of the propensities.
    """

    @property
    def experiments(self) -> list[str]:
        """Experiments with exposures that are not synthetic, sorted by name."""
        found = {row["experiment"] for row in self.rows if row["experiment"] is not None and not row["synthetic"]}
        return sorted(found)

    @property
    def no_user_id(self) -> int:
        """Calls of which no user is known, without synthetic ones."""
        return self.count(lambda row: row["nobody"] and not row["synthetic"])

    def left_out(self, experiment: str) -> tuple[int, int]:
        """Calls of an experiment that are left out: synthetic ones, and forced users' ones."""
        synthetic = self.count(lambda row: row["experiment"] == experiment and row["synthetic"])
        forced = self.count(
            lambda row: row["experiment"] == experiment and row["reason"] == "override" and not row["synthetic"]
        )
        return synthetic, forced

    def allocated(self, experiment: str) -> list[Mapping[str, Any]]:
        """The rows of an experiment that count, in groups that are compared."""
        return [row for row in self._counting(experiment) if not _interleaved(row)]

    def interleaved(self, experiment: str) -> list[Mapping[str, Any]]:
        """The rows of an experiment that count, of calls that two versions serve together."""
        return [row for row in self._counting(experiment) if _interleaved(row)]

    def _counting(self, experiment: str) -> list[Mapping[str, Any]]:
        return [row for row in self.rows if row["experiment"] == experiment and row["counts"]]

    def shares(self, experiment: str) -> dict[str, float]:
        """The mean propensity of each group of an experiment, 0 to 1; 0 where no line has one."""
        sums: dict[str, tuple[float, int]] = {}
        for row in self.allocated(experiment):
            total, n = sums.get(row["group"], (0.0, 0))
            if row["highest"] is not None:  # it is the same in all calls of an allocation's group
                sums[row["group"]] = (total + row["highest"] * row["n"], n + row["n"])
        return {group: total / n for group, (total, n) in sums.items()}


def _interleaved(row: Mapping[str, Any]) -> bool:
    """Only calls of two versions have none as theirs."""
    return row["group"] == INTERLEAVED and row["model_version"] is None


def counts(exposures: ir.Table) -> ir.BooleanValue:
    """Whether calls count in their experiment: allocated by the split, of a known user, not synthetic."""
    by_split = exposures.reason.fill_null("allocated") == "allocated"
    return by_split & exposures.group.notnull() & exposures.user.notnull() & ~exposures.synthetic


def calls_of(exposures: ir.Table, same: Mapping[str, str | bool | None]) -> Calls:
    """The exposures in numbers, each of them being there once; same: As of the survey."""
    keys = [key for key in (*CATEGORICAL, "synthetic", "error") if key not in same]
    keyed = exposures.select(*keys, "at", "propensity", nobody=exposures.user.isnull(), counts=counts(exposures))
    rows = counted(keyed, (*keys, "nobody", "counts"), {**_TIMES, "highest": ("max", "propensity")})
    return Calls(tuple({**same, **row} for row in rows))
