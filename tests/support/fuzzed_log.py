"""Decision logs drawn at random, line by line, as routers write them on good days and bad ones.

Knows the experiments file, assignment and docs/decision-log.md; nothing of the analysis. A seed gives one log.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final

from abfleet_experiments.assign import Arm, Assigner
from abfleet_experiments.bucketing import bucket
from abfleet_experiments.config import Config
from abfleet_experiments.file.load import load_text

START: Final = datetime(2026, 11, 2, tzinfo=UTC)
DAY: Final = timedelta(days=1)
Record = dict[str, Any]
METRICS: Final = {
    "plays": "{type: count, outcome: play, window: 2d}",
    "spent": "{type: mean, outcome: spend, winsorise: 0.95}",
    "liked": "{type: proportion, outcome: like, direction: up}",
    "finished": "{type: ratio, outcome: finish, over: play}",
}
"""Metrics of the file's own."""
BUILT_IN: Final = (
    "ctr",
    "conversion_rate",
    "revenue_per_user",
    "error_rate",
    "response_time_mean",
    "response_time_p95",
    "fallback_rate",
)


@dataclass(frozen=True, slots=True)
class Phase:
    """An experiments file and from when on it is in force."""

    text: str
    begin: datetime


@dataclass(slots=True)
class FuzzedLog:
    """A log and what it was made of. Faults change it until it is written.

    Attributes:
        files: Of each router, its lines: records, and texts that are none.
        faults: What is wrong with it, in words of FAULTS.
        exact: Whether what the lines say can be counted by the documented rules alone.
    """

    seed: int
    days: int
    phases: list[Phase]
    files: list[list[Record | bytes]]
    faults: list[str] = field(default_factory=list)
    exact: bool = True

    @property
    def end(self) -> datetime:
        """Nobody calls after this."""
        return START + DAY * self.days

    @property
    def text(self) -> str:
        """The experiments file in force at the end."""
        return self.phases[-1].text

    def records(self) -> Iterator[Record]:
        """Every line that is one."""
        return (line for file in self.files for line in file if not isinstance(line, bytes))

    def named(self, event: str) -> list[Record]:
        """The records of one kind."""
        return [record for record in self.records() if record["event"] == event]

    def write(self, folder: Path) -> Path:
        """Writes a file for each router; returns the folder."""
        for number, file in enumerate(self.files):
            write(folder / f"decisions-host{number}-20261102T000000-{number + 1}.jsonl", file)
        return folder


def write(path: Path, lines: list[Record | bytes]) -> None:
    """One file; bytes are written as they are, and end a line unless they are the last."""
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    torn = bool(lines) and isinstance(lines[-1], bytes)
    path.write_bytes(b"\n".join(texts) + (b"" if torn or not texts else b"\n"))


# --- the experiments --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Drawn:
    """One experiment while it is drawn: weights in percent by group, control first."""

    name: str
    layer: str
    salt: str
    traffic: int
    weights: dict[str, int]
    rows: list[tuple[datetime, int, dict[str, int]]]
    metrics: str
    overrides: str


def _weights(draw: Random, groups: int) -> dict[str, int]:
    kinds: dict[int, list[tuple[int, ...]]] = {
        1: [(50, 50), (90, 10), (70, 30), (20, 80), (95, 5)],
        2: [(70, 20, 10), (34, 33, 33), (90, 5, 5), (10, 45, 45)],
        3: [(40, 20, 20, 20)],
    }
    return dict(zip(("control", "treatment", "second", "third"), draw.choice(kinds[groups]), strict=False))


def _metrics(draw: Random) -> str:
    names = draw.sample([*BUILT_IN[:-1], *METRICS], k=draw.randint(2, 5))
    primary = draw.choice([*names, "ctr", "conversion_rate"])
    rest = [name for name in dict.fromkeys(names) if name != primary]
    held = rest[: draw.randint(0, len(rest))]
    shown = [*rest[len(held) :], *(["fallback_rate"] if draw.random() < 0.3 else [])]
    return f"{{primary: {primary}, guardrails: [{', '.join(held)}], secondary: [{', '.join(shown)}]}}"


