"""From the log to what an interleaving's users clicked, by the team that gave the item. Ibis expressions.

Teams are taken from the log, and never drawn again. A click on an item is credit for the item's team, once for each
call and item; an item that both lists began with (`=`) is nobody's.
"""

from dataclasses import replace
from typing import Final, NamedTuple

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_experiments.config import INTERLEAVED
from abfleet_statistics.preference import MOST_CHAINED, Preferences
from numpy.typing import NDArray

from abfleet_analysis.decision.excluded_time import ExcludedTime
from abfleet_analysis.decision.preference import ClickSums, InterleavedCalls, PreferenceEvidence
from abfleet_analysis.evidence.exclusion import inside
from abfleet_analysis.evidence.log_lines import LogTables
from abfleet_analysis.evidence.log_quality import quality_of_lines
from abfleet_analysis.periods.allocation_periods import Looks
from abfleet_analysis.reading.survey import counts
from abfleet_analysis.storage.fetching import columns_of, fetched_one, fetched_rows

TEAMS: Final = ("A", "B")
NOBODY: Final = "="


class _Kind(NamedTuple):
    """What a call is, each a number in the table of calls."""

    merged: int = 0
    fallbacks: int = 1
    failures: int = 2
    other_versions: int = 3
    unusable: int = 4


_KIND: Final = _Kind()


def pair_of(lines: LogTables, name: str) -> tuple[str, str] | None:
    """The two versions of an interleaving's newest call; None where the log has none."""
    calls = _exposures(lines, name)
    newest = calls.filter(calls.versions.length() == 2).order_by(ibis.desc(calls["at"])).limit(1)
    rows = fetched_rows(newest.select(first=newest.versions[0], second=newest.versions[1]))
    return (rows[0]["first"], rows[0]["second"]) if rows else None


def preference_evidence(
    lines: LogTables, name: str, versions: tuple[str, str], looks: Looks, excluded: ExcludedTime
) -> PreferenceEvidence:
    """The evidence of one interleaving at its looks, and at the moment of the report."""
    times, storage = len(looks.times), lines.log.storage
    calls = storage.keep("interleaved_calls", _calls(lines, name, versions, looks, excluded))
    merged = calls.filter(calls.kind == _KIND.merged)
    clicks, missed = _clicks(lines, name, merged, looks)
    clicks = storage.keep("interleaved_clicks", clicks)
    changes = storage.keep("preference_changes", _changes(clicks))
    differing = merged.filter(merged.picked != "")
    sums = _click_sums(merged, clicks)
    return PreferenceEvidence(
        versions=versions,
        calendar=looks.calendar,
        preferences=_preferences(changes, times),
        users=_users(calls, times),
        differing=_users(differing, times),
        first_picks=_picks(differing, times),
        calls=_counted(calls),
        clicks=replace(sums, not_in_list=missed, without_request=_without_request(lines, calls)),
        quality=replace(
            quality_of_lines(lines, name),
            routers_off=lines.clocks.off.get(name, ()),
            clicks_not_in_list=missed,
        ),
    )


def _exposures(lines: LogTables, name: str) -> ir.Table:
    """An interleaving's calls that count, with what only their lines have."""
    known = lines.all
    calls = known.filter(known.event == "exposure", known.experiment == name, known.group == INTERLEAVED)
    return calls.filter(counts(calls), calls.versions.notnull())


def _calls(lines: LogTables, name: str, versions: tuple[str, str], looks: Looks, excluded: ExcludedTime) -> ir.Table:
    """One row for each call: `user`, `request`, `at`, `look`, `kind`, `items`, `teams` and who `picked` first.

    Teams are as if the first of `versions` were team A, whatever the line says. `picked` is the first letter of a team,
    empty where what was shown does not differ.
    """
    calls = _exposures(lines, name)
    if excluded:
        calls = calls.filter(~inside(calls["at"], excluded))
    if lines.duplicates:
        repeat = ibis.row_number().over(group_by=calls.exposure, order_by=calls["at"]) > 0
        calls = calls.mutate(repeat=repeat & calls.exposure.notnull())
        calls = calls.filter(~calls.repeat)
    first, second = versions
    same = (calls.versions[0] == first) & (calls.versions[1] == second)
    turned = (calls.versions[0] == second) & (calls.versions[1] == first)
    teams = calls.teams.nullif("")
    letters = teams.replace(NOBODY, "")
    fitting = (teams.length() == calls["items"].length()) & (letters.replace("A", "").replace("B", "") == "")
    answered = calls.status.fill_null("OK") == "OK"
    kind = ibis.cases(
        (~answered, _KIND.failures),
        (teams.isnull(), _KIND.fallbacks),
        (~(same | turned).fill_null(False), _KIND.other_versions),
        (~fitting.fill_null(False), _KIND.unusable),
        else_=_KIND.merged,
    )
    named = ibis.ifelse(turned, teams.translate("AB", "BA"), teams)
    return calls.select(
        "user",
        "request",
        "at",
        "items",
        look=looks.index(calls["at"]),
        kind=kind.cast("int32"),
        teams=named,
        picked=named.replace(NOBODY, "").left(1).fill_null(""),
    )


