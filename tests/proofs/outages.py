"""What the guardrail on errors does with outages, lasting harm and no harm at all, through the product's own functions.

`./run prove outages [RUNS]` draws RUNS (100 by default) made-up experiments a cell and prints how many are rolled back
falsely, or after how many hours harm is found. Replicas are killed at random, once a day each, for 0.2 to 60 s; wrong
answers are Poisson, each of another user. A version that crashes is gone for 8 to 60 s, as ejection's back-off has it.
The numbers stand beside what was simulated before the rule was built, without the product. Exit code 1 where a bound
is missed beyond chance at 0.1 %.

Limits: users come once; what shares no cause is independent; blocks are looked at when they end.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from abfleet_analysis.decision.evidence import BadEvents, Blocks, PairOutages
from abfleet_analysis.decision.guardrail_paths import guardrail_path
from abfleet_statistics import guardrails, outages
from abfleet_statistics.blocks import BLOCK_SECONDS
from abfleet_statistics.guardrails import Floats
from abfleet_statistics.outages import DAY_US, SECOND, GroupOutages, Times
from numpy.typing import NDArray
from scipy.stats import binom

RUNS = 100
DAYS = 28
BLOCK_US = BLOCK_SECONDS * SECOND
HORIZON = DAYS * DAY_US // BLOCK_US
ACTS = -np.log(guardrails.ALPHA)
SHARES = (0.01, 0.05, 0.20, 0.50)
RATES = (1.0, 40.0)


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many a treatment and control have, and what a caller sees of one that is out.

    Attributes:
        redundant: Only all of control's replicas at once are an outage, which never happens here.
        shared: Whatever breaks breaks both versions.
        known: Whether the experiments file has addresses; where it has names, nothing is promised of a treatment with
            more replicas than control.
    """

    name: str
    treatment: int
    control: int
    redundant: bool = False
    shared: bool = False
    known: bool = True


SETTINGS = (
    Replicas("1 v 1", 1, 1),
    Replicas("1 v 1, all of it shared", 1, 1, shared=True),
    Replicas("1 v 3, each seen", 1, 3),
    Replicas("1 v 3, redundant", 1, 3, redundant=True),
    Replicas("3 v 1, each seen", 3, 1),
    Replicas("3 v 1, names only", 3, 1, known=False),
)


@dataclass(frozen=True, slots=True)
class Harm:
    """Where a treatment's users fail more often, and after how many hours the tables say that is found.

    Attributes:
        hours: By ratio, from the start and after seven good days.
    """

    share: float
    base: float
    rate: float
    hours: dict[float, tuple[float, float]]


HARMS = (
    Harm(0.125, 0.01, 1.0, {2.0: (12.7, 20.7), 3.0: (3.3, 5.8), 5.0: (1.5, 2.7)}),
    Harm(0.125, 0.01, 40.0, {2.0: (1.1, 2.0), 3.0: (1.0, 1.8), 5.0: (0.8, 1.8)}),
    Harm(0.125, 0.01, 1000.0, {2.0: (1.0, 2.0), 3.0: (1.0, 1.8), 5.0: (0.8, 1.8)}),
    Harm(0.05, 0.005, 1.0, {2.0: (44.0, 76.0), 3.0: (12.1, 19.0), 5.0: (4.4, 7.2)}),
    Harm(0.05, 0.005, 40.0, {2.0: (2.2, 4.0), 3.0: (1.0, 2.0), 5.0: (1.0, 1.8)}),
    Harm(0.05, 0.005, 1000.0, {2.0: (1.0, 2.0), 3.0: (1.0, 1.8), 5.0: (0.8, 1.8)}),
)


# --- made-up experiments ----------------------------------------------------------------------------------------------