def _changed(draw: Random, one: _Drawn) -> None:
    """Another allocation: weights, traffic, a group that joins or leaves, or a new salt."""
    kind = draw.choice(("weights", "weights", "traffic", "both", "join", "leave", "salt"))
    if kind in ("weights", "both"):
        one.weights = _weights(draw, len(one.weights) - 1)
    if kind in ("traffic", "both"):
        one.traffic = draw.choice((15, 20, 33))
    if kind == "salt":
        one.salt += "-again"
    names = list(one.weights)
    if kind == "leave":
        one.weights = {name: 0 if name == names[-1] and len(names) > 2 else w for name, w in one.weights.items()}
        one.weights["control"] += 100 - sum(one.weights.values())
    if kind == "join":
        one.weights = {name: 10 if name != "control" else 100 - 10 * (len(names) - 1) for name in names}


def _file(drawn: list[_Drawn], holdout: int) -> str:
    lines = ["version: 1", "default: v1", "models:"]
    lines += [f'  v{n}: {{target: "127.0.0.1:{n}"}}' for n in range(1, 5)]
    lines += [f"holdout: {{percent: {holdout}}}", "metrics:"]
    lines += [f"  {name}: {rule}" for name, rule in METRICS.items()]
    lines += ["log_attributes: [country]", "experiments:"]
    for one in drawn:
        lines += [f"  - name: {one.name}", f"    layer: {one.layer}", f"    salt: {one.salt}"]
        lines += [f"    traffic: {max([one.traffic, *(row[1] for row in one.rows)])}", "    groups:"]
        lines += [
            f"      - {{name: {name}, model: v{n}, weight: {weight}}}"
            for n, (name, weight) in enumerate(one.weights.items(), start=1)
        ]
        if one.rows:
            lines.append("    ramp:")
        for at, traffic, weights in one.rows:
            shares = ", ".join(f"{name}: {weight}" for name, weight in weights.items())
            lines.append(f"      - {{at: {at:%Y-%m-%dT%H:%M:%SZ}, traffic: {traffic}, {shares}}}")
        lines += [f"    metrics: {one.metrics}", f"    overrides: {one.overrides}"]
        lines.append("    plan: {effect: 0.20, horizon: 10d, look: 1d, minimum: 2d}")
    return "\n".join(lines) + "\n"


def _phases(draw: Random, days: int) -> list[Phase]:
    """One to three experiments, at least one of which has two allocations, by edits or by dated rows."""
    drawn = []
    layers = draw.choice((["one"] * 3, ["one", "two", "three"], ["one", "one", "two"]))
    for number in range(draw.randint(1, 3)):
        weights = _weights(draw, draw.choice((1, 1, 2, 2, 3)))
        overrides = draw.choice(("{}", "{u7: treatment, u8: control}"))
        name = f"exp-{number}"
        drawn.append(_Drawn(name, layers[number], name, 30, weights, [], _metrics(draw), overrides))
    if len({one.layer for one in drawn}) == len(drawn):
        drawn[0].traffic = draw.choice((60, 60, 100))  # with all of them nobody is left for the others
        drawn[-1].traffic = 100
    holdout = draw.choice((0, 0, 5))
    ramped = draw.random() < 0.5
    if ramped:
        one = drawn[0]
        for row in range(draw.randint(2, 4)):
            at = START + DAY * (row * days / 4) + timedelta(hours=draw.randint(0, 5))
            one.rows.append((at, one.traffic, dict(one.weights)))
            if row < 3:
                _changed_row(draw, one)
        one.traffic, one.weights = one.rows[-1][1], dict(one.rows[-1][2])
    phases = [Phase(_file(drawn, holdout), START)]
    for edit in range(draw.randint(0 if ramped else 1, 2)):
        chosen = [one for one in drawn if not one.rows] or drawn
        for one in chosen:
            if not one.rows:
                _changed(draw, one)
        if any(not one.rows for one in drawn):
            begin = START + DAY * (days * (edit + 1) / 3) + timedelta(minutes=draw.randint(0, 600))
            phases.append(Phase(_file(drawn, holdout), begin))
    return phases


