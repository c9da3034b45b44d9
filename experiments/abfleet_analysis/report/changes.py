"""The log's lines about configurations, once for all routers, in plain words."""

import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Final

import ibis

from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.periods.allocation_periods import moment
from abfleet_analysis.report.details import ConfigChange
from abfleet_analysis.storage.fetching import fetched_rows

MOST_CHANGES: Final = 200
"""The newest ones."""
_COLUMNS: Final = (
    "at",
    "event",
    "router",
    "config_revision",
    "experiment",
    "allocation",
    "salt",
    "traffic",
    "weights",
    "moved",
    "old_revision",
    "new_revision",
    "active",
    "errors",
)


def changes(lines: LogTables, experiment: str) -> tuple[ConfigChange, ...]:
    """What changed for an experiment, newest first; reloads are those of the whole file."""
    table = lines.all
    mine = (table.event == "allocation") & (table.experiment == experiment)
    rows = table.filter(mine | (table.event == "reload")).select(*_COLUMNS)
    newest = fetched_rows(rows.order_by(ibis.desc("at")).limit(MOST_CHANGES * 100))
    return tuple(in_words(newest[::-1]))[::-1][:MOST_CHANGES]


def in_words(rows: Iterable[Mapping[str, Any]]) -> Iterator[ConfigChange]:
    """The changes that lines say, oldest first, each once however many routers say it.

    Routers write the same sequence, each at its own time; what one says for the n-th time is the same as what another
    one says for the n-th time. A router that starts says what is in force already, which is no change.
    """
    last: dict[tuple[object, str], Hashable] = {}
    said: Counter[tuple[object, Hashable]] = Counter()
    known: set[tuple[Hashable, int]] = set()
    known_shares = False
    for row in rows:
        state = _state(row)
        source = (row["router"], row["event"])
        if last.get(source) == state:
            continue
        last[source] = state
        said[row["router"], state] += 1
        occurrence = (state, said[row["router"], state])
        if occurrence in known:
            continue
        known.add(occurrence)
        if row["event"] == "reload":
            yield _reload(row)
        else:
            yield _allocation(row, first=not known_shares)
            known_shares = True


def _state(row: Mapping[str, Any]) -> Hashable:
    """What two lines must have in common to say the same."""
    if row["event"] == "allocation":
        return ("allocation", row["allocation"], row["salt"], row["traffic"], row["weights"])
    return ("reload", row["new_revision"], row["active"], tuple(row["errors"] or ()))


def _allocation(row: Mapping[str, Any], *, first: bool) -> ConfigChange:
    weights = _weights(row["weights"])
    shares = "/".join(f"{share:g}" for share in weights.values()) or "unknown"
    names = ", ".join(weights)
    traffic = row["traffic"]
    if traffic == 0:
        text = "the experiment takes nobody"
    else:
        text = f"shares {'are' if first else 'are now'} {shares}" + (f" ({names})" if names else "")
        if traffic is not None and traffic < 100:
            text += f" of {traffic:g} % of users"
    if row["moved"]:
        text += f"; {row['moved'] * 100:.1f} % of users moved"
    return ConfigChange(moment(row["at"]), "allocation", text, row["config_revision"])


def _reload(row: Mapping[str, Any]) -> ConfigChange:
    at, errors = moment(row["at"]), [str(error) for error in row["errors"] or ()]
    if row["active"]:
        moved = f"; {row['moved'] * 100:.1f} % of users moved" if row["moved"] else ""
        return ConfigChange(
            at, "reload", f"the file's revision {row['new_revision']} is in force{moved}", row["new_revision"]
        )
    if row["new_revision"] is None:
        return ConfigChange(at, "refused", f"refused: {'; '.join(errors) or 'no reason given'}", None)
    return ConfigChange(
        at, "reload", f"not in force yet: {'; '.join(errors) or 'no reason given'}", row["new_revision"]
    )


def _weights(text: str | None) -> dict[str, float]:
    """Group to percent; empty for a malformed line, which other lines make up for."""
    try:
        return {str(name): float(share) for name, share in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError):
        return {}
