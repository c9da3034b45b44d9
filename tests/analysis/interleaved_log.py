"""Logs of an interleaving, drawn by a generator that the analysis does not know, and a plain count of what they say."""

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.analysis.log_lines import DAY, START, LogLines

FILE = """
version: 1
default: v1
models:
  v1: {target: "127.0.0.1:1"}
  v2: {target: "127.0.0.1:2"}
experiments:
  - name: test
    interleave: [v1, v2]
    plan: {horizon: HORIZON, look: 1d, minimum: 1d}
EXCLUDE
"""


def file_text(horizon: str = "14d", exclude: str = "") -> str:
    """An experiments file with one interleaving of v1 and v2."""
    return FILE.replace("HORIZON", horizon).replace("EXCLUDE", exclude)


def interleaved(
    log: LogLines, user: str | None, at: datetime = START, teams: str | None = "=ABBA", **changed: Any
) -> str:
    """Adds an interleaved call whose items are 1, 2, 3 …, one for each letter; with `teams` None a fallback."""
    line = {
        "bucket": 17,
        "propensity": 1.0,
        "model_version": None,
        "served_version": None if teams is not None else "v1",
        "fallback": None if teams is not None else "timeout",
        "versions": ["v1", "v2"],
        "items": list(range(1, 1 + len(teams or "12345"))),
        **({} if teams is None else {"teams": teams}),
    }
    return log.exposure(user, "interleaved", at, **line | changed)


def clicked(log: LogLines, user: str | None, request: str | None, item: int | None, at: datetime = START) -> None:
    """Adds a click."""
    log.outcome("click", user, request, at, item_id=item)


@dataclass
class Drawn:
    """An interleaving that was drawn.

    Attributes:
        lean: Probability that a click goes to an item of the second version, of clicks on a team's items.
        died: Day from which on the second version answers nothing.
    """

    users: int = 60
    days: int = 8
    seed: int = 1
    lean: float = 0.5
    died: int | None = None
    log: LogLines = field(default_factory=LogLines)

    def __post_init__(self) -> None:
        draw = random.Random(self.seed)
        for number in range(self.users):
            user = f"u{number}"
            for _ in range(1 + int(draw.expovariate(0.25))):
                day = draw.randrange(self.days)
                at = START + DAY * day + timedelta(seconds=draw.randrange(60, 80_000))
                self._call(draw, user, at, alone=self.died is not None and day >= self.died)

    def _call(self, draw: random.Random, user: str, at: datetime, *, alone: bool) -> None:
        if alone:
            request = interleaved(self.log, user, at, None, fallback="unavailable")
            clicked(self.log, user, request, 1, at + timedelta(seconds=5))
            return
        prefix = 6 if draw.random() < 1 / 3 else draw.randrange(4)
        teams = ("=" * prefix + "".join(draw.choice(("AB", "BA")) for _ in range(3)))[:6]
        swapped = draw.random() < 0.1
        request = interleaved(
            self.log,
            user,
            at,
            teams.translate(str.maketrans("AB", "BA")) if swapped else teams,
            versions=["v2", "v1"] if swapped else ["v1", "v2"],
        )
        for item, team in enumerate(teams, start=1):
            liked = {"=": 0.4, "A": 0.8 * (1 - self.lean), "B": 0.8 * self.lean}[team]
            if draw.random() < liked * item**-0.6:
                later = at + timedelta(seconds=draw.expovariate(1 / 40_000))  # some after the look of the call
                clicked(self.log, user, request, item, later)
                if draw.random() < 0.2:
                    clicked(self.log, user, request, item, later + timedelta(seconds=1))  # again: counts once


def plain_count(lines: Iterable[Mapping[str, Any]], looks: int, as_of: datetime) -> list[tuple[int, int]]:
    """Users who prefer v1, and v2, at each look and at the moment of the report, counted in plain Python."""
    each = zip(*plain_signs(lines, looks, as_of).values(), strict=True)
    return [(signs.count(1), signs.count(-1)) for signs in each]


def plain_signs(lines: Iterable[Mapping[str, Any]], looks: int, as_of: datetime) -> dict[str, list[int]]:
    """Each user's sign at these times: 1 for v1, -1 for v2, of users with a click."""
    lines = list(lines)
    calls = {line["request_id"]: line for line in lines if line["event"] == "exposure" and "teams" in line}
    credit: dict[tuple[str, str, int], tuple[datetime, int]] = {}
    for line in lines:
        if line["event"] != "outcome" or line["request_id"] not in calls:
            continue
        call = calls[line["request_id"]]
        versions = dict(zip("AB", call["versions"], strict=True))
        team = versions.get(call["teams"][call["items"].index(line["item_id"])])
        at = max(datetime.fromisoformat(line["ts"]), datetime.fromisoformat(call["ts"]))
        key = (call["user_id"], call["request_id"], line["item_id"])
        before = credit.get(key, (at, 0))[0]
        credit[key] = (min(at, before), {"v1": 1, "v2": -1}.get(team or "", 0))
    found: dict[str, list[int]] = defaultdict(list)
    for time in [*(START + DAY * (look + 1) for look in range(looks)), as_of]:
        sums: dict[str, int] = defaultdict(int)
        for (user, _, _), (at, worth) in credit.items():
            sums[user] += worth if at <= time else 0
        for user, total in sums.items():
            found[user].append((total > 0) - (total < 0))
    return found


def read(folder: Path) -> list[dict[str, Any]]:
    """All lines of a folder's files."""
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
