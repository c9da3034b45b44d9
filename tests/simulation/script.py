"""What happens in one simulation: a fleet, calls and faults, as plain values that follow from a seed and can be written
down, shortened and run again."""

import json
import random
from dataclasses import asdict, dataclass, field, replace
from typing import Any

VERSIONS = ("v1", "v2", "v3")
"""v1 is the default."""
FIRST_CALL, FIRST_FAULT, LAST_FAULT, IDLE_FROM, FINAL = 3.0, 5.0, 36.0, 38.0, 51.0
"""Seconds. Faults are over by the time at which a pause may begin; after that all is well."""
END = 61.0
FLUSHED_SECONDS = 0.25
"""From a call's end until its line is in the file: five times the flush interval."""
HELD_UP_SECONDS = 4.0 + FLUSHED_SECONDS
"""The same where the disk is slow: the write that is under way, and its own."""
KINDS = (
    *("kill_worker", "kill_router", "end_worker", "end_router", "stop_worker", "stop_router", "stall_worker"),
    *("stall_router", "slow_model", "hang_model", "fail_model", "cut", "slow_path", "reset_worker", "reset_caller"),
    *("reset_stream", "reset_stream", "goaway", "goaway", "end_watch", "edit", "bad_edit", "clock", "disk_full"),
    *("disk_slow", "flood", "dns_fails", "leave_dns"),
)
"""What can go wrong. `end` is SIGTERM, `stop` SIGSTOP, `stall` a process that does not get the processor."""
ON_ROUTERS = (
    *("kill_router", "end_router", "stop_router", "stall_router", "disk_full", "disk_slow", "clock", "flood"),
    "reset_caller",
)
"""Those whose target is a router; that of all others is a worker."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: what, when and how long, where, and how much."""

    at: float
    kind: str
    seconds: float = 0.0
    target: int = 0
    """Number of a worker, or of a router."""
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Phase:
    """So many calls, at random times of a span."""

    at: float
    seconds: float
    calls: int


@dataclass(frozen=True, slots=True)
class Script:
    """One simulation."""

    seed: str
    routers: int
    replicas: tuple[int, ...]
    """Of each version."""
    run_ms: tuple[float, ...]
    """What a run of each version's model takes, in milliseconds."""
    flags: tuple[str, ...]
    faults: tuple[Fault, ...]
    phases: tuple[Phase, ...]
    idle_seconds: float = 0.0
    """A pause of all machines, in virtual time."""
    shadow_percent: int = 0
    """Of the calls, asked again of the last version in the shadow of the others."""
    interleave: tuple[str, ...] = ()
    """Two versions whose lists users get as one; none: an experiment of three groups."""

    @property
    def end(self) -> float:
        return END + self.idle_seconds

    def dumps(self) -> str:
        """As one line."""
        members = asdict(self)
        members["faults"] = [[one.at, one.kind, one.seconds, one.target, one.amount] for one in self.faults]
        members["phases"] = [[one.at, one.seconds, one.calls] for one in self.phases]
        return json.dumps(members)


def loads(text: str) -> Script:
    """What `dumps` has written."""
    members: dict[str, Any] = json.loads(text)
    members["faults"] = tuple(Fault(*one) for one in members["faults"])
    members["phases"] = tuple(Phase(*one) for one in members["phases"])
    for key in ("replicas", "run_ms", "flags", "interleave"):
        members[key] = tuple(members[key])
    return Script(**members)


def script_of(seed: int) -> Script:
    """The script that a seed stands for."""
    chance = random.Random(f"script {seed}")
    routers = chance.choice((1, 1, 1, 2))
    replicas = tuple(chance.choice((1, 1, 2, 2, 3)) for _ in VERSIONS)
    narrow = chance.random() < 0.3  # batches so small that a flood fills the queues
    run_ms = tuple(chance.choice((40.0, 60.0) if narrow else (0.5, 3.0, 8.0, 15.0)) for _ in VERSIONS)
    policy = chance.choice(("keep_serving", "keep_serving", "unhealthy", "refuse"))
    flags = (
        *("--max-batch", "4" if narrow else chance.choice(("16", "128"))),
        *("--max-in-flight", chance.choice(("1", "1", "2"))),
        *("--log-policy", policy),
        *("--log-rotate-bytes", chance.choice(("20000", "268435456"))),
    )
    faults = [
        fault_of(chance, chance.choice(KINDS), workers=sum(replicas), routers=routers, policy=policy)
        for _ in range(chance.choice((3, 3, 4, 5, 6, 8)))
    ]
    if narrow:
        faults.append(fault_of(chance, "flood", workers=sum(replicas), routers=routers, policy=policy))
    faults.sort(key=lambda fault: fault.at)
    phases = [Phase(FIRST_CALL, LAST_FAULT + 2 - FIRST_CALL, chance.choice((90, 120, 200)))]
    phases += [Phase(fault.at - 0.05, 0.5, 10) for fault in faults]
    idle = chance.choice((0.0, 0.0, 0.0, 60.0, 3600.0))
    phases.append(Phase(IDLE_FROM + 2 + idle, FINAL - IDLE_FROM - 2, 40))
    phases.append(Phase(FINAL + idle, END - FINAL - 4, 40))
    shadow = chance.choice((0, 0, 30, 100))
    interleave: tuple[str, ...] = chance.choice(((), (), ("v1", "v2"), ("v2", "v3")))
    return Script(str(seed), routers, replicas, run_ms, flags, tuple(faults), tuple(phases), idle, shadow, interleave)


def fault_of(chance: random.Random, kind: str, *, workers: int, routers: int, policy: str) -> Fault:
    """One of a kind, somewhere, at some time."""
    seconds = round(chance.choice((0.3, 1.0, 2.0, 5.0, 9.0)) * chance.uniform(0.5, 1.0), 3)
    amount = 0.0
    if kind in ("stall_worker", "stall_router"):
        seconds = round(chance.uniform(0.05, 0.4), 3)
    elif kind in ("stop_router",):
        seconds = min(seconds, 2.0)
    if kind == "slow_model":
        amount = chance.choice((5.0, 20.0, 100.0))
    elif kind == "fail_model":
        amount = chance.choice((0.3, 1.0))
    elif kind == "slow_path":
        amount = chance.choice((0.02, 0.1, 0.4))
    elif kind == "clock":
        amount = chance.choice((-7200.0, -60.0, -0.5, 0.5, 60.0, 7200.0))
    elif kind == "disk_slow":
        amount = chance.choice((0.05, 0.3, 2.0))
    elif kind == "flood":
        seconds, amount = chance.choice((0.3, 1.0, 2.0)), chance.choice((100.0, 300.0, 500.0))
    elif kind == "reset_stream":
        amount = chance.choice((2.0, 7.0, 8.0, 11.0))
    at = round(chance.uniform(FIRST_FAULT, LAST_FAULT - seconds), 3)
    return Fault(at, kind, seconds, chance.randrange(routers if kind in ON_ROUTERS else workers), amount)


def without(script: Script, *places: int) -> Script:
    """Without the faults in these places."""
    return replace(script, faults=tuple(fault for place, fault in enumerate(script.faults) if place not in places))


@dataclass(slots=True)
class Harm:
    """Why something may be unwell for a while. `what`: worker, router, load, log, full (a disk); `number`: of which."""

    what: str
    number: int
    start: float
    end: float
    recovers: float = field(default=0.0)
    """Seconds after the end in which it need not be well yet."""