def _changed_row(draw: Random, one: _Drawn) -> None:
    if draw.random() < 0.4:
        one.traffic = draw.choice((10, 20, 30))
    else:
        one.weights = _weights(draw, len(one.weights) - 1)


# --- the calls --------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _World:
    """Everything that lines are drawn from."""

    draw: Random
    days: int
    routers: list[timedelta]
    segments: list[tuple[datetime, Assigner]]
    lift: dict[str, float]
    failing: dict[str, float]
    impressions: str
    outage: tuple[datetime, datetime, str] | None
    files: list[list[Record | bytes]] = field(default_factory=list)
    count: int = 0

    def add(self, at: datetime, event: str, **fields: Any) -> Record:
        """A line of one of the routers, by its clock; returns it."""
        number = self.draw.randrange(len(self.routers))
        record = {"schema": 1, "event": event, "ts": time_text(at + self.routers[number])} | fields
        self.files[number].append(record)
        return record

    def number(self) -> int:
        self.count += 1
        return self.count


def time_text(at: datetime) -> str:
    """As the log writes it."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def segments(phases: list[Phase], end: datetime) -> Iterator[tuple[datetime, Config]]:
    """When another file, or another row of a ramp, comes into force, and the file."""
    for phase, until in zip(phases, [*(one.begin for one in phases[1:]), end], strict=True):
        config, at = load_text(phase.text), phase.begin
        while at < until:
            yield at, config
            at = config.next_change(at) or end


def _call(world: _World, user: str | None, at: datetime, *, synthetic: bool = False) -> tuple[Record, Arm]:
    """One call; the assigned version may fail, and then the default one answers, or nobody."""
    draw = world.draw
    assigner = [assigner for begin, assigner in world.segments if begin <= at][-1]
    arm, number = assigner.assign(user or "", {})
    status, fallback, attempts = "OK", None, 1
    absent = (
        world.outage is not None and world.outage[0] <= at < world.outage[1] and arm.model_version == world.outage[2]
    )
    failing = draw.random() < world.failing.get(arm.group or "", 0.02)
    if absent and arm.model_version == "v1":
        status, attempts = "UNAVAILABLE", 0
    elif absent:
        fallback, attempts = draw.choice(("unavailable", "ejected")), 1
    elif failing and arm.model_version == "v1":
        status = draw.choice(("INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED"))
    elif failing:
        fallback, attempts = draw.choice(("model_error", "timeout", "overload")), 2
    elif draw.random() < 0.002:
        status, attempts = "DEADLINE_EXCEEDED", 0
    items = draw.sample(range(1, 60), k=draw.randint(1, 6)) if status == "OK" else []
    slow = 3.0 if arm.group in world.lift and draw.random() < 0.1 else 1.0
    record = world.add(
        at,
        "exposure",
        request_id=f"r{world.number()}",
        user_id=user,
        layer=arm.layer,
        experiment=arm.experiment,
        group=arm.group,
        bucket=number,
        reason=arm.reason,
        allocation=arm.allocation,
        propensity=arm.propensity,
        model_version=arm.model_version,
        served_version=None if status != "OK" else "v1" if fallback else arm.model_version,
        fallback=fallback,
        attempts=attempts,
        status=status,
        latency_ms=round(slow * draw.lognormvariate(2.5, 0.5), 3),
        items=items,
        history_length=draw.randint(0, 20),
        attributes=draw.choice(({}, {"country": "DE"}, {"country": 'it\'s "x"\\'})),
        config_revision="0" * 12,
        synthetic=synthetic,
        trace_id=None,
        client=None,
        router="router",
    )
    return record, arm


def _outcome(world: _World, call: Record, kind: str, after: timedelta, **fields: Any) -> None:
    """An outcome of a call's user; it names the request, the user, or both."""
    draw = world.draw
    user = call["user_id"]
    named = draw.choice(((True, True), (True, True), (True, False), (False, True))) if user else (True, False)
    at = at_of(call) + after
    if at > START + DAY * world.days:
        return  # nobody has heard of it yet
    record = {
        "received_ts": time_text(at),
        "outcome_id": f"o{world.number()}",
        "request_id": call["request_id"] if named[0] else None,
        "user_id": user if named[1] else None,
        "type": kind,
        "item_id": None,
        "value": None,
        "currency": None,
    }
    world.add(at, "outcome", **(record | fields))


