"""Decision logs whose groups and buckets are those of the router's own assignment, phase after phase, and what is in
them, counted in plain Python. Knows the experiments file and the log's schema; nothing of the analysis.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

from abfleet_experiments.assign import ALLOCATED, Arm, Assigner
from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.file.load import load_text

START: Final = datetime(2026, 11, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
RATES: Final = {"control": 0.10, "treatment": 0.12}
"""How many users of a group convert in a phase; 0.1 of any other group."""


@dataclass(frozen=True, slots=True)
class Phase:
    """An experiments file and from which day on it is in force.

    Attributes:
        coming: The part of all users who come while it is.
        events: Whether the log says that it came into force.
    """

    text: str
    day: float
    coming: float = 0.8
    events: bool = True


@dataclass(frozen=True, slots=True)
class Visit:
    """One user's only call of a phase."""

    phase: int
    user: str
    at: datetime
    arm: Arm
    bucket: int
    converted: bool

    @property
    def request(self) -> str:
        """The id of the call."""
        return f"{self.phase}-{self.user}"


def visits(phases: Sequence[Phase], users: int, *, days: float, seed: int = 1) -> Iterator[Visit]:
    """Who came in each phase, as the router would have assigned them; the last phase ends after so many days."""
    draw = Random(seed)
    ends = [*(phase.day for phase in phases[1:]), days]
    for index, (phase, end) in enumerate(zip(phases, ends, strict=True)):
        begin = START + DAY * phase.day
        assigner = Assigner(load_text(phase.text), begin)
        for number in range(users):
            if draw.random() >= phase.coming:
                continue
            at = begin + DAY * draw.random() * (end - phase.day)
            user = f"user-{number}"
            arm, bucket = assigner.assign(user, {})
            if arm.reason == ALLOCATED and bucket is not None:
                converted = draw.random() < RATES.get(str(arm.group), 0.10)
                yield Visit(index, user, at, arm, bucket, converted)


def write(folder: Path, phases: Sequence[Phase], made: Sequence[Visit]) -> Path:
    """The log of these visits; returns the folder."""
    with (folder / "decisions-host-20261101T000000-1.jsonl").open("w", encoding="utf-8") as out:
        for phase in phases:
            at = START + DAY * phase.day
            events = Assigner(load_text(phase.text), at).allocations if phase.events else ()
            for event in events:
                out.write(
                    _line(
                        "allocation",
                        at,
                        router="router-1",
                        config_revision="0" * 12,
                        moved=None,
                        experiment=event.experiment,
                        salt=event.salt,
                        allocation=event.allocation,
                        traffic=event.traffic,
                        weights=dict(event.weights),
                    )
                )
        for visit in made:
            out.write(_exposure(visit))
            if visit.converted:
                at = visit.at + timedelta(minutes=1)
                out.write(
                    _line(
                        "outcome",
                        at,
                        received_ts=_text(at),
                        outcome_id=f"o-{visit.request}",
                        request_id=visit.request,
                        user_id=visit.user,
                        type="conversion",
                        item_id=None,
                        value=None,
                        currency=None,
                    )
                )
    return folder


@dataclass(frozen=True, slots=True)
class Counted:
    """What a report has to say.

    Attributes:
        users: Different users by group, without those whose bucket has moved.
        moved: Users who are left out because of that.
        value, baseline: The share of converting users in treatment and control, allocations weighted as
            docs/statistics.md has it.
    """

    users: Mapping[str, int]
    moved: int
    value: float
    baseline: float

    @property
    def difference(self) -> float:
        """Treatment less control."""
        return self.value - self.baseline


def counted(phases: Sequence[Phase], made: Sequence[Visit], *, window: timedelta = DAY * 7) -> Counted:
    """The same visits, counted one by one, from the router's table of buckets."""
    tables, salts, begins = [], [], []
    for phase in phases:
        at = START + DAY * phase.day
        (experiment,) = load_text(phase.text).experiments
        tables.append(_buckets(phase.text, at))
        salts.append(experiment.salt)
        # An allocation begins with its first call: a log need not say more.
        begins.append(min(visit.at for visit in made if visit.phase == len(begins)))
    kept: list[tuple[Visit, int]] = []
    moved: set[str] = set()
    identities = [_allocation(phase) for phase in phases]
    moves = [
        [
            later
            for later in range(index + 1, len(phases))
            if len(set(salts[index : later + 1])) == 1 and tables[later] != tables[index]
        ]
        for index in range(len(phases))
    ]
    for visit in made:
        against = [
            later for later in moves[visit.phase] if tables[later][visit.bucket] != tables[visit.phase][visit.bucket]
        ]
        if any(visit.at >= begins[later] - window for later in against):
            moved.add(visit.user)
        else:
            # Who came so early that the window had closed before a move is compared with others who did.
            kept.append((visit, sum(visit.at >= begins[later] - window for later in moves[visit.phase])))
    by_group: dict[str, set[str]] = {}
    n: dict[tuple[str | None, int], dict[str, int]] = {}
    converted: Counter[tuple[str | None, int, str]] = Counter()
    for visit, span in kept:
        group, stratum = str(visit.arm.group), (identities[visit.phase], span)
        by_group.setdefault(group, set()).add(visit.user)
        sizes = n.setdefault(stratum, Counter())
        sizes[group] += 1
        converted[(*stratum, group)] += visit.converted
    top = bottom = weights = 0.0
    for stratum, sizes in n.items():
        control, treatment = sizes.get("control", 0), sizes.get("treatment", 0)
        if control and treatment:
            weight = control * treatment / (control + treatment)
            top += weight * converted[(*stratum, "treatment")] / treatment
            bottom += weight * converted[(*stratum, "control")] / control
            weights += weight
    return Counted(
        {group: len(names) for group, names in by_group.items()}, len(moved), top / weights, bottom / weights
    )


def _allocation(phase: Phase) -> str | None:
    (event,) = Assigner(load_text(phase.text), START + DAY * phase.day).allocations
    return event.allocation


def _buckets(text: str, at: datetime) -> list[str | None]:
    """The group of each bucket, from the arms of users who fall into it: those that nobody falls into are None."""
    assigner = Assigner(load_text(text.replace("traffic: ", "traffic: 100 #")), at)
    table: list[str | None] = [None] * BUCKETS
    missing, number = BUCKETS, 0
    while missing:
        arm, bucket = assigner.assign(f"probe-{number}", {})
        number += 1
        if bucket is not None and table[bucket] is None:
            table[bucket] = arm.group
            missing -= 1
    return table


def _exposure(visit: Visit) -> str:
    arm = visit.arm
    return _line(
        "exposure",
        visit.at,
        request_id=visit.request,
        user_id=visit.user,
        layer=arm.layer,
        experiment=arm.experiment,
        group=arm.group,
        bucket=visit.bucket,
        reason=arm.reason,
        allocation=arm.allocation,
        propensity=arm.propensity,
        model_version=arm.model_version,
        served_version=arm.model_version,
        fallback=None,
        attempts=1,
        status="OK",
        latency_ms=5.0,
        items=[1, 2, 3],
        history_length=3,
        attributes={},
        config_revision="0" * 12,
        synthetic=False,
        trace_id=None,
        client=None,
        router="router-1",
    )


def _line(event: str, at: datetime, **fields: Any) -> str:
    return json.dumps({"schema": 1, "event": event, "ts": _text(at)} | fields) + "\n"


def _text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
