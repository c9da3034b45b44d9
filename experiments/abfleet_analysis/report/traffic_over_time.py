"""Calls, errors and fallbacks of each group over time. Ibis expressions over one experiment's calls; no statistics."""

from datetime import timedelta
from typing import Final

import ibis
import numpy as np
from numpy.typing import NDArray

from abfleet_analysis.evidence.tables import Tables
from abfleet_analysis.periods.allocation_periods import microseconds, moment
from abfleet_analysis.report.details import Traffic
from abfleet_analysis.storage.fetching import columns_of

MOST_BINS: Final = 240
WIDTHS: Final = tuple(
    timedelta(seconds=seconds)
    for seconds in (1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86_400, 7 * 86_400, 28 * 86_400)
)
"""Of bins: what a clock or a calendar has."""


def traffic(tables: Tables) -> Traffic:
    """The experiment's calls from its first one to the moment of the report, in at most MOST_BINS bins."""
    first_us = microseconds(min(one.begin for one in tables.allocations))
    last_us = max(microseconds(tables.as_of), first_us)
    width_us = _width_us(last_us - first_us)
    begin_us = first_us // width_us * width_us
    bins = (last_us - begin_us) // width_us + 1
    calls = tables.calls
    binned = calls.mutate(bin=((calls["at"] - begin_us) / width_us).floor().cast("int64"))
    columns = columns_of(
        binned.group_by("bin", "g").aggregate(
            calls=ibis._.count(),
            errors=binned.count(where=binned.error),
            fallbacks=binned.count(where=binned.fell_back),
            troubled=binned.count(where=binned.error | binned.fell_back),
        )
    )
    where = (columns["bin"].astype(np.int64), columns["g"].astype(np.int64))
    found: dict[str, NDArray[np.int64]] = {}
    for name in ("calls", "errors", "fallbacks", "troubled"):
        counts = np.zeros((bins, len(tables.groups)), dtype=np.int64)
        np.add.at(counts, where, columns[name].astype(np.int64))
        found[name] = counts
    return Traffic(
        begin=moment(begin_us),
        width=timedelta(microseconds=width_us),
        **found,
        since=moment(first_us),
        until=moment(last_us),
    )


def _width_us(span_us: int) -> int:
    """The narrowest width that needs no more bins than are shown."""
    widths = [width // timedelta(microseconds=1) for width in WIDTHS]
    return next((width for width in widths if span_us // width + 2 <= MOST_BINS), span_us // MOST_BINS * 2)
