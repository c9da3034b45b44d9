"""What is wrong with a decision log, and a summary of it."""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

from abfleet_experiments.assign import ALLOCATED, HOLDOUT, OVERRIDE, Assigner
from abfleet_experiments.config import Config

from abfleet_log.clocks import HOUR_US, HourCount, allowed_times
from abfleet_log.schema import problems
from abfleet_log.tools.read_lines import is_blank, parsed

STEP_BACK_SECONDS = 10.0
"""Calls are logged when they end, a few seconds after their `ts` at most: an older one means a clock set back."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RECOMPUTABLE = (ALLOCATED, OVERRIDE, HOLDOUT)
"""Reasons that do not hang on attributes, which need not be in the log."""


@dataclass(slots=True)
class CheckResult:
    """What was found; changed only by `check`.

    Attributes:
        torn: Last lines of files without an end: a router was killed there.
        unreadable: Lines in the middle that are no JSON; blank ones are no lines.
        problems: What is wrong against the schema, by kind.
        examples: The first place of each kind of problem: file and line number.
        digest: The sum of the lines' sha256, modulo 2^64: the same lines in any files and order have the same.
        repeated_exposures, repeated_outcomes: Beyond the first of each key; analysis counts the first.
        conflicting_outcomes: Those of the repeated ones that say something else than the first of their id.
        gaps: Silences of a router that are longer than asked for: (router, from, seconds).
        steps_back: Lines much older than one before them in the same file.
        wrong_clock: Lines with a time that the rest of the log does not allow, by router; analysis leaves them out.
        mismatches: Exposures that the file would decide otherwise, by what differs.
        compared: Exposures that could be compared with the file.
    """

    files: int = 0
    lines: int = 0
    torn: int = 0
    unreadable: int = 0
    digest: int = 0
    by_event: Counter[str] = field(default_factory=Counter)
    by_experiment: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    repeated_exposures: int = 0
    repeated_outcomes: int = 0
    conflicting_outcomes: int = 0
    synthetic: int = 0
    first: str | None = None
    last: str | None = None
    steps_back: int = 0
    wrong_clock: Counter[str] = field(default_factory=Counter)
    gaps: list[tuple[str, str, float]] = field(default_factory=list)
    mismatches: Counter[str] = field(default_factory=Counter)
    compared: int = 0

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong; torn ends and repeats are reported, and count as sound."""
        return not (self.unreadable or self.problems or self.mismatches)


@dataclass(slots=True)
class _Hour:
    """Lines of an hour that are alike, and where the first of them is. Changed only by the checker."""

    oldest: int
    newest: int
    first: str
    lines: int = 0