def wrong_answers(random: np.random.Generator, *, rate: float, share: float, base: float, ratios: Floats) -> BadEvents:
    """Users with a wrong answer. ratios: float64[blocks], how much more often they are the treatment's."""
    seconds = rate * base * BLOCK_SECONDS
    counts = np.stack(
        [random.poisson(seconds * (1 - share), len(ratios)), random.poisson(seconds * share * ratios)], axis=1
    ).astype(np.float64)
    return events_in_blocks(counts, share)


def events_in_blocks(counts: Floats, share: float) -> BadEvents:
    """Users with a first bad event by block, all known at the report."""
    block = np.arange(len(counts))
    blocks = Blocks((block + 1) * BLOCK_US - 1, BLOCK_US, 0, HORIZON)
    return BadEvents(block * 0, counts, np.tile([1 - share, share], (len(counts), 1)), blocks)


def killed(
    random: np.random.Generator, replicas: int, *, a_day: float = 1.0, shortest_s: float = 0.2
) -> list[tuple[int, int]]:
    """When replicas were out: begin and end."""
    number = random.poisson(a_day * replicas * DAYS)
    begin = np.sort(random.uniform(0, DAYS * DAY_US, number))
    length = np.exp(random.uniform(np.log(shortest_s), np.log(60), number)) * SECOND
    return list(zip(begin.astype(int).tolist(), (begin + length).astype(int).tolist(), strict=True))