def _reactions(world: _World, call: Record, arm: Arm) -> None:
    """What the user does with a list."""
    draw, items = world.draw, call["items"]
    lift = world.lift.get(f"{arm.experiment}/{arm.group}", 1.0)
    soon = timedelta(seconds=draw.uniform(1, 3000))
    day = (at_of(call) - START) / DAY
    seen = {
        "none": False,
        "all": True,
        "half": draw.random() < 0.5,
        "later": day > 3,
        "one group": arm.group == "treatment" and draw.random() < 0.9,
        "lists": draw.random() < 0.8,
    }[world.impressions]
    if seen and items:
        for item in items[: draw.randint(1, len(items))] if world.impressions != "lists" else [None]:
            _outcome(world, call, "impression", soon * draw.uniform(0.1, 20), item_id=item)
    for item in items:
        if draw.random() < 0.08 * lift:
            for _ in range(draw.choice((1, 1, 1, 2))):
                _outcome(world, call, "click", soon * draw.uniform(1, 20), item_id=item)
    if draw.random() < 0.03:
        _outcome(world, call, "click", soon, item_id=draw.choice((99, None)))
    for kind, rate in (("conversion", 0.1), ("play", 0.3), ("like", 0.05), ("spend", 0.1), ("purchase", 0.1)):
        if draw.random() < rate * lift:
            value = round(draw.lognormvariate(2, 1.2), 2) if kind in ("spend", "purchase") else None
            later = soon * draw.choice((1, 1, 30, 200))
            _outcome(world, call, kind, later, value=value, currency="EUR" if kind == "purchase" else None)
            if kind == "play" and draw.random() < 0.5:
                _outcome(world, call, "finish", later + timedelta(seconds=60))


def _world(draw: Random, days: int, phases: list[Phase]) -> _World:
    routers = [timedelta(seconds=draw.choice((0, 0, draw.uniform(-3, 3)))) for _ in range(draw.randint(1, 3))]
    names = [f"exp-{n}/{group}" for n in range(3) for group in ("treatment", "second", "third")]
    lift = {name: draw.choice((1.0, 1.0, 1.3, 3.0, 0.0)) for name in names}
    failing = {"treatment": draw.choice((0.02, 0.02, 0.4)), "control": draw.choice((0.02, 0.1))}
    impressions = draw.choice(("none", "none", "all", "half", "later", "one group", "lists"))
    assigners = [(at, Assigner(config, at)) for at, config in segments(phases, START + DAY * days)]
    return _World(draw, days, routers, assigners, lift, failing, impressions, None, [[] for _ in routers])


