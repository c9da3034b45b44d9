"""From the shares of an experiment's groups to the buckets of each. Knows integers, and no names, times or users.

Groups are indexes in file order; one of them is the control. A share is a number of buckets out of 10,000. The other
groups, the treatments, each have a place of their own in the ring of buckets, and a direction:

- the first treatment starts at bucket 0 and goes up,
- the second starts at the top and goes down,
- further ones start at 5000, 2500, 7500, 1250, ... (the van der Corput points, so that each begins as far as possible
  from those before it) and go up, past the top to 0.

`fold` starts with all buckets in control and applies the rows of shares in order. In each row a treatment that shrinks
first lets go of what it would have taken last; then the treatments that grow, in file order, take what is free, nearest
to their place first; what is left falls to control. "Free" are the released buckets and, if control shrinks, any of
control's, but of these no more than control has to give.

Why the movement is minimal. Let R be what shrinking treatments release, G what growing treatments need, and d what
control loses (negative if it grows). Both rows sum to 10,000, so G = R + d. If d >= 0, the takers need exactly what is
free: at most R released ones and d of control's, hence all of both. If d < 0, they take G of the R released ones, and
control takes the other -d. Either way a bucket moves at most once, from a group that shrinks to one that grows, so the
number that moves is the sum of the increases; fewer cannot do, as each group that grows must gain its increase. Nothing
is ever taken from a treatment that does not shrink.

Why a plain edit is safe for two treatments. From all-control, the first treatment of share a takes [0, a), the second
of share b takes [10000 - b, 10000): there is room, since a + b <= 10,000. So whatever the edit, [0, a) is part of
[0, a') if a' >= a, and likewise at the top: nobody leaves a treatment that does not shrink. A user goes from the first
straight to the second only in the overlap of [0, a) and [10000 - b', 10000), which is a + b' - 10,000 buckets if that
is positive and none otherwise; the other way round the same.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from abfleet_experiments.bucketing import BUCKETS

_RELEASED = -1


class BucketRange(NamedTuple):
    """The buckets from `start` up to, and without, `end` belong to `group`."""

    start: int
    end: int
    group: int


class _Order(NamedTuple):
    """In which order a treatment takes buckets: round the ring from `anchor`, up or down."""

    anchor: int
    down: bool

    def reverse(self) -> "_Order":
        return _Order(self.anchor, not self.down)


def fold(rows: Sequence[Sequence[int]], *, control: int) -> tuple[BucketRange, ...]:
    """The buckets of each group after the rows of shares, applied in order.

    rows: int[row, group] in basis points, each row summing to 10,000; one row is a plain split without history.
    Returns runs in bucket order that cover 0 to 9,999 once; neighbours belong to different groups.
    """
    runs = [BucketRange(0, BUCKETS, control)]
    before = [0] * len(rows[0])
    before[control] = BUCKETS
    for row in rows:
        if sum(row) != BUCKETS or len(row) != len(before) or min(row) < 0:
            raise ValueError(
                f"a row of shares must be {len(before)} numbers of at least 0 that sum to {BUCKETS}, not {row}"
            )
        runs = _step(runs, before, row, control)
        before = list(row)
    return tuple(runs)


def table(runs: Sequence[BucketRange]) -> bytes:
    """The same as one group index for each of the 10,000 buckets."""
    return b"".join(bytes((run.group,)) * (run.end - run.start) for run in runs)


def _step(runs: list[BucketRange], before: Sequence[int], after: Sequence[int], control: int) -> list[BucketRange]:
    """One row's changes; leaves the runs that come in as they are."""
    runs = list(runs)
    treatments = [group for group in range(len(after)) if group != control]
    orders = dict(zip(treatments, _orders(), strict=False))
    released = 0
    for group in treatments:
        if (loss := before[group] - after[group]) > 0:
            _hand_over(runs, {group: loss}, loss, to=_RELEASED, order=orders[group].reverse())
            released += loss
    free = {_RELEASED: released, control: max(0, before[control] - after[control])}
    for group in treatments:
        if (gain := after[group] - before[group]) > 0:
            _hand_over(runs, free, gain, to=group, order=orders[group])
    return _joined(run._replace(group=control) if run.group == _RELEASED else run for run in runs)


def _hand_over(runs: list[BucketRange], free: dict[int, int], count: int, *, to: int, order: _Order) -> None:
    """Gives `count` buckets `to` a group, in its order, from the owners that `free` lists.

    Changes the runs in place, which stay in bucket order, and counts `free` down.
    """
    taken_from: list[tuple[int, BucketRange, BucketRange]] = []
    for index in _ring(runs, order):
        run = runs[index]
        taken = min(free.get(run.group, 0), run.end - run.start, count)
        if taken:
            free[run.group] -= taken
            count -= taken
            cut = run.end - taken if order.down else run.start + taken
            low, high = (run.group, to) if order.down else (to, run.group)
            taken_from.append((index, BucketRange(run.start, cut, low), BucketRange(cut, run.end, high)))
        if not count:
            break
    assert count == 0, "the shares of a row sum to 10,000, so what groups gain is free"
    for index, low_run, high_run in sorted(taken_from, reverse=True):
        runs[index : index + 1] = [run for run in (low_run, high_run) if run.start < run.end]


def _ring(runs: list[BucketRange], order: _Order) -> list[int]:
    """The indexes of the runs in the order in which a treatment meets them; cuts the run at its anchor in two."""
    first = bisect_left(runs, order.anchor, key=lambda run: run.start)
    if first and (before := runs[first - 1]).end > order.anchor:
        runs[first - 1 : first] = [before._replace(end=order.anchor), before._replace(start=order.anchor)]
    ring = [*range(first, len(runs)), *range(first)]
    return ring[::-1] if order.down else ring


def _joined(runs: Iterable[BucketRange]) -> list[BucketRange]:
    """The runs, neighbours of one group made one."""
    joined: list[BucketRange] = []
    for run in runs:
        if joined and joined[-1].group == run.group:
            joined[-1] = BucketRange(joined[-1].start, run.end, run.group)
        else:
            joined.append(run)
    return joined


def _orders() -> Iterator[_Order]:
    """The places of the first treatment, the second, and so on without end."""
    yield _Order(0, down=False)
    yield _Order(0, down=True)
    number = 1
    while True:
        bits = number.bit_length()
        mirrored = int(f"{number:0{bits}b}"[::-1], 2)
        yield _Order(mirrored * BUCKETS >> bits, down=False)
        number += 1