def _clicks(lines: LogTables, name: str, merged: ir.Table, looks: Looks) -> tuple[ir.Table, int]:
    """One row for each item of a merged list that was clicked, with the look that knows of it and the `letter` of its
    team; and how many clicks were on something else."""
    found = lines.joined
    found = found.filter(found.type == "click", found.x_experiment == name, found.x_group == INTERLEAVED)
    calls = merged.select("teams", "items", x_user=merged.user, request=merged.request, called=merged["at"])
    found = found.select("x_user", "request", "item_id", "at").inner_join(calls, ["x_user", "request"])
    place = found["items"].index(found.item_id)
    found = found.mutate(place=ibis.ifelse(found.item_id.notnull(), place, -1).fill_null(-1))
    missed = int(fetched_one((found.place < 0).sum()) or 0)
    known = found.filter(found.place >= 0)
    known = known.mutate(
        letter=known.teams.substr(known.place, 1), look=looks.index(ibis.greatest(known["at"], known.called))
    )
    once = known.group_by("x_user", "request", "item_id").aggregate(look=known.look.min(), letter=known.letter.min())
    return once.rename(user="x_user"), missed


def _changes(clicks: ir.Table) -> ir.Table:
    """One row for each look at which a user's sign changes: `user`, `look`, `before` and `after`."""
    mine, other = TEAMS
    credit = (clicks.letter == mine).cast("int32") - (clicks.letter == other).cast("int32")
    by_look = clicks.mutate(credit=credit).group_by("user", "look").aggregate(credit=ibis._.credit.sum())
    in_time = ibis.window(group_by="user", order_by="look", preceding=None, following=0)
    summed = by_look.mutate(sign=by_look.credit.sum().over(in_time).sign().cast("int32"))
    before = summed.sign.lag().over(ibis.window(group_by="user", order_by="look")).fill_null(0)
    signs = summed.select("user", "look", before=before.cast("int32"), after=summed.sign)
    return signs.filter(signs.before != signs.after)


def _preferences(changes: ir.Table, times: int) -> Preferences:
    """Users of each side at each time, and the sums of two times' signs, from what changes."""
    sides = []
    for sign in (1, -1):
        moved = (changes.after == sign).cast("int32") - (changes.before == sign).cast("int32")
        sides.append(_by_look(changes.mutate(n=moved).group_by("look").aggregate(n=ibis._.n.sum()), times))
    size = min(times, MOST_CHAINED)
    steps = np.zeros((size, size))
    one = changes.select("user", early=changes.look, step=changes.after - changes.before)
    one = one.filter(one.early < size)
    two = one.select("user", late="early", other="step")
    both = one.inner_join(two, "user")
    products = both.group_by("early", "late").aggregate(n=(both.step * both.other).sum())
    columns = columns_of(products)
    steps[columns["early"].astype(np.int64), columns["late"].astype(np.int64)] = columns["n"]
    return Preferences(sides[0], sides[1], steps.cumsum(axis=0).cumsum(axis=1))


def _by_look(counted: ir.Table, times: int) -> NDArray[np.int64]:
    """The sums up to each time of `n` by `look`: int64[times]."""
    columns, found = columns_of(counted), np.zeros(times, np.int64)
    found[columns["look"].astype(np.int64)] = columns["n"]
    return found.cumsum()


def _users(calls: ir.Table, times: int) -> NDArray[np.int64]:
    """How many different users there are up to each time."""
    first = calls.group_by("user").aggregate(look=calls.look.min())
    return _by_look(first.group_by("look").aggregate(n=first.count()), times)


def _picks(differing: ir.Table, times: int) -> NDArray[np.int64]:
    sides = []
    for team in TEAMS:
        mine = differing.filter(differing.picked == team)
        sides.append(_by_look(mine.group_by("look").aggregate(n=mine.count()), times))
    return np.stack(sides, axis=1)


def _counted(calls: ir.Table) -> InterleavedCalls:
    keyed = calls.select("kind", same=calls.picked == "")
    rows = fetched_rows(keyed.group_by("kind", "same").aggregate(n=keyed.count()))
    by_kind = {name: sum(row["n"] for row in rows if row["kind"] == number) for name, number in _KIND._asdict().items()}
    identical = sum(row["n"] for row in rows if row["kind"] == _KIND.merged and row["same"])
    return InterleavedCalls(identical=identical, **by_kind)


def _without_request(lines: LogTables, calls: ir.Table) -> int:
    """Clicks of the experiment's users that name no call."""
    alone = lines.outcomes
    alone = alone.filter(alone.type == "click", alone.request.isnull(), alone.user.notnull())
    return int(fetched_one(alone.semi_join(calls, "user").count()))


def _click_sums(merged: ir.Table, clicks: ir.Table) -> ClickSums:
    lists = merged.group_by("user").aggregate(z=merged.count())
    team = {name: (clicks.letter == letter).cast("int32") for name, letter in (("a", TEAMS[0]), ("b", TEAMS[1]))}
    acts = clicks.mutate(**team).group_by("user").aggregate(y=ibis._.count(), a=ibis._.a.sum(), b=ibis._.b.sum())
    users = lists.left_join(acts, "user")
    users = users.select(**{name: users[name].fill_null(0).cast("float64") for name in ("z", "y", "a", "b")})
    users = users.mutate(c=users.a - users.b)
    found = fetched_rows(
        users.aggregate(
            users=users.count(),
            **{name: users[name].sum() for name in ("z", "y", "a", "b")},
            **{one + two: (users[one] * users[two]).sum() for one, two in ("yy", "yz", "zz", "cc", "cz")},
        )
    )[0]
    number = {name: float(value or 0) for name, value in found.items()}
    return ClickSums(
        first=round(number["a"]),
        second=round(number["b"]),
        nobodys=round(number["y"] - number["a"] - number["b"]),
        users=round(number["users"]),
        z=number["z"],
        yy=number["yy"],
        yz=number["yz"],
        zz=number["zz"],
        cc=number["cc"],
        cz=number["cz"],
    )
