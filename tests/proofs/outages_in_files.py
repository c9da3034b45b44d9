"""Outages through the whole analysis: logs of four weeks as files, made without what the rule knows.

`./run prove outages_in_files [RUNS]` writes RUNS (30 by default) logs of people who come back, at 0.1 calls a second.
Each replica is killed once a day, for 0.2 to 60 s; some calls get a wrong answer or come too late in both groups alike.
How many are rolled back by four weeks' looks? In as many more logs the treatment crashes every two hours, and the
question is after how many hours that is rolled back. Some of the logs are of routers that do not write `failure`. Exit
code 1 where more than 1 % are rolled back falsely beyond chance at 0.1 %, or the median of what is found is more than
36 hours where a crash lasts for minutes.

Limits: without `failure` every wrong answer of control is held against it as an outage of its own, which hides a crash
every two hours. Calls at 0.1/s see few of the short outages, so that crashes of seconds are found late.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path

import numpy as np
from abfleet_analysis.analyse import analyse
from abfleet_experiments.file.load import load_text
from numpy.typing import NDArray
from scipy.stats import binom

from tests.analysis.log_lines import START, file_text

RUNS = 30
RATE = 0.1
SHARES = (0.5, 0.125)
PEOPLE = 4000
WRONG, LATE = 0.01, 0.005
Spans = NDArray[np.float64]


def out(random: np.random.Generator, days: float, *, a_day: float, seconds: tuple[float, float]) -> Spans:
    """When a version is out: seconds from the start, float64[outages, 2]."""
    begin = np.sort(random.uniform(0, days * 86_400, random.poisson(a_day * days)))
    low, high = seconds
    return np.stack([begin, begin + np.exp(random.uniform(np.log(low), np.log(high), len(begin)))], axis=1)


def lines(
    random: np.random.Generator, days: float, share: float, gone: tuple[Spans, Spans], *, says_why: bool
) -> Iterator[str]:
    """The log's lines, as a router writes them: a failed treatment falls back, the default gives an error.

    gone: When control and the treatment are out.
    """
    at = np.sort(random.uniform(0, days * 86_400, random.poisson(RATE * days * 86_400)))
    people = random.integers(0, PEOPLE, len(at))
    treated = (np.arange(PEOPLE) * 2654435761 % 2**32) / 2**32 < share
    groups = treated[people].astype(int)
    fates = random.uniform(size=len(at))
    missing = np.where(groups == 1, within(at, gone[1]), within(at, gone[0]))
    why = np.select(
        [missing, fates < WRONG, fates < WRONG + LATE], ["unavailable", "model_error", "timeout"], default=""
    )
    times = (np.datetime64(START.replace(tzinfo=None), "us") + (at * 1e6).astype("timedelta64[us]")).astype(str)
    rows = zip(times.tolist(), people.tolist(), groups.tolist(), why.tolist(), strict=True)
    for number, (time, person, group, reason) in enumerate(rows):
        yield (
            f'{{"schema":1,"event":"exposure","ts":"{time}Z","request_id":"r{number}","user_id":"u{person}",'
            f'"bucket":{person},{_CONSTANT},{_arm(group, share, reason, says_why)}}}\n'
        )


_CONSTANT = (
    '"layer":"default","experiment":"test","reason":"allocated","allocation":"000000000001","latency_ms":5.0,'
    '"items":[1],"history_length":3,"attributes":{},"config_revision":"000000000000","synthetic":false,'
    '"trace_id":null,"client":null,"router":"router-1"'
)


@cache
def _arm(group: int, share: float, reason: str, says_why: bool) -> str:  # a key of the cache
    """What all calls of a group that went the same way have."""
    version = ("v1", "v2")[group]
    members: dict[str, object] = {
        "group": ("control", "treatment")[group],
        "propensity": share if group else 1 - share,
        "model_version": version,
        "served_version": version if not reason else "v1" if group else None,
        "fallback": reason if reason and group else None,
        "attempts": 1 + bool(reason and group),
        "status": "OK" if group or not reason else "DEADLINE_EXCEEDED" if reason == "timeout" else "UNAVAILABLE",
    }
    if reason and says_why:
        members["failure"] = reason
    return json.dumps(members)[1:-1]


def within(at: NDArray[np.float64], spans: Spans) -> NDArray[np.bool_]:
    """Of each moment, ascending, whether it is in one of the spans, which may overlap: bool[moments]."""
    found = np.zeros(len(at), dtype=bool)
    for begin, end in spans.tolist():
        found[np.searchsorted(at, begin) : np.searchsorted(at, end)] = True
    return found


def rolled_back_after(
    random: np.random.Generator, days: float, share: float, gone: tuple[Spans, Spans], look: str, *, says_why: bool
) -> float:
    """Hours until the first look that rolls back; inf if none does."""
    text = file_text(guardrails=["error_rate"]).replace("look: 1d", f"look: {look}")
    text = text.replace("weight: 50", f"weight: {100 - share * 100:g}", 1).replace("weight: 50", f"weight: {share:.1%}")
    text = text.replace("%}", "}")
    with tempfile.TemporaryDirectory() as folder:
        with (Path(folder) / "decisions-host-20261101T000000-1.jsonl").open("w") as file:
            file.writelines(lines(random, days, share, gone, says_why=says_why))
        (report,) = analyse([Path(folder)], load_text(text), as_of=START + timedelta(days=days)).experiments
    hours = {"1d": 24.0, "1h": 1.0}[look]
    said = [look for look, (verdict, _) in enumerate(report.decision.history, 1) if verdict == "roll_back"]
    if not said and report.decision.verdict == "roll_back":
        return days * 24
    return said[0] * hours if said else np.inf


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints what became of the logs; 0 when every bound is kept."""
    parser = argparse.ArgumentParser(prog="./run prove outages_in_files", description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=RUNS)
    runs = parser.parse_args(arguments).runs
    missed = [*killed_once_a_day(runs), *crashing(runs)]
    for text in missed:
        print(f"MISSED: {text}", file=sys.stderr)
    print("missed" if missed else "held")
    return int(bool(missed))