def fuzzed(seed: int) -> FuzzedLog:
    """The log of a seed: 200 users and more, two allocations and one fault at least."""
    draw = Random(seed)
    days = draw.randint(3, 12)
    phases = _phases(draw, days)
    world = _world(draw, days, phases)
    chosen = draw.sample(list(FAULTS), k=draw.choice((1, 1, 2, 3)))
    if "outage" in chosen:
        begin = START + DAY * draw.uniform(0.1, days - 0.5)
        world.outage = (begin, begin + timedelta(minutes=draw.choice((1, 20, 300))), draw.choice(("v1", "v2", "v3")))
    for begin, assigner in world.segments:
        for event in assigner.allocations:
            world.add(
                begin,
                "allocation",
                router="router",
                config_revision="0" * 12,
                experiment=event.experiment,
                salt=event.salt,
                allocation=event.allocation,
                traffic=event.traffic,
                weights=dict(event.weights),
                moved=None,
            )
    for number in range(draw.randint(200, 320)):
        user = draw.choice((f"u{number}", f"u{number}", f"ü {number}'\""))
        for _ in range(1 + min(int(draw.expovariate(0.7)), 8)):
            call, arm = _call(world, user, START + DAY * draw.uniform(0, days) * 0.999)
            _reactions(world, call, arm)
    for _ in range(draw.randint(0, 20)):
        call, arm = _call(world, None, START + DAY * draw.uniform(0, days) * 0.999)
        _reactions(world, call, arm)
    log = FuzzedLog(seed, days, phases, world.files, chosen)
    for file in log.files:
        file.sort(key=lambda line: line["ts"] if isinstance(line, dict) else "")
    for name in chosen:
        FAULTS[name](draw, log, world)
    return log


# --- what goes wrong --------------------------------------------------------------------------------------------------


def _repeated(draw: Random, log: FuzzedLog, _: _World) -> None:
    """Lines that are there twice, in the same file or another; a later one may say something else."""
    for file in log.files:
        for record in [line for line in file if isinstance(line, dict) and draw.random() < 0.1]:
            again = dict(record)
            if record["event"] in ("exposure", "outcome") and draw.random() < 0.3:
                again["ts"] = time_text(at_of(record) + timedelta(seconds=1))
                again |= {"latency_ms": 1.0} if record["event"] == "exposure" else {"value": 1000.0}
            draw.choice(log.files).append(again)


