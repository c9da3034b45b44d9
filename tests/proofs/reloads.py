"""Live reloads: the plan is what happens, user by user; a thousand of them lose no call and leak nothing.

`./run prove reloads` runs 10,000 users through an edit and 1,000 reloads under load; the suite a short form of both.
"""

import asyncio
import random
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import psutil
from abfleet_experiments.assign import Assigner
from abfleet_experiments.file.load import load_text
from abfleet_experiments.movement import Placement, movement_of
from abfleet_experiments.plan import plan
from abfleet_protos.recommender_pb2 import RecommendRequest

from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.load import SEED_HISTORY, Load, call_all


def main() -> int:
    """Runs both at full length and prints what was seen; an assertion ends it."""
    flags = ("--reload-interval", "0.02")
    with (
        tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name,
        Fleet(Path(name), experiments=experiments_file(), router_flags=flags) as fleet,
    ):
        print(the_plan_is_what_happens(fleet, users=10_000), flush=True)
        print(reloads_under_load(fleet, reloads=1000), flush=True)
    return 0


def in_force(fleet: Fleet, text: str) -> None:
    """Saves a file and waits until the router follows it."""
    revision = load_text(text).revision
    fleet.edit(text)
    wait_until(lambda: fleet.status().config.revision == revision, f"revision {revision} in force")


def places(fleet: Fleet, users: list[str]) -> list[Placement]:
    """Where the running router puts each user."""
    requests = [RecommendRequest(item_ids=SEED_HISTORY, user_id=user) for user in users]
    answers = asyncio.run(call_all(fleet.address, requests))
    return [Placement(a.experiment or None, a.group or None, a.model_version) for a in answers]


def the_plan_is_what_happens(fleet: Fleet, users: int) -> str:
    """Before and after a live edit, each of `users` is where the plan says, and the shares that move are the plan's."""
    before_text, after_text = experiments_file(70, 20, 10), experiments_file(55, 30, 15)
    old, new = load_text(before_text), load_text(after_text)
    now = datetime.now(UTC)
    names = [f"user-{number}" for number in range(users)]
    in_force(fleet, before_text)
    before = places(fleet, names)
    in_force(fleet, after_text)
    after = places(fleet, names)
    in_force(fleet, before_text)
    was, will = Assigner(old, now), Assigner(new, now)
    for name, seen, seen_after in zip(names, before, after, strict=True):
        for assigner, place in ((was, seen), (will, seen_after)):
            arm, _ = assigner.assign(name, {})
            assert place == (arm.experiment, arm.group, arm.model_version), name
    seen_flows = Counter(zip(before, after, strict=True))
    predicted = movement_of(names, was, will, {})
    assert {(flow.before, flow.after): flow.share for flow in predicted.flows} == {
        pair: Fraction(count, users) for pair, count in seen_flows.items()
    }
    exact = plan(old, new, now)
    moved = sum(count for (one, other), count in seen_flows.items() if one[:2] != other[:2])
    assert exact.now.moved == Fraction(15, 100)
    assert all(one.group == "control" for (one, other) in seen_flows if one != other), "nobody leaves a treatment"
    share = f"{moved / users:.2%}; the plan says {float(exact.now.moved):.2%} of all"
    return f"{users} users: {moved} moved ({share}), each where it says"


def reloads_under_load(fleet: Fleet, reloads: int) -> str:
    """That many reloads while 100 calls a second run: no failed call; tasks, threads and descriptors as before."""
    assert fleet.router is not None
    process = psutil.Process(fleet.router.popen.pid)
    shuffled = random.Random(7)
    load = Load(fleet.address, 100, f"reload-{reloads}")

    def weights() -> str:
        canary = shuffled.randrange(0, 1000) / 100
        return experiments_file(round(80 - canary, 2), 20, canary, salt=f"salt-{shuffled.random()}")

    for _ in range(3):  # what is made once and kept is made now
        in_force(fleet, weights())
    wait_until(lambda: fleet.status().waiting.calls == 0, "nothing under way")
    tasks, threads, descriptors = fleet.status().tasks, process.num_threads(), process.num_fds()
    generation = fleet.status().config.generation
    begun = time.monotonic()

    async def story() -> None:
        for _ in range(reloads):
            await asyncio.to_thread(in_force, fleet, weights())

    asyncio.run(load.until(story()))
    seconds = time.monotonic() - begun
    assert load.errors == [], load.errors[0]
    assert load.answers
    status = fleet.status()
    assert status.config.generation == generation + reloads
    assert status.config.errors == []
    wait_until(lambda: fleet.status().tasks <= tasks, f"at most {tasks} tasks again")
    wait_until(lambda: process.num_fds() <= descriptors + 2, f"about {descriptors} descriptors again")
    # Idle threads of the pool that reads files come and go up to its size; more would be a leak.
    assert process.num_threads() <= threads + 8
    return (
        f"{reloads} reloads in {seconds:.0f} s, {len(load.answers)} calls, 0 failed; "
        f"tasks {tasks} then {fleet.status().tasks}, descriptors {descriptors} then {process.num_fds()}, "
        f"threads {threads} then {process.num_threads()}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