def killed_once_a_day(runs: int) -> Iterator[str]:
    """Equally good versions, 28 days."""
    false = 0
    for run in range(runs):
        random = np.random.default_rng([5, run])
        gone = (out(random, 28, a_day=1, seconds=(0.2, 60)), out(random, 28, a_day=1, seconds=(0.2, 60)))
        false += np.isfinite(rolled_back_after(random, 28, SHARES[run % 2], gone, "1d", says_why=run % 4 < 2))
        print(f"  killed once a day, 28 days, {RATE}/s: rolled back {false} of {run + 1}", flush=True)
    if false > binom.ppf(0.999, runs, 0.01):
        yield f"rolled back falsely: {false} of {runs}"


def crashing(runs: int) -> Iterator[str]:
    """A treatment that is out every two hours, control never; control has wrong answers, as the treatment has."""
    for seconds, says_why, most in (((60, 300), True, 36), ((60, 300), False, None), ((8, 60), True, None)):
        for share in SHARES:
            found = []
            for run in range(runs):
                random = np.random.default_rng([6, int(share * 1000), int(seconds[0]), run])
                gone = (np.zeros((0, 2)), out(random, 4, a_day=12, seconds=seconds))
                found.append(rolled_back_after(random, 4, share, gone, "1h", says_why=says_why))
            median, late = np.quantile(found, [0.5, 0.9], method="higher")
            print(
                f"  a crash every 2 h for {seconds[0]} to {seconds[1]} s, share {share:.1%}, {RATE}/s, {runs} runs, "
                f"{'with' if says_why else 'without'} `failure`: "
                f"{median:.0f} h, 90 % by {late:.0f} h",
                flush=True,
            )
            if most is not None and share == SHARES[0] and median > most:
                yield f"crashes of {seconds} s, share {share:.1%}: {median:.0f} h, more than {most}"


if __name__ == "__main__":
    raise SystemExit(main())
