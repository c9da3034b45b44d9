"""What must be true of every simulation, whatever its script: asked at its end, of what callers saw and of the logs."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import zstandard
from abfleet_experiments.team_draft import Draft, team_draft

from tests.simulation.caller import CallResult
from tests.simulation.fleet import items_for
from tests.simulation.script import FINAL, FLUSHED_SECONDS, HELD_UP_SECONDS, IDLE_FROM, VERSIONS, Harm

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

FIRST_ITEM = 100
ON_ITS_WAY_SECONDS = 0.1
"""From a router to a caller, at most; nothing slows these paths down."""
PATIENT_SECONDS = 2.0
"""With a deadline of so much there is time for every attempt."""
UNREAD = "too many calls wait to be read"


def check(simulation: "Simulation") -> list[str]:
    """Every sentence says what is broken."""
    lines = list(log_lines(simulation))
    assigned = {
        line["request_id"]: line.get("versions") or [line["model_version"]]
        for _, line in lines
        if line["event"] == "exposure"
    }
    broken = [*simulation.broken, *simulation.world.errors]
    broken += one_answer(simulation)
    broken += own_items(simulation)
    broken += nothing_refused_when_nothing_waits(simulation)
    broken += no_call_lost(simulation, assigned)
    broken += all_well_again(simulation)
    broken += one_line(simulation, lines)
    broken += one_group(lines)
    broken += shadow_lines(simulation, lines)
    broken += interleaved_lines(simulation, lines)
    return broken


def log_lines(simulation: "Simulation") -> Iterator[tuple[int, dict[str, Any]]]:
    """(router, line) of all log files."""
    for router in simulation.routers:
        if router.serving is not None:
            router.serving.parts.decision_log.flush()
    simulation.world.run_until(simulation.world.now + 3.0)
    for number, router in enumerate(simulation.routers):
        for path in sorted(router.folder.glob("decisions-*")):
            data = path.read_bytes()
            if path.suffix == ".zst":
                data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
            for line in data.splitlines():
                try:
                    yield number, json.loads(line)
                except ValueError:
                    yield number, {"event": "torn", "text": line[:80].decode(errors="replace")}


def show(call: CallResult) -> str:
    """A call in a sentence."""
    return (
        f"call {call.number} of {call.user} to router {call.router} at {call.sent or call.due:.3f},"
        f" deadline {call.deadline}: {call.status} {call.text[:90]!r} at {call.ended or 0:.3f}"
    )


def harmed(harms: list[Harm], what: str, number: int, start: float, end: float) -> bool:
    """Whether it may have been unwell at any time of a span."""
    return any(
        harm.what == what and harm.number == number and harm.start <= end and start <= harm.end + harm.recovers
        for harm in harms
    )


def router_is_well(
    simulation: "Simulation", call: CallResult, whats: tuple[str, ...] = ("router", "router_end")
) -> bool:
    """Whether nothing was done to a call's router, or to the way there, while it was under way. `router_end`: it was
    asked to end, which is a reason to refuse calls but not to lose any."""
    start, end = call.sent if call.sent is not None else call.due, call.ended or call.due
    idle = simulation.script.idle_seconds
    if idle and start <= IDLE_FROM + idle + 2.0 and end >= IDLE_FROM:
        return False
    return not any(harmed(simulation.harms, what, call.router, start, end) for what in whats)


def one_answer(simulation: "Simulation") -> Iterator[str]:
    """Each call ends, in time, once."""
    for call in simulation.callers.results:
        if call.ended is None:
            yield f"never ended: {show(call)}"
        elif call.answers > 1:
            yield f"{call.answers} answers: {show(call)}"
        elif call.status == "silent" and waits_for_disk(simulation, call):
            continue
        elif call.status in ("silent", "RESET", "lost") and router_is_well(simulation, call, ("router",)):
            yield f"no answer from a router that was not harmed: {show(call)}"
        elif call.status == "refused" and router_is_well(simulation, call):
            yield f"no answer from a router that is well: {show(call)}"
        elif call.status in ("INTERNAL", "UNKNOWN", "INVALID_ARGUMENT", "UNIMPLEMENTED"):
            yield f"an answer that nothing explains: {show(call)}"


def waits_for_disk(simulation: "Simulation", call: CallResult) -> bool:
    """Whether its answer may be held until its line is written, on a disk that takes long."""
    start, end = call.sent or call.due, call.ended or call.due
    return policy_refuses(simulation) and harmed(simulation.harms, "log", call.router, start, end)


def own_items(simulation: "Simulation") -> Iterator[str]:
    """What is answered is what the version that is named says of this call's history, or what two draft of it."""
    for call in simulation.callers.results:
        if call.status == "OK":
            if call.version:
                wanted = items_for(FIRST_ITEM + call.number, VERSIONS.index(call.version) + 1)
            else:
                wanted = list(drafted(simulation, call).items)
            if call.items != wanted:
                yield f"items {call.items}, not {wanted}: {show(call)}"
            if call.request_id != f"call-{call.number}":
                yield f"request id {call.request_id}: {show(call)}"