class Checker:
    """Takes lines one after the other."""

    def __init__(self, *, gap_seconds: float, config: Config | None = None) -> None:
        self.result = CheckResult()
        self._gap_seconds = gap_seconds
        self._config = config
        self._assigners: dict[datetime | None, Assigner] = {}
        self._exposures: set[int] = set()
        self._outcomes: dict[int, int] = {}
        self._times: dict[str, set[int]] = {}
        self._hours: dict[tuple[str, str, str, str, str, bool, int], _Hour] = {}
        self._path: Path | None = None
        self._number = 0
        self._newest = ""

    def take(self, entries: Iterable[tuple[Path, bytes, bool]]) -> CheckResult:
        """Checks lines: (file, line, whether it ends with a line feed)."""
        result = self.result
        for path, raw, ended in entries:
            if path != self._path:
                self._path, self._number, self._newest = path, 0, ""
                result.files += 1
            self._number += 1
            if is_blank(raw):
                continue
            if (line := parsed(raw)) is None:
                if ended:
                    result.unreadable += 1
                    self._example("unreadable")
                else:
                    result.torn += 1
                continue
            result.lines += 1
            result.digest = (result.digest + digest_of(raw)) & 0xFFFFFFFFFFFFFFFF
            self._line(line)
        self._find_gaps()
        self._find_wrong_clocks()
        return result

    def damaged(self, path: Path) -> None:
        """Takes a compressed file that cannot be read to its end as one more line that cannot be read."""
        self.result.unreadable += 1
        self.result.examples.setdefault("damaged", str(path))

    def _example(self, kind: str) -> None:
        self.result.examples.setdefault(kind, f"{self._path}:{self._number}")

    def _line(self, line: dict[str, Any]) -> None:
        result = self.result
        for problem in problems(line):
            name, _, rest = problem.partition(": ")
            kind = f"{line.get('event', '?')}.{name}: {'is missing' if rest == 'is missing' else 'is wrong'}"
            result.problems[kind[:120]] += 1
            self._example(kind[:120])
        event, ts = str(line.get("event")), line.get("ts")
        result.by_event[event] += 1
        result.synthetic += line.get("synthetic") is True
        if event == "exposure":
            result.by_experiment[str(line.get("experiment") or ""), str(line.get("group") or "")] += 1
            key = hash((line.get("user_id") or line.get("user_id_hmac"), line.get("request_id")))
            result.repeated_exposures += key in self._exposures
            self._exposures.add(key)
            if self._config is not None:
                self._compare(line, self._config)
        elif event == "outcome":
            self._outcome(line)
        if event != "shadow":  # which no analysis over time reads
            self._hour(line)
        if isinstance(ts, str) and event in ("exposure", "rejected"):
            self._time(ts, str(line.get("router")))

    def _outcome(self, line: dict[str, Any]) -> None:
        """An id used again: a repeat, or a conflict. Ids of made up outcomes are their own."""
        result = self.result
        key = hash((line.get("outcome_id"), line.get("synthetic") is True))
        names = ("request_id", "type", "item_id", "item_name", "value", "currency")
        said = [line.get("user_id") or line.get("user_id_hmac"), *(line.get(name) or None for name in names)]
        # A line of other making may have anything there; of numbers 5 is the same as 5.0.
        content = hash(tuple(one if isinstance(one, str | int | float) else repr(one) for one in said))
        result.repeated_outcomes += key in self._outcomes
        if self._outcomes.setdefault(key, content) != content:
            result.conflicting_outcomes += 1
            self._example("conflicting_outcomes")

    def _time(self, ts: str, router: str) -> None:
        result = self.result
        result.first = min(result.first or ts, ts)
        result.last = max(result.last or ts, ts)
        try:
            seconds = int(datetime.fromisoformat(ts).timestamp())
        except ValueError:
            return  # already reported as a problem
        if self._newest and ts < self._newest:
            behind = datetime.fromisoformat(self._newest).timestamp() - seconds
            if behind > STEP_BACK_SECONDS:
                result.steps_back += 1
                self._example("clock set back")
        self._newest = max(self._newest, ts)
        self._times.setdefault(router, set()).add(seconds)

    def _hour(self, line: dict[str, Any]) -> None:
        try:
            at = (datetime.fromisoformat(line["ts"]) - EPOCH) // timedelta(microseconds=1)
        except (KeyError, TypeError, ValueError):
            return  # already reported as a problem
        event = line.get("event")
        kind = line.get("type") if event == "outcome" else None
        named = (event, kind, line.get("experiment"), line.get("allocation"), line.get("router"))
        event, kind, experiment, allocation, router = (text if isinstance(text, str) else "" for text in named)
        key = (event, kind, experiment, allocation, router, line.get("synthetic") is True, at // HOUR_US)
        if (hour := self._hours.get(key)) is None:
            hour = self._hours[key] = _Hour(at, at, f"{self._path}:{self._number}")
        hour.lines, hour.oldest, hour.newest = hour.lines + 1, min(hour.oldest, at), max(hour.newest, at)

    def _find_wrong_clocks(self) -> None:
        counts = [
            (
                HourCount(
                    event,
                    kind or None,
                    experiment or None,
                    allocation or None,
                    router or None,
                    synthetic=synthetic,
                    n=hour.lines,
                    oldest=hour.oldest,
                    newest=hour.newest,
                ),
                hour.first,
            )
            for (event, kind, experiment, allocation, router, synthetic, _), hour in self._hours.items()
        ]
        allowed = allowed_times([count for count, _ in counts])
        for count, first in counts:
            if allowed.wrong(count):
                self.result.wrong_clock[str(count.router or "")] += count.n
                self.result.examples.setdefault("wrong clock", first)

    def _find_gaps(self) -> None:
        for router, times in sorted(self._times.items()):
            ordered = sorted(times)
            for before, after in pairwise(ordered):
                if after - before > self._gap_seconds:
                    began = datetime.fromtimestamp(before).astimezone().isoformat()
                    self.result.gaps.append((router, began, float(after - before)))

    def _compare(self, line: dict[str, Any], config: Config) -> None:
        """The line against what the file decides, where the line was decided by this very file."""
        if line.get("config_revision") != config.revision or line.get("reason") not in RECOMPUTABLE:
            return
        user_id, ts = line.get("user_id"), line.get("ts")
        if not user_id or not isinstance(ts, str):
            return
        at = datetime.fromisoformat(ts)
        if (assigner := self._assigner(at, config)) is None:
            return
        arm, bucket = assigner.assign(user_id, line.get("attributes") or {})
        if arm.reason not in RECOMPUTABLE:
            return  # its audience asks for attributes that are not in the log
        self.result.compared += 1
        wanted = {
            "experiment": arm.experiment,
            "group": arm.group,
            "bucket": bucket,
            "propensity": arm.propensity,
            "model_version": arm.model_version or None,
            "versions": None if arm.interleave is None else list(arm.interleave),
            "allocation": arm.allocation,
        }
        for name, value in wanted.items():
            if line.get(name) != value:
                self.result.mismatches[name] += 1
                self._example(f"mismatch.{name}")

    def _assigner(self, at: datetime, config: Config) -> Assigner | None:
        """The assigner of the ramp rows in force then; None within a second of a row, where either may have decided."""
        rows = sorted(row.at for one in config.experiments for row in one.ramp)
        if any(abs((row - at).total_seconds()) < 1 for row in rows):
            return None
        since = max((row for row in rows if row <= at), default=None)
        if since not in self._assigners:
            self._assigners[since] = Assigner(config, at)
        return self._assigners[since]


def digest_of(line: bytes) -> int:
    """A number of 64 bits that stands for a line."""
    return int.from_bytes(hashlib.sha256(line).digest()[:8], "big")


def document(check: CheckResult) -> dict[str, Any]:
    """The result as plain JSON values."""
    return {
        "files": check.files,
        "lines": check.lines,
        "digest": f"{check.digest:016x}",
        "events": dict(check.by_event.most_common()),
        "exposures": [
            {"experiment": experiment or None, "group": group or None, "lines": count}
            for (experiment, group), count in sorted(check.by_experiment.items())
        ],
        "synthetic": check.synthetic,
        "first": check.first,
        "last": check.last,
        "torn": check.torn,
        "unreadable": check.unreadable,
        "problems": dict(check.problems.most_common()),
        "repeated_exposures": check.repeated_exposures,
        "repeated_outcomes": check.repeated_outcomes,
        "conflicting_outcomes": check.conflicting_outcomes,
        "clock_set_back": check.steps_back,
        "wrong_clock": dict(check.wrong_clock.most_common()),
        "gaps": [{"router": router, "from": began, "seconds": seconds} for router, began, seconds in check.gaps],
        "compared_with_file": check.compared,
        "mismatches": dict(check.mismatches.most_common()),
        "examples": check.examples,
        "sound": check.sound,
    }
