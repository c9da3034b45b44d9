"""The decision log under kills, stops and a flood: what was answered and what was logged are compared id by id.

`./run prove log` kills a router 50 times and stops it 50 times under 2,000 calls a second, sends a million outcomes
over a kill, and 20,000 lines a second for half a minute; the suite does a little of each. Broken disks are `./run prove
log-disks`.
"""

import asyncio
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from abfleet_analysis.reading.open_log import open_log
from abfleet_client import AsyncRecommender, OutcomeTally, SendingPolicy
from abfleet_protos.recommender_pb2 import Outcome as OutcomeMessage
from abfleet_protos.recommender_pb2 import RecommendRequest, RecordRequest, RecordResponse

from tests.support.fleet import Fleet, experiments_file, wait_until
from tests.support.framed_load import FramedLoad
from tests.support.log_books import read_books

FLUSH_SECONDS = 0.05
GRACE_SECONDS = 2 * FLUSH_SECONDS + 0.05
"""Before a kill: what was answered earlier than this has to be in the log."""
BATCH_OUTCOMES = 2000
"""Of a flood, in one call: a tenth of a second of 20,000 lines a second."""


def main() -> int:
    """Everything at full length; an assertion ends it."""
    with (
        tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name,
        Fleet(Path(name), experiments=experiments_file()) as fleet,
    ):
        print(kills(fleet, times=50, rate=2000, seconds=1), flush=True)
        print(stops(fleet, times=50, rate=2000, seconds=1), flush=True)
    proofs: list[Callable[[Fleet], str]] = [
        lambda fleet: outcomes(fleet, count=1_000_000, duplicates=0.05),
        lambda fleet: flood(fleet, lines_a_second=20_000, seconds=30, share=0.95),
    ]
    for proof in proofs:
        with (
            tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name,
            Fleet(Path(name), experiments=experiments_file(), versions=("v1.2.3",)) as fleet,
        ):
            print(proof(fleet), flush=True)
    return 0


# --- kills and stops --------------------------------------------------------------------------------------------------


def under_load(
    fleet: Fleet, rate: float, name: str, *, end: Callable[[], object], seconds: float
) -> tuple[FramedLoad, float]:
    """Calls at a rate; after a while `end` ends the router. Gives the calls and the instant just before it."""
    load = FramedLoad(fleet.address, rate, name, calls=int(rate * seconds * 6))
    load.start()
    try:
        wait_until(lambda: len(load.answered) >= rate * seconds, "answers to calls at that rate", 60)
        ended = time.monotonic()
        end()
    finally:
        load.join()
    return load, ended


def kills(fleet: Fleet, times: int, rate: float, *, seconds: float) -> str:
    """SIGKILL: what was answered before the last two flushes is in the log, and no torn line breaks a reader."""
    answered = latest = torn = 0
    rates = []
    for number in range(times):
        assert fleet.router is not None
        load, killed = under_load(fleet, rate, f"kill-{number}", end=fleet.router.kill, seconds=seconds)
        books = read_books(fleet.log_dir)
        exposed = books.exposed()
        due = [request_id for at, request_id in load.answered if at < killed - GRACE_SECONDS]
        assert due, "there were answers early enough to tell"
        missing = [request_id for request_id in due if request_id not in exposed]
        assert not missing, f"kill {number}: {len(missing)} of {len(due)} are missing, {missing[:3]} among them"
        assert books.unreadable == 0
        answered += len(load.answered)
        latest += sum(request_id not in exposed for _, request_id in load.answered)
        torn = books.torn
        rates.append(load.reached_rate)
        fleet.start_router()
    return (
        f"{times} kills at {_reached(rates)} of {rate:g} calls/s: {answered} answers, none missing of those older than "
        f"{GRACE_SECONDS * 1000:g} ms; {latest} younger ones are not in the log; {torn} torn lines, each alone"
    )


def stops(fleet: Fleet, times: int, rate: float, *, seconds: float) -> str:
    """SIGTERM: every answer is in the log, once, and no line is torn."""
    answered = cut = 0
    rates = []
    torn_before = read_books(fleet.log_dir).torn
    for number in range(times):
        router = fleet.router
        assert router is not None

        def stop(router: Any = router) -> None:
            assert (code := router.stop()) == 0, f"exit code {code}"

        load, _ = under_load(fleet, rate, f"stop-{number}", end=stop, seconds=seconds)
        books = read_books(fleet.log_dir)
        exposed = books.exposed()
        assert [request_id for _, request_id in load.answered if exposed[request_id] != 1] == [], f"stop {number}"
        assert (books.torn, books.unreadable) == (torn_before, 0)
        answered += len(load.answered)
        cut += load.failed.total()
        rates.append(load.reached_rate)
        fleet.start_router()
    return (
        f"{times} stops at {_reached(rates)} of {rate:g} calls/s: {answered} answers, each in the log once; "
        f"{cut} calls met the closing socket and have no answer"
    )


def _reached(rates: list[float]) -> str:
    return f"{statistics.median(rates):.0f} (median; least {min(rates):.0f})"