def drafted(simulation: "Simulation", call: CallResult) -> Draft[int]:
    """The list out of two that a call gets, at whatever router."""
    first, second = (
        items_for(FIRST_ITEM + call.number, VERSIONS.index(version) + 1) for version in simulation.script.interleave
    )
    return team_draft(first, second, 10, salt="simulated", user_id=call.user, request_id=f"call-{call.number}")


def nothing_refused_when_nothing_waits(simulation: "Simulation") -> Iterator[str]:
    """A call that is alone at its router is never refused as overload; every refusal has its pushback."""
    for call in simulation.callers.results:
        if call.status == "RESOURCE_EXHAUSTED":
            if not call.pushback:
                yield f"refused without a pushback: {show(call)}"
            if call.alone:
                yield f"refused, and nothing waits: {show(call)}"
            elif call.sent is not None and call.sent > FINAL + simulation.script.idle_seconds:
                yield f"refused long after the last fault: {show(call)}"


def no_call_lost(simulation: "Simulation", assigned: dict[str, list[str]]) -> Iterator[str]:
    """A call of a patient caller is answered where its own pool or the default's is well, but for one replica of
    several. `assigned`: the versions of calls by request id."""
    for call in simulation.callers.results:
        patient = call.deadline is None or call.deadline >= PATIENT_SECONDS
        if call.status in ("OK", "left") or not patient or not router_is_well(simulation, call) or call.sent is None:
            continue
        harms, ended = simulation.harms, call.ended or call.sent
        if any(harmed(harms, "load", router, call.sent, ended) for router in range(len(simulation.routers))):
            continue
        if harmed(harms, "log", call.router, call.sent, ended):
            continue
        versions = {VERSIONS[0], *assigned.get(f"call-{call.number}", [])}
        if any(is_safe(simulation, version, call.sent, ended) for version in versions):
            yield f"lost, though enough replicas are well: {show(call)}"


def is_safe(simulation: "Simulation", version: str, start: float, end: float) -> bool:
    """Whether all replicas of a pool are well throughout, or all but one of several."""
    pool = simulation.pools[version]
    unwell = sum(harmed(simulation.harms, "worker", worker, start, end) for worker in pool)
    return unwell == 0 or (unwell == 1 and len(pool) > 1)


def all_well_again(simulation: "Simulation") -> Iterator[str]:
    """After the last fault everything is as at the beginning: replicas in, queues empty, no call open."""
    for number, router in enumerate(simulation.routers):
        serving = router.serving
        if serving is None or router.process is None or not router.process.alive:
            yield f"router {number} does not serve at the end"
            continue
        if not serving.parts.health.serving:
            yield f"router {number} says NOT_SERVING at the end"
        if serving.parts.reloader.state.errors:
            yield f"router {number} still has {serving.parts.reloader.state.errors}"
        for version, pool in serving.parts.fleet.pools.items():
            found = sorted(replica.address for replica in pool.available)
            wanted = sorted(simulation.workers[one].address for one in simulation.pools[version])
            if found != wanted:
                yield f"router {number} has {found} of {version}, not {wanted}: {pool!r}"
            if pool.circuit_open(router.process.clock()):
                yield f"router {number}: the circuit of {version} is open"
        for replica in serving.parts.fleet.replicas():
            if replica.queue.load:
                yield f"router {number} still has calls in a queue: {replica!r}"
        if waiting := len(serving.parts.router.interleaving.pairs):
            yield f"router {number} still has {waiting} calls that wait for two versions"
        backlog = serving.parts.fleet.backlog
        if backlog.calls or backlog.bytes:
            yield f"router {number} has a backlog of {backlog.calls} calls and {backlog.bytes} bytes, and none waits"
        if serving.parts.server.in_progress:
            yield f"router {number} has {serving.parts.server.in_progress} calls in progress"
        if serving.parts.decision_log.failing:
            yield f"router {number}: the decision log is still failing"
    for call in simulation.callers.results:
        if call.due > FINAL + simulation.script.idle_seconds and call.status not in ("OK", "left"):
            yield f"not answered though all is well again: {show(call)}"


