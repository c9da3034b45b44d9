"""Movement: exact where it can be worked out by hand, and as counted over users where it cannot."""

import math
from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
from abfleet_experiments.assign import Assigner
from abfleet_experiments.file.load import load_text
from abfleet_experiments.movement import Movement, Placement, movement, movement_of
from hypothesis import given, settings

from tests.experiments.strategies import START, days, files, percent, ramps, text_of

HEAD = "version: 1\ndefault: v1\nmodels: {v1: {target: 'h:1'}, v2: {target: 'h:2'}, v3: {target: 'h:3'}}\n"
NOWHERE = Placement(None, None, "v1")


def _file(*weights: float, more: str = "", top: str = "") -> str:
    names, models = ("control", "experiment", "canary"), ("v1", "v2", "v3")
    groups = ", ".join(
        f"{{name: {n}, model: {m}, weight: {w}}}" for n, m, w in zip(names, models, weights, strict=False)
    )
    return f"{HEAD}{top}\nexperiments:\n  - {{name: e, {more}groups: [{groups}]}}\n"


def _move(old: str, new: str, at: datetime = START) -> Movement:
    return movement(load_text(old), at, load_text(new), at)


def _pairs(moving: Movement) -> Mapping[tuple[str | None, str | None], Fraction]:
    return {(f.before.group, f.after.group): f.share for f in moving.flows if f.before != f.after}


def test_growing_the_canary() -> None:
    """70/20/10 to 60/20/20 moves exactly 10 %, from control to canary."""
    moving = _move(_file(70, 20, 10), _file(60, 20, 20))
    assert _pairs(moving) == {("control", "canary"): Fraction(1, 10)}
    assert moving.moved == moving.out_of_analysis == moving.version_changed == Fraction(1, 10)
    assert (moving.entered, moving.left) == (0, 0)


def test_nothing_changes() -> None:
    """A file against itself moves nobody."""
    assert _move(_file(70, 20, 10), _file(70, 20, 10)).moved == 0


def test_a_new_salt_deals_anew() -> None:
    """Under two salts groups are independent: 1 - (0.7² + 0.2² + 0.1²) = 46 % change."""
    assert _move(_file(70, 20, 10), _file(70, 20, 10, more="salt: other, ")).moved == Fraction(46, 100)


def test_more_traffic_only_adds() -> None:
    """From 10 % to 25 % of the layer, 15 % enter, and nobody changes group."""
    moving = _move(_file(70, 20, 10, more="traffic: 10, "), _file(70, 20, 10, more="traffic: 25, "))
    assert (moving.entered, moving.left, moving.out_of_analysis) == (Fraction(15, 100), 0, 0)
    assert moving.version_changed == Fraction(15, 100) * Fraction(3, 10)


def test_a_holdout_takes_its_share_of_each_group() -> None:
    """5 % held out leave every group in proportion."""
    moving = _move(_file(70, 20, 10), _file(70, 20, 10, top="holdout: {percent: 5}"))
    assert _pairs(moving) == {
        (group, None): Fraction(5, 100) * Fraction(share, 100)
        for group, share in (("control", 70), ("experiment", 20), ("canary", 10))
    }


def test_a_holdout_of_all_but_one_bucket() -> None:
    """The last bucket alone is not held out: one user in 10,000."""
    moving = _move(_file(100), _file(100, top="holdout: {percent: 99.99}"))
    assert moving.left == Fraction(9999, 10_000)


def test_a_model_changed_in_place_moves_nobody_but_changes_versions() -> None:
    """Group and version are counted apart."""
    moving = _move(_file(70, 20, 10), _file(70, 20, 10).replace("model: v2", "model: v3"))
    assert (moving.moved, moving.version_changed) == (0, Fraction(20, 100))


@settings(max_examples=100, deadline=None)
@given(ramps(most_groups=5))
def test_a_ramp_row_moves_the_sum_of_the_increases(ramp: tuple[int, list[tuple[int, ...]]]) -> None:
    """With 40 % traffic and 10 % held out, a row moves 36 % of what its shares gain, no more and no less."""
    control, rows = ramp
    rows = [row for index, row in enumerate(rows) if not index or row != rows[index - 1]]
    lines = "".join(
        f"      - {{at: 2026-11-{day:02d}T00:00:00Z, "
        + ", ".join(f"g{index}: {percent(share)}" for index, share in enumerate(row))
        + "}\n"
        for day, row in enumerate(rows, start=1)
    )
    groups = "".join(
        f"      - {{name: g{index}, model: v{index % 3 + 1}, weight: {percent(share)}, "
        f"control: {str(index == control).lower()}}}\n"
        for index, share in enumerate(rows[-1])
    )
    top = f"{HEAD}holdout: {{percent: 10}}\nexperiments:\n  - name: e\n    traffic: 40\n"
    config = load_text(f"{top}    groups:\n{groups}    ramp:\n{lines}")
    for day, (was, now) in enumerate(pairwise(rows), start=1):
        gains = sum(max(0, after - before) for before, after in zip(was, now, strict=True))
        moving = movement(config, days(day - 1), config, days(day))
        assert moving.moved == Fraction(gains, 10_000) * Fraction(36, 100)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(files(), files())
def test_exact_shares_are_what_users_show(old: dict[str, Any], new: dict[str, Any]) -> None:
    """Any two files with layers, holdouts, halts and salts: shares sum to 1, and 4,000 users agree within six sigma."""
    for file in (old, new):
        for experiment in file["experiments"]:
            experiment["audience"], experiment["overrides"] = {}, {}
    before, after = load_text(text_of(old)), load_text(text_of(new))
    moving = movement(before, START, after, START)
    assert sum(flow.share for flow in moving.flows) == 1
    users = [f"u{number}" for number in range(4000)]
    counted = movement_of(users, Assigner(before, START), Assigner(after, START), {})
    seen = {(f.before, f.after): f.share for f in counted.flows}
    exact = {(f.before, f.after): f.share for f in moving.flows}
    assert seen.keys() <= exact.keys()
    for pair, share in exact.items():
        sigma = math.sqrt(share * (1 - share) / len(users))
        assert abs(seen.get(pair, Fraction(0)) - share) <= 6 * sigma + Fraction(2, len(users))


def test_counted_users_are_told_one_for_one() -> None:
    """Over given users the shares are counts: each of 10,000 is asked of the old and of the new file."""
    old, new = load_text(_file(70, 20, 10)), load_text(_file(55, 20, 25))
    users = [f"user-{number}" for number in range(10_000)]
    before, after = Assigner(old, START), Assigner(new, START)
    moved = sum(before.assign(u, {})[0].group != after.assign(u, {})[0].group for u in users)
    assert movement_of(users, before, after, {}).moved == Fraction(moved, 10_000)
    with pytest.raises(ValueError, match="no users"):
        movement_of([], before, after, {})


def test_shares_before_and_after() -> None:
    """Shares at each place sum over the flows."""
    moving = _move(_file(70, 20, 10, more="traffic: 50, "), _file(60, 30, 10, more="traffic: 50, "))
    assert moving.shares_before()[NOWHERE] == moving.shares_after()[NOWHERE] == Fraction(1, 2)
    assert moving.shares_before()[Placement("e", "experiment", "v2")] == Fraction(1, 10)
    assert moving.shares_after()[Placement("e", "experiment", "v2")] == Fraction(15, 100)