# --- outcomes ---------------------------------------------------------------------------------------------------------


def outcomes(fleet: Fleet, count: int, duplicates: float) -> str:
    """Outcomes with repeats go through Feedback while the router is killed and started again: each is in the log, and
    counts once by its id."""

    async def send() -> OutcomeTally:
        policy = SendingPolicy(linger_seconds=0.01, give_up_seconds=120)
        async with AsyncRecommender(fleet.address, timeout=120, sending=policy) as client:
            for number in range(count):
                await client.record("click", outcome_id=f"outcome-{number}", user_id=f"user-{number % 997}")
                if number == count // 2:
                    assert fleet.router is not None
                    await asyncio.to_thread(fleet.router.kill)
                    await asyncio.to_thread(fleet.start_router)
                if number * duplicates % 1 < duplicates:
                    earlier = number * 7919 % (number + 1)
                    await client.record("click", outcome_id=f"outcome-{earlier}", user_id=f"user-{earlier % 997}")
        return client.outcomes

    tally = asyncio.run(send())
    lines, counted = _outcome_lines(fleet, "click")
    assert counted == count, f"{counted} of {count} are counted by analysis"
    assert (tally.rejected, tally.lost) == (0, 0)
    assert tally.accepted >= count
    assert tally.accepted + tally.duplicate >= count * (1 + duplicates) * 0.99
    return (
        f"{count} outcomes and repeats over a kill: {tally.accepted} accepted, {tally.duplicate} duplicate at once, "
        f"{tally.retries} retries; {lines} lines, {counted} counted"
    )


def flood(fleet: Fleet, *, lines_a_second: int, seconds: float, share: float) -> str:
    """Outcomes at a rate of lines: each is acknowledged, is in the log, and the rate is kept up to `share` of it."""
    batches = int(lines_a_second * seconds / BATCH_OUTCOMES)
    messages = [
        RecordRequest(
            outcomes=[
                OutcomeMessage(
                    outcome_id=f"flood-{batch}-{number}",
                    request_id=f"r-{number}",
                    user_id=f"user-{number % 997}",
                    type="impression",
                    item_id=318,
                )
                for number in range(BATCH_OUTCOMES)
            ]
        ).SerializeToString()
        for batch in range(batches)
    ]

    async def send() -> tuple[int, float]:
        async with grpc.aio.insecure_channel(fleet.address) as channel:
            record: Any = channel.unary_unary(
                "/Feedback/Record", request_serializer=None, response_deserializer=RecordResponse.FromString
            )
            begun = time.monotonic()
            calls = []
            for number, message in enumerate(messages):
                await asyncio.sleep(begun + number * BATCH_OUTCOMES / lines_a_second - time.monotonic())
                calls.append(record(message, timeout=60))
            accepted = sum([(await call).accepted for call in calls])
            return accepted, time.monotonic() - begun

    accepted, took = asyncio.run(send())
    lines, counted = _outcome_lines(fleet, "impression")
    lost = fleet.status().decision_log.lost
    assert accepted == lines == counted == batches * BATCH_OUTCOMES
    assert lost == 0
    rate = lines / took
    assert rate >= share * lines_a_second, f"{rate:.0f} lines/s"
    return f"{lines} lines in {took:.1f} s: {rate:.0f} lines/s acknowledged and in the log, {lost} dropped"


def _outcome_lines(fleet: Fleet, kind: str) -> tuple[int, int]:
    """Lines of a type of outcome, and how many count, when nothing is buffered any more."""
    wait_until(lambda: not fleet.status().decision_log.buffered, "an empty buffer")
    with open_log([fleet.log_dir]) as log:
        query = "SELECT count(*), count(DISTINCT outcome) FROM lines WHERE event = 'outcome' AND type = ?"
        lines, counted = log.storage.connection.con.execute(query, [kind]).fetchone() or (0, 0)
    return lines, counted


def lines_on_stdout(fleet: Fleet) -> list[dict[str, Any]]:
    """Runs a router of the fleet that logs to standard output for one call, and gives what a collector would read."""
    command = [
        *(sys.executable, "-m", "abfleet_router", "--log-sink", "stdout", "--metrics-port", "off"),
        *("--experiments", str(fleet.experiments_path), "--fleet", str(fleet.fleet_path)),
        *("--listen", fleet.address, "--admin-listen", "127.0.0.1:0", "--log-dir", str(fleet.log_dir)),
    ]
    errors = fleet.folder / "stdout-router.stderr"
    with errors.open("wb") as stderr, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as router:
        try:
            wait_until(lambda: "ready " in errors.read_text(), "a router that logs to stdout", 60)
            with fleet.stub() as stub:
                stub.Recommend(RecommendRequest(user_id="user-1"), timeout=10)
        finally:
            router.send_signal(signal.SIGTERM)
            out, _ = router.communicate(timeout=30)
    return [json.loads(line) for line in out.splitlines()]


if __name__ == "__main__":
    raise SystemExit(main())