def one_line(simulation: "Simulation", lines: list[tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """Each call that a router has taken has one line, which says what its caller saw; a line that is missing is
    counted as lost, or belongs to a router that was killed."""
    found: dict[str, list[dict[str, Any]]] = {}
    for _, line in lines:
        if line["event"] == "exposure":
            found.setdefault(line["request_id"], []).append(line)
        elif line["event"] == "torn" and not any(harm.what in ("log", "router") for harm in simulation.harms):
            yield f"a torn line: {line['text']}"
    missing: dict[int, list[CallResult]] = {}
    for call in simulation.callers.results:
        mine = found.get(f"call-{call.number}", [])
        if len(mine) > 1:
            yield f"{len(mine)} lines: {show(call)}"
        if mine and call.status not in ("left", "lost", "silent", "RESET"):
            line = mine[0]
            said = (line["status"], line["served_version"] or "", line["items"])
            saw = (call.status, call.version, call.items)
            late = {line["status"], call.status} <= {"OK", "DEADLINE_EXCEEDED", "UNAVAILABLE"} and policy_refuses(
                simulation
            )
            if said != saw and not late:
                yield f"the line says {said}, the caller saw {saw}: {show(call)}"
            if call.group and line["group"] != call.group:
                yield f"the line says group {line['group']}, the answer {call.group}: {show(call)}"
        if not mine and call.status not in ("refused", "again", "lost", "silent", "left", "RESET"):
            if UNREAD in call.text or "starting" in call.text or "unlogged calls are refused" in call.text:
                continue
            killed = lost_with_router(simulation, call)
            if not killed:
                missing.setdefault(call.router, []).append(call)
                if policy_refuses(simulation) and call.status == "OK":
                    yield f"answered without a line under `refuse`: {show(call)}"
    for number, router in enumerate(simulation.routers):
        lost = router.lost_lines
        if router.serving is not None:
            lost += router.serving.parts.decision_log.counters.lost
        without = missing.get(number, [])
        if len(without) > lost:
            yield f"router {number}: {len(without)} calls without a line, {lost} counted as lost: {show(without[0])}"


def shadow_lines(simulation: "Simulation", lines: list[tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """Each call in the shadow has one line at most, of a call that its primary answered, with its own items; and
    at the end none waits."""
    calls = {f"call-{call.number}": call for call in simulation.callers.results}
    answered = {
        (line["request_id"], line["served_version"])
        for _, line in lines
        if line["event"] == "exposure" and line["status"] == "OK"
    }
    seen: set[tuple[str, str]] = set()
    for _, line in lines:
        if line["event"] != "shadow":
            continue
        request, version = line["request_id"], line["version"]
        if (request, version) in seen:
            yield f"two lines in the shadow of {request}"
        seen.add((request, version))
        if version == line["primary"]:
            yield f"{request} was asked again of the version that answered it"
        if (request, line["primary"]) not in answered and not any(
            h.what in ("log", "router") for h in simulation.harms
        ):
            yield f"{request} was asked again, and {line['primary']} did not answer it"
        wanted = items_for(FIRST_ITEM + calls[request].number, VERSIONS.index(version) + 1)
        if line["status"] == "OK" and line["items"] != wanted:
            yield f"items {line['items']} in the shadow of {request}, not {wanted}"
    for number, router in enumerate(simulation.routers):
        if router.serving is not None and (left := router.serving.parts.router.shadows.open):
            yield f"router {number} still has {left} calls in the shadow"


def interleaved_lines(simulation: "Simulation", lines: list[tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """A list out of two has the letters of its draft; one that a version gave alone has none, and a reason."""
    calls = {f"call-{call.number}": call for call in simulation.callers.results}
    for _, line in lines:
        if line["event"] != "exposure" or "versions" not in line:
            continue
        request = line["request_id"]
        if tuple(line["versions"]) != simulation.script.interleave or line["model_version"] is not None:
            yield f"{request} is interleaved from {line['versions']}"
        if line["status"] != "OK":
            continue
        if "teams" in line:
            wanted = drafted(simulation, calls[request])
            if (tuple(line["items"]), line["teams"]) != wanted or line["served_version"] or line["fallback"]:
                yield f"{request} has {line['items']} of {line['teams']}, not {wanted}"
        elif line["fallback"] is None or line["served_version"] is None:
            yield f"{request} has one version's list, and nothing says why"


def lost_with_router(simulation: "Simulation", call: CallResult) -> bool:
    """Whether its router was killed before it had to write the call's line: an answer may be under way then, and lines
    are handed over every 50 ms, and written after two writes at most, of 2 s each where the disk is slow; later where
    the router was held up, and not before it has room where the disk is full."""
    harms, router = simulation.harms, call.router
    for at in simulation.routers[router].kills:
        held_up = any(
            harm.what in ("log", "router") and harm.number == router and harm.start < at <= harm.end + HELD_UP_SECONDS
            for harm in harms
        )
        if call.ended is None:
            continue
        if harmed(harms, "full", router, call.ended, call.ended + HELD_UP_SECONDS) and harmed(
            harms, "full", router, at, at
        ):
            return True
        if -ON_ITS_WAY_SECONDS < at - call.ended < (HELD_UP_SECONDS if held_up else FLUSHED_SECONDS):
            return True
    return False


def policy_refuses(simulation: "Simulation") -> bool:
    """Whether answers wait for their lines."""
    flags = simulation.script.flags
    return flags[flags.index("--log-policy") + 1] == "refuse"


def one_group(lines: list[tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """A user has one group in an allocation, at every router, before and after every restart."""
    groups: dict[tuple[str, str], set[str]] = {}
    for _, line in lines:
        if line["event"] == "exposure" and line["group"] is not None:
            groups.setdefault((line["user_id"], line["allocation"]), set()).add(line["group"])
    for (user, allocation), several in sorted(groups.items()):
        if len(several) > 1:
            yield f"{user} is in {sorted(several)} of allocation {allocation}"