def group_outages(random: np.random.Generator, out: Sequence[tuple[int, int]], *, rate: float) -> GroupOutages:
    """What calls at random saw of it, those of a second together, as they come from a log."""
    calls: list[NDArray[np.float64]] = [
        random.uniform(begin, end, random.poisson(rate * (end - begin) / SECOND)) for begin, end in out
    ]
    at = np.sort(np.concatenate([*calls, np.zeros(0)])).astype(np.int64)
    found = GroupOutages()
    for second in np.split(at, np.flatnonzero(np.diff(at // SECOND)) + 1):
        if len(second):
            found.see(int(second[0]), int(second[-1]), len(second))
    return found


def pair_of(
    treatment: GroupOutages, control: GroupOutages, share: float, replicas: tuple[int, int] | None
) -> PairOutages:
    """Both groups' outages as evidence."""
    counted = outages.counted_of_both(treatment, control, 2 * DAYS * DAY_US)
    shares = np.full(len(counted.at), share)
    return PairOutages(
        time=counted.at * 0,
        known_us=counted.known,
        of_treatment=counted.of_treatment,
        shared=counted.shared,
        share=outages.equal_share(replicas, shares, 1 - shares),
        began_us=0,
        replicas=replicas,
        outages=(tuple(treatment.outages), tuple(control.outages)),
    )


def out_in_both(
    random: np.random.Generator, setting: Replicas, *, rate: float, share: float
) -> tuple[GroupOutages, GroupOutages]:
    """What a treatment's and control's callers see of replicas that are killed once a day each."""
    mine = killed(random, setting.treatment)
    others = mine if setting.shared else [] if setting.redundant else killed(random, setting.control)
    return (
        group_outages(random, mine, rate=rate * share),
        group_outages(random, others, rate=rate * (1 - share)),
    )


# --- what comes of them -----------------------------------------------------------------------------------------------

NOTHING_WRONG = events_in_blocks(np.zeros((0, 2)), 0.5)
NOBODY_OUT = pair_of(GroupOutages(), GroupOutages(), 0.5, None)


def acts(events: BadEvents, pair: PairOutages) -> bool:
    """Whether the guardrail ever acts."""
    return bool(guardrail_path(events, 1, 0, pair).log_e[-1] >= ACTS)


def acts_as_before(pair: PairOutages, share: float) -> bool:
    """Whether it would act by users alone, as it did: each call of an outage is another user's failure."""
    calls = sorted(
        (one.begin, one.calls * mine, one.calls * (1 - mine))
        for mine, found in zip((1, 0), pair.outages, strict=True)
        for one in found
    )
    if not calls:
        return False
    _, treatment, control = np.array(calls, dtype=np.float64).T
    return bool(guardrails.acts(guardrails.log_e_process(treatment, control, np.full(len(calls), share)))[-1])


def falsely(runs: int, setting: Replicas, *, rate: float, share: float) -> tuple[int, int]:
    """Runs that are rolled back though versions are equally good, and those that would have been before."""
    now = before = 0
    for run in range(runs):
        random = np.random.default_rng([1, SETTINGS.index(setting), int(rate), int(share * 100), run])
        replicas = (setting.treatment, setting.control) if setting.known else None
        pair = pair_of(*out_in_both(random, setting, rate=rate, share=share), share, replicas)
        now += acts(NOTHING_WRONG, pair)
        before += acts_as_before(pair, share)
    return now, before


def false_at_the_tolerated(runs: int, *, rate: float, share: float, base: float = 0.01) -> int:
    """Runs of four weeks that are rolled back at 1.25 times as many wrong answers."""
    ratios = np.full(HORIZON, 1.25)
    return sum(
        acts(
            wrong_answers(
                np.random.default_rng([2, int(rate), int(share * 1000), run]),
                rate=rate,
                share=share,
                base=base,
                ratios=ratios,
            ),
            NOBODY_OUT,
        )
        for run in range(runs)
    )


def hours_until(runs: int, harm: Harm, ratio: float, *, good_days: int, most_hours: float) -> Floats:
    """After how many hours of harm each run is rolled back: float64[runs]; inf if not within `most_hours`."""
    good, bad = good_days * DAY_US // BLOCK_US, int(most_hours * 3600 / BLOCK_SECONDS)
    ratios = np.repeat([1.0, ratio], [good, bad])
    return np.array([_hours(harm, ratios, good, run) for run in range(runs)])


def _hours(harm: Harm, ratios: Floats, good: int, run: int) -> float:
    random = np.random.default_rng([3, int(harm.rate), int(harm.share * 1000), int(ratios[-1]), good, run])
    events = wrong_answers(random, rate=harm.rate, share=harm.share, base=harm.base, ratios=ratios)
    return (first_time(events, NOBODY_OUT) - good * BLOCK_US) / (3600 * SECOND)


def first_time(events: BadEvents, pair: PairOutages) -> float:
    """When the guardrail acts, in microseconds: each step and each outage is a look of its own."""
    assert events.blocks is not None
    at = np.unique(np.concatenate([events.blocks.at_us, pair.known_us]))
    looking = BadEvents(
        np.searchsorted(at, events.blocks.at_us), events.counts, events.shares, events.blocks, events.control
    )
    path = guardrail_path(looking, 1, len(at), _at_looks(pair, at)).log_e
    acted = np.flatnonzero(path >= ACTS)
    return float(at[min(acted[0], len(at) - 1)]) if len(acted) else np.inf


def _at_looks(pair: PairOutages, at: Times) -> PairOutages:
    return PairOutages(
        np.searchsorted(at, pair.known_us),
        pair.known_us,
        pair.of_treatment,
        pair.shared,
        pair.share,
        pair.began_us,
        pair.replicas,
        pair.outages,
    )


def hours_of_crashes(runs: int, every_hours: float, *, control_a_day: float = 0.0) -> Floats:
    """After how many hours a treatment that crashes so often is rolled back, at 40 calls a second, share 12.5 %."""
    found = []
    for run in range(runs):
        random = np.random.default_rng([4, int(every_hours * 10), int(control_a_day), run])
        mine = group_outages(random, killed(random, 1, a_day=24 / every_hours, shortest_s=8.0), rate=5.0)
        control = group_outages(random, killed(random, 1, a_day=control_a_day, shortest_s=8.0), rate=35.0)
        found.append(first_time(NOTHING_WRONG, pair_of(mine, control, 0.125, (1, 1))) / (3600 * SECOND))
    return np.array(found)


# --- the tables -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints every table; 0 when every bound is kept."""
    parser = argparse.ArgumentParser(prog="./run prove outages", description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=RUNS, help="Experiments a cell.")
    runs = parser.parse_args(arguments).runs
    missed = [*nulls(runs), *killed_once_a_day(runs), *crashing(runs), *harmed(runs)]
    for line in missed:
        print(f"MISSED: {line}", file=sys.stderr)
    print("missed" if missed else "held")
    return int(bool(missed))


def above(count: int, runs: int, most: float) -> bool:
    """Whether a count is more than a share allows, beyond chance at 0.1 %."""
    return bool(count > binom.ppf(0.999, runs, most))


def nulls(runs: int) -> Iterator[str]:
    """Four weeks at the tolerated ratio."""
    print(f"28 days at 1.25 times as many wrong answers, base 1 %, {runs} runs: rolled back falsely (bound 0.5 %)")
    for share in (0.05, 0.125):
        for rate in RATES:
            count = false_at_the_tolerated(runs, rate=rate, share=share)
            print(f"  share {share:.1%}, {rate:g}/s: {count / runs:.1%}", flush=True)
            if above(count, runs, 0.005):
                yield f"no harm, share {share:.1%}, {rate:g}/s: {count} of {runs}"


def killed_once_a_day(runs: int) -> Iterator[str]:
    """Versions that are equally good, each replica out once a day."""
    print(f"each replica killed once a day, 28 days, {runs} runs: rolled back falsely, % (before)")
    print(f"  {'replicas':<26}{'calls/s':>8}" + "".join(f"{share:>14.0%}" for share in SHARES))
    for setting in SETTINGS:
        for rate in RATES:
            cells = [falsely(runs, setting, rate=rate, share=share) for share in SHARES]
            text = "".join(f"{now / runs * 100:>8.1f} ({before / runs * 100:.0f})".rjust(14) for now, before in cells)
            print(f"  {setting.name:<26}{rate:>8g}{text}", flush=True)
            for share, (now, _) in zip(SHARES, cells, strict=True):
                if setting.known and above(now, runs, 0.01):
                    yield f"{setting.name}, {rate:g}/s, share {share:.0%}: {now} of {runs}"


def crashing(runs: int) -> Iterator[str]:
    """A treatment that crashes, and control never or once a day."""
    print(f"a version that crashes, {runs} runs: hours until it is rolled back, median and 90 % (tables)")
    for every, control, said, most in (
        (0.5, 0.0, 7, 12),
        (2.0, 0.0, 28, 36),
        (2.0, 1.0, 36, None),
        (8.0, 0.0, 144, None),
    ):
        found = hours_of_crashes(runs, every, control_a_day=control)
        median, late = np.quantile(found, [0.5, 0.9], method="higher")
        print(f"  every {every:g} h, control {control:g} a day: {median:.1f}, {late:.1f} ({said})", flush=True)
        if most is not None and median > most:
            yield f"crashes every {every:g} h: {median:.1f} h, more than {most}"


def harmed(runs: int) -> Iterator[str]:
    """More wrong answers from the start, and after a week in which all was well."""
    print(f"more wrong answers, {runs} runs: median hours until it is rolled back (tables)")
    for harm in HARMS:
        for ratio, said in harm.hours.items():
            cells = []
            for days, hours in zip((0, 7), said, strict=True):
                found = float(np.median(hours_until(runs, harm, ratio, good_days=days, most_hours=hours * 3 + 2)))
                cells.append(f"{found:.1f} ({hours:g})")
                if found > hours * 1.25 + 0.34:  # two blocks, and what a median of so few runs is uncertain by
                    yield f"{harm}, {ratio:g} times: {found:.1f} h after {days} good days, {hours} in the tables"
            print(
                f"  share {harm.share:.1%}, base {harm.base:.1%}, {harm.rate:g}/s, {ratio:g} times: from the start "
                f"{cells[0]}, after 7 good days {cells[1]}",
                flush=True,
            )


if __name__ == "__main__":
    raise SystemExit(main())
