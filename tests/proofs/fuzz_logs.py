"""Logs drawn at random, with what goes wrong in the field, through the analysis and the real command.

`./run prove fuzz-logs --logs 2000 --command 200` draws 2,000 logs of one to three experiments with two allocations and
a fault each, analyses them in one process, and 200 of them with `abfleet analyze --json` as well. The generator knows
the file, the assignment and the log's fields, and nothing of the analysis (tests/support/fuzzed_log.py); what is true
of a log is counted in plain Python (tests/support/fuzzed_truth.py). Invariants, which `--skip NAME` leaves out:

- `crash`: no traceback, in no form of the report;
- `evidence`: nothing is shipped, rolled back or stopped without users in both groups, or without data of the metric;
- `history`: the report of a day and the newest one say the same of the looks up to that day; with `quantiles` also of
  quantile metrics, with `currencies` also of money where there is more than one currency. Not of the split where
  neither the file nor a line says an allocation's shares, and later calls say more of them. And where nothing
  describes an allocation, its few calls are strays beside those of described ones until there are more: users differ by
  these alone, and looks begin later if they were the first calls;
- `truth`: counts and values are those that were counted by hand;
- `order`: lines and files in another order, in more files, or compacted, give the same report;
- `user`: without one user's lines no group has lost more than one user, and more calls than that user's;
- `clock`: one line with a wrong clock changes no verdict, and no look.

A seed that fails prints what failed and how to run it again; exit code 1.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np
from abfleet_analysis.analyse import analyse
from abfleet_analysis.decision.measurements import measure
from abfleet_analysis.report.markdown import markdown
from abfleet_analysis.report.paths import paths
from abfleet_analysis.report.render import rendered
from abfleet_analysis.report.report import ExperimentReport, Report
from abfleet_log.files import WriterIdentity
from abfleet_log.tools.compact import compact
from rich.console import Console

from tests.support.fuzzed_log import DAY, START, FuzzedLog, Record, config_of, fuzzed, time_text, write
from tests.support.fuzzed_truth import first_ones, truths

INVARIANTS: Final = ("crash", "evidence", "history", "quantiles", "currencies", "truth", "order", "user", "clock")
DECIDED: Final = ("ship", "check_first", "roll_back", "stop_no_effect")
SUM_DIGITS: Final = 1e-7
BOUNDARY_DIGITS: Final = 1e-3
"""A boundary is of three digits of how much a look adds: the last digit of a sum, which threads change, may tip one."""
OUTCOMES: Final = {
    "ctr": ("click",),
    "conversion_rate": ("conversion",),
    "revenue_per_user": ("purchase",),
    "plays": ("play",),
    "spent": ("spend",),
    "liked": ("like",),
    "finished": ("finish", "play"),
}
"""By metric, the outcome types without which there is nothing to decide by."""


class Broken(AssertionError):
    """An invariant does not hold; the message says which, and how."""


def check(log: FuzzedLog, wanted: Sequence[str], *, command: bool = False) -> Report:
    """Tries a log; the report of it. Raises Broken."""
    with tempfile.TemporaryDirectory(prefix="abfleet-fuzz-") as name:
        folder = log.write(Path(name))
        report = _analysed(log, folder, detailed=log.seed % 7 == 0)
        _shown(report)
        if "evidence" in wanted:
            _evidence(log, report)
        if "truth" in wanted and log.exact:
            _truth(log, report)
        if "history" in wanted:
            day = Random(log.seed).randint(1, log.days - 1)
            _history(report, _analysed(log, folder, START + DAY * day), wanted)
        if command:
            _command(log, folder, report)
        variation = VARIATIONS[log.seed % len(VARIATIONS)]
        if variation.__name__.split("_")[1] in wanted:
            variation(log, report)
    return report


def _analysed(log: FuzzedLog, folder: Path, as_of: datetime | None = None, *, detailed: bool = False) -> Report:
    try:
        return analyse([folder], config_of(log), as_of=as_of, detailed=detailed)
    except Exception as error:
        raise Broken(f"crash: {type(error).__name__}: {error} (as of {as_of})") from error


def _shown(report: Report) -> None:
    try:
        json.dumps(report.as_dict(detailed=True), allow_nan=False)
        markdown(report)
        with open("/dev/null", "w", encoding="utf-8") as out:
            Console(file=out, width=100).print(rendered(report))
    except Exception as error:
        raise Broken(f"crash: {type(error).__name__}: {error}") from error


def _evidence(log: FuzzedLog, report: Report) -> None:
    """Nothing is decided by what is not there."""
    kinds = Counter(record["type"] for record in log.named("outcome"))
    for one in report.experiments:
        primary = next(m.rule.name for m in one.gathered.evidence.metrics if m.rule.role == "primary")
        users = dict(zip(one.gathered.evidence.groups, one.gathered.evidence.users[-1].tolist(), strict=True))
        newest = one.gathered.evidence.newest_users
        if newest is not None:
            users = {group: users[group] + more for group, more in zip(users, newest.tolist(), strict=True)}
        for group in one.decision.groups:
            decided = str(group.verdict) in DECIDED
            if decided and not (users[group.group] and users[one.gathered.evidence.groups[0]]):
                raise Broken(
                    f"evidence: {one.name}: {group.verdict} of {group.group}, and a group has no users: {users}"
                )
            by_primary = decided and not any("guardrail" in why or "answer" in why for why in group.reasons)
            if by_primary and not all(kinds[kind] for kind in OUTCOMES.get(primary, ())):
                raise Broken(f"evidence: {one.name}: {group.verdict} by {primary}, of which there is no outcome")


def _history(newest: Report, earlier: Report, wanted: Sequence[str]) -> None:
    """The looks that both know are the same in both."""
    now = {one.name: one for one in newest.experiments}
    for then in earlier.experiments:
        one = now[then.name]
        left = _left_alone(newest, wanted) & {metric.rule.name for metric in one.gathered.evidence.metrics}
        looks = then.gathered.looks.calendar.done
        if _groups(then)[0] != _groups(one)[0] and not any(made.described for made in then.gathered.allocations):
            continue
        strays = _strays_learnt(then, one)
        if then.gathered.looks.times[:looks] != one.gathered.looks.times[:looks]:
            if strays:
                continue
            raise Broken(f"history: {one.name}: the looks of {earlier.as_of} are at other times")
        mine, theirs = _paths(one), _paths(then)
        if strays:
            for name in (name for name in theirs if name[0] == "users"):
                if np.abs(theirs[name][:looks] - mine[name][:looks]).max(initial=0) > strays:
                    raise Broken(f"history: {one.name}: more users than calls of a new allocation: {' '.join(name)}")
            continue
        if _shares_learnt(then, one):
            left |= {"split"}
        for name in theirs:
            digits = BOUNDARY_DIGITS if name[-1] in ("better_at", "worse_at") else SUM_DIGITS
            if name[0] not in left and not np.allclose(
                theirs[name][:looks], mine[name][:looks], rtol=digits, atol=1e-9, equal_nan=True
            ):
                raise Broken(
                    f"history: {one.name}: {' '.join(name)}: as of {earlier.as_of} {theirs[name][:looks]}, now "
                    f"{mine[name][:looks]}"
                )
        if not left and then.decision.history != one.decision.history[:looks]:
            raise Broken(
                f"history: {one.name}: as of {earlier.as_of} {_words(then.decision.history)}, now "
                f"{_words(one.decision.history[:looks])}"
            )


def _left_alone(report: Report, wanted: Sequence[str]) -> set[str]:
    """Metrics whose looks are not compared, nor the verdicts of experiments that have them."""
    foreign = any(one.gathered.evidence.quality.other_currencies for one in report.experiments)
    left = {"response_time_p95"} if "quantiles" not in wanted else set()
    return left | ({"revenue_per_user"} if foreign and "currencies" not in wanted else set())


def _strays_learnt(then: ExperimentReport, one: ExperimentReport) -> int:
    """Calls of an allocation that one of the reports knows and the other takes for strays; 0 where there are none."""
    as_of = then.gathered.looks.times[-1]
    before = {made.id for made in then.gathered.allocations}
    now = {made.id for made in one.gathered.allocations if made.begin <= as_of}
    reports = (then, one) if before != now else ()
    return sum(report.gathered.evidence.quality.unknown_allocation for report in reports)


def _shares_learnt(then: ExperimentReport, one: ExperimentReport) -> bool:
    """Whether calls alone say the shares of an allocation, and the later ones have said more."""
    before = {allocation.id: allocation.weights for allocation in then.gathered.allocations}
    now = {allocation.id: allocation.weights for allocation in one.gathered.allocations}
    most = len(_groups(one))
    return any(
        not np.allclose(np.pad(before[name], (0, most - len(before[name]))), now[name])
        for name in before
        if name in now
    )


def _words(history: Sequence[tuple[object, object]]) -> str:
    return ", ".join(f"{verdict} {group or ''}".strip() for verdict, group in history)


def _paths(one: ExperimentReport) -> dict[tuple[str, ...], Any]:
    """What is measured at each time, by metric and group."""
    found = paths(measure(one.gathered.evidence, one.plan), one.gathered.looks.times)
    named: dict[tuple[str, ...], Any] = {("users", group): found.users[:, g] for g, group in enumerate(_groups(one))}
    named[("split",)] = found.ratio_log_e
    for metric in found.metrics:
        for name in ("relative_difference", "low", "high", "better_at", "worse_at", "log_e"):
            named[metric.metric, metric.group, name] = getattr(metric, name)
    return named


def _groups(one: ExperimentReport) -> tuple[str, ...]:
    return one.gathered.evidence.groups


def _truth(log: FuzzedLog, report: Report) -> None:
    """Counts and values are those counted by hand."""
    expected, repeats = truths(log)
    junk = sum(isinstance(line, bytes) for file in log.files for line in file)
    lines = sum(len(file) for file in log.files)
    document: Any = report.as_dict()
    _same("log", document["log"], {"lines": lines, "unreadable": junk, "duplicates": repeats})
    for one in document["experiments"]:
        truth = expected[one["name"]]
        _same(f"{one['name']} data_quality", one["data_quality"], truth.quality)
        for group in one["groups"]:
            facts = tuple(group[key] for key in ("users", "exposures", "fallbacks", "errors"))
            wanted = truth.groups.get(group["name"], facts)
            if facts != wanted:
                raise Broken(f"truth: {one['name']} {group['name']}: {facts}, and should be {wanted}")
        for metric in one["metrics"]:
            key = (metric["name"], metric["group"])
            if key not in truth.metrics:
                continue
            wanted_values = truth.metrics[key]
            shown = (metric["value"], metric["baseline_value"])
            if wanted_values is None:
                continue
            if None in shown or not all(
                math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(shown, wanted_values, strict=True)
            ):
                raise Broken(f"truth: {one['name']} {key}: {shown}, and should be {wanted_values}")


def _same(what: str, shown: Mapping[str, Any], wanted: Mapping[str, int]) -> None:
    differs = {key: (shown[key], value) for key, value in wanted.items() if shown[key] != value}
    if differs:
        raise Broken(f"truth: {what}: shown and true {differs}")


def _command(log: FuzzedLog, folder: Path, report: Report) -> None:
    """The command says what the analysis says."""
    file = folder / "experiments.yaml"
    file.write_text(log.text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "abfleet", "analyze", "--logs", folder, "--experiments", file, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or "Traceback" in done.stderr:
        raise Broken(f"crash: the command ended with {done.returncode}: {done.stderr[-500:]}")
    _equal("crash: the command says something else", json.loads(done.stdout), report.as_dict())


def _equal(what: str, first: Any, second: Any, path: str = "") -> None:
    """Two documents are the same, numbers within the last digits of a sum."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for key in first:
            _equal(what, first[key], second[key], f"{path}.{key}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, pair in enumerate(zip(first, second, strict=True)):
            _equal(what, *pair, f"{path}[{index}]")
    elif isinstance(first, float) and isinstance(second, float | int):
        if not math.isclose(first, second, rel_tol=1e-6, abs_tol=1e-9):
            raise Broken(f"{what}: {path}: {first} and {second}")
    elif first != second:
        raise Broken(f"{what}: {path}: {first} and {second}")


# --- the same log in another way --------------------------------------------------------------------------------------


def _order_of_lines(log: FuzzedLog, report: Report) -> None:
    """All lines in any order, in more files."""
    draw = Random(log.seed)
    lines = [line for file in log.files for line in file]
    draw.shuffle(lines)
    junk = [line for line in lines if isinstance(line, bytes)]
    lines = [line for line in lines if not isinstance(line, bytes)]
    files = [lines[start :: len(log.files) + 2] for start in range(len(log.files) + 2)]
    for number, line in enumerate(junk):
        files[number % len(files)].insert(0, line)
    _as_files(log, report, files, "order: of lines and files")


def _order_when_compacted(log: FuzzedLog, report: Report) -> None:
    """As Parquet. `abfleet logs compact` refuses a file that is not UTF-8."""
    if not any(isinstance(line, bytes) and b"\xff" in line for file in log.files for line in file):
        _as_files(log, report, log.files, "order: when compacted", after=_compact)


def _compact(folder: Path) -> None:
    in_two_hours = time.time() + 7200  # files of another machine count as closed after an hour
    compact(folder, folder / "compacted", WriterIdentity("elsewhere", 1), wall=lambda: in_two_hours)
    if list(folder.glob("*.jsonl")):
        raise Broken("order: compaction has left files")


def _as_files(
    log: FuzzedLog,
    report: Report,
    files: list[list[Record | bytes]],
    what: str,
    *,
    after: Callable[[Path], None] = lambda folder: None,
) -> None:
    with tempfile.TemporaryDirectory(prefix="abfleet-fuzz-") as name:
        folder = replace(log, files=files).write(Path(name))
        after(folder)
        _equal(what, _analysed(log, folder).as_dict(), report.as_dict())


def _user_removed(log: FuzzedLog, report: Report) -> None:
    """Without one user nobody else is missing."""
    calls = [call for call in first_ones(log.named("exposure"), "exposure")[0] if call["user_id"] is not None]
    users = Counter(call["user_id"] for call in sorted(calls, key=lambda call: call["ts"])[10:])
    if not users:
        return
    user = Random(log.seed).choice(sorted(users))
    requests = {call["request_id"] for call in calls if call["user_id"] == user}

    def stays(line: Record | bytes) -> bool:
        return isinstance(line, bytes) or (line.get("user_id") != user and line.get("request_id") not in requests)

    with tempfile.TemporaryDirectory(prefix="abfleet-fuzz-") as name:
        folder = replace(log, files=[[line for line in file if stays(line)] for file in log.files]).write(Path(name))
        without: Any = _analysed(log, folder).as_dict()
    before: Any = report.as_dict()
    left = {(one["name"], group["name"]): group for one in without["experiments"] for group in one["groups"]}
    for one in before["experiments"]:
        for group in one["groups"]:
            other = left.get((one["name"], group["name"]), {"users": 0, "exposures": 0})
            users_less = group["users"] - other["users"]
            calls_less = group["exposures"] - other["exposures"]
            if not (0 <= users_less <= 1 and 0 <= calls_less <= len(requests)):
                raise Broken(
                    f"user: without {user} {one['name']} {group['name']} has {users_less} users and {calls_less} "
                    "calls less"
                )


def _clock_of_one_line(log: FuzzedLog, report: Report) -> None:
    """One line of another time changes nothing that is concluded."""
    draw = Random(log.seed)
    kind = draw.choice(("exposure", "outcome", "allocation"))
    line = dict(draw.choice(log.named(kind) or [{"ts": time_text(START), "event": kind}]))
    line["ts"] = time_text(draw.choice((datetime(1970, 1, 2, tzinfo=START.tzinfo), log.end + timedelta(days=30))))
    line |= {name: "of-a-wrong-clock" for name in ("request_id", "outcome_id") if name in line}
    with tempfile.TemporaryDirectory(prefix="abfleet-fuzz-") as name:
        folder = log.write(Path(name))
        write(folder / "decisions-host9-20261102T000000-9.jsonl", [line])
        other = _analysed(log, folder)
    for mine, theirs in zip(report.experiments, other.experiments, strict=True):
        said = [(str(one.decision.verdict), one.decision.history) for one in (mine, theirs)]
        if said[0] != said[1]:
            raise Broken(f"clock: {mine.name}: {kind} of {line['ts']} makes {said[1]} of {said[0]}")


VARIATIONS: Final[tuple[Callable[[FuzzedLog, Report], None], ...]] = (
    _order_of_lines,
    _user_removed,
    _order_when_compacted,
    _clock_of_one_line,
)


# --- the run ----------------------------------------------------------------------------------------------------------


def run(seeds: Sequence[int], wanted: Sequence[str], commands: int, say: Callable[[str], None]) -> Iterator[str]:
    """Tries every seed; yields what is broken. Says in the end how many logs there were of each kind."""
    faults, verdicts = Counter[str](), Counter[str]()
    experiments = allocations = exact = 0
    every = max(len(seeds) // commands, 1) if commands else 0
    begin = time.process_time()
    for number, seed in enumerate(seeds):
        log = fuzzed(seed)
        faults.update(log.faults)
        exact += log.exact
        try:
            report = check(log, wanted, command=bool(every) and number % every == 0 and number // every < commands)
        except Broken as broken:
            yield f"{broken}\n  {', '.join(log.faults)}; again: ./run prove fuzz-logs --seed {seed} --logs 1"
            continue
        verdicts.update(str(one.decision.verdict) for one in report.experiments)
        experiments += len(report.experiments)
        allocations += sum(len(one.gathered.allocations) for one in report.experiments)
        if number % 100 == 99:
            say(f"{number + 1:,} logs, {time.process_time() - begin:.0f} s of CPU")
    say(f"{len(seeds):,} logs, {experiments:,} experiments, {allocations:,} allocations; {exact:,} counted by hand")
    for what, counted in (("faults", faults), ("verdicts", verdicts)):
        say(f"{what}: " + ", ".join(f"{name} {count:,}" for name, count in counted.most_common()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the proof; 0 when every invariant holds in every log."""
    parser = argparse.ArgumentParser(prog="./run prove fuzz-logs", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--logs", type=int, default=2000, help="how many (2,000)")
    parser.add_argument("--command", type=int, default=200, help="how many of them through the command as well (200)")
    parser.add_argument("--seed", type=int, default=1, help="the first log's (1)")
    parser.add_argument("--skip", action="append", default=[], choices=INVARIANTS, help="an invariant to leave out")
    got = parser.parse_args(arguments)
    wanted = [name for name in INVARIANTS if name not in got.skip]
    broken = 0
    for text in run(range(got.seed, got.seed + got.logs), wanted, got.command, lambda text: print(text, flush=True)):
        broken += 1
        print(f"BROKEN: {text}", flush=True)
    print(f"{broken} logs are broken" if broken else f"held: {', '.join(wanted)}")
    return int(bool(broken))


if __name__ == "__main__":
    raise SystemExit(main())