def _torn(draw: Random, log: FuzzedLog, _: _World) -> None:
    """Files that end within a line, and lines that are none."""
    for file in log.files:
        for junk in draw.sample([b"{", b"x\xff\xfe", b"[1, 2]x", b'{"schema": 1}', b'{"event": "exposure"}'], k=2):
            file.insert(draw.randrange(len(file) + 1), junk)
        whole = file.pop()
        text = whole if isinstance(whole, bytes) else json.dumps(whole).encode()
        file.append(text[: max(len(text) // 2, 1)])


def _odd_values(draw: Random, log: FuzzedLog, _: _World) -> None:
    """Numbers that nobody can use, and texts in their place."""
    log.exact = False
    odd = (float("nan"), float("inf"), -float("inf"), 1e300, -1e18, 2**70, "many", True, [1])
    for record in log.named("outcome"):
        if draw.random() < 0.05:
            record["value"] = draw.choice(odd)
        if draw.random() < 0.01:
            record["item_id"] = draw.choice(odd)
    for record in log.named("exposure"):
        if draw.random() < 0.02:
            record["latency_ms"] = draw.choice((*odd, -5.0, 0.0))
        if draw.random() < 0.005:
            name, value = draw.choice((("bucket", 10_000), ("bucket", -1), ("propensity", 7.0), ("items", None)))
            record[name] = value


def _currency(draw: Random, log: FuzzedLog, _: _World) -> None:
    """Purchases in another currency, or in none."""
    part = draw.choice((0.1, 0.5))
    for record in log.named("outcome"):
        if record["type"] == "purchase" and draw.random() < part:
            record["currency"] = draw.choice(("USD", None))


def _lost(wanted: Callable[[Record], bool], part: float) -> Callable[[Random, FuzzedLog, _World], None]:
    def lose(draw: Random, log: FuzzedLog, _: _World) -> None:
        for file in log.files:
            file[:] = [line for line in file if isinstance(line, bytes) or not wanted(line) or draw.random() >= part]

    return lose


def _two_groups(draw: Random, log: FuzzedLog, _: _World) -> None:
    """Some calls are served in a group that is not the user's."""
    log.exact = False
    part = draw.choice((0.005, 0.1))
    for record in log.named("exposure"):
        if record["group"] and draw.random() < part:
            record["group"] = "treatment" if record["group"] == "control" else "control"


def _strangers(draw: Random, log: FuzzedLog, _: _World) -> None:
    """Lines of other versions and other makers: unknown fields, missing ones, groups that are in no file."""
    log.exact = False
    for record in log.records():
        chance = draw.random()
        if chance < 0.02:
            record["of_the_future"] = {"a": [1, None]}
        elif chance < 0.04:
            for name in ("propensity", "bucket", "reason", "attributes", "latency_ms", "received_ts", "weights"):
                record.pop(name, None)
        elif chance < 0.05 and record.get("group"):
            record["group"] = "nobody's"
        elif chance < 0.06 and record.get("experiment"):
            record["experiment"] = draw.choice(("gone", 'it\'s "gone"'))
        elif chance < 0.065 and record.get("allocation"):
            record["allocation"] = draw.choice(("ffffffffffff", None))


def _synthetic(draw: Random, log: FuzzedLog, world: _World) -> None:
    """Traffic that was made, beside that of people; some of it in their name."""
    for number in range(100):
        user = draw.choice((f"robot-{number}", "u1"))
        call, arm = _call(world, user, START + DAY * draw.uniform(0, log.days) * 0.999, synthetic=True)
        _reactions(world, call, arm)


def _before(draw: Random, log: FuzzedLog, world: _World) -> None:
    """Outcomes, and calls of no experiment, of the weeks before."""
    for number in range(100):
        at = START - DAY * draw.uniform(0.1, 20)
        call = {"user_id": f"u{number}", "request_id": None, "ts": time_text(at)}
        for kind in ("purchase", "conversion", "spend", "click"):
            if draw.random() < 0.3:
                _outcome(world, call, kind, timedelta(0), request_id=None, user_id=f"u{number}", value=5.0)


def _silent(draw: Random, log: FuzzedLog, _: _World) -> None:
    """One group has no line at all, or none after a while."""
    group, since = draw.choice(("control", "treatment")), time_text(START + DAY * draw.choice((0, log.days / 2)))
    for file in log.files:
        file[:] = [
            line
            for line in file
            if isinstance(line, bytes) or line["event"] != "exposure" or line["group"] != group or line["ts"] < since
        ]


def at_of(record: Record) -> datetime:
    """When it happened, by the router's clock."""
    return datetime.strptime(record["ts"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def _hashed(user: object) -> bool:
    return bucket("lost", str(user)) < 4000


FAULTS: Final[dict[str, Callable[[Random, FuzzedLog, _World], None]]] = {
    "repeated lines": _repeated,
    "torn lines": _torn,
    "odd values": _odd_values,
    "foreign currency": _currency,
    "lost outcomes": _lost(lambda line: line["event"] == "outcome", 0.3),
    "no outcomes": _lost(lambda line: line["event"] == "outcome", 1.0),
    "lost calls of a group": _lost(lambda line: line.get("group") == "treatment" and _hashed(line["user_id"]), 1.0),
    "lost lists": _lost(lambda line: line["event"] == "exposure", 0.1),
    "no allocation events": _lost(lambda line: line["event"] == "allocation", 1.0),
    "outage": lambda draw, log, world: None,  # drawn with the calls
    "two groups": _two_groups,
    "strangers": _strangers,
    "synthetic": _synthetic,
    "time before": _before,
    "silent group": _silent,
}


def config_of(log: FuzzedLog) -> Config:
    """The experiments file in force at the end."""
    return load_text(log.text)
