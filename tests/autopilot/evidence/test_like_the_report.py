"""Line by line the autopilot comes to what a report computes from all lines at once."""

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abfleet_analysis.analyse import analyse
from abfleet_analysis.decision import guardrail_paths
from abfleet_analysis.decision.evidence import Evidence
from abfleet_analysis.decision.failures import CERTAIN, call_result
from abfleet_analysis.decision.metrics import Failure
from abfleet_analysis.evidence import guardrail_events
from abfleet_analysis.evidence.log_lines import call_results
from abfleet_autopilot.core import Core
from abfleet_autopilot.evidence.watched import BLOCK_US
from abfleet_autopilot.following.log_feed import LogFeed
from abfleet_experiments.file.load import load_text
from abfleet_log.schema import FALLBACKS, STATUSES

from tests.analysis.log_lines import START, LogLines, file_text

SLOW = "{name: response_time_p95, threshold_ms: 100}"
TEXT = file_text(guardrails=["error_rate", SLOW]).replace("    plan:", "    autopilot: {}\n    plan:")
FATES: tuple[dict[str, Any], ...] = (
    {"fallback": "model_error"},
    {"fallback": "timeout"},
    {"fallback": "unavailable", "attempts": 1},
    {"fallback": "ejected"},
    {"fallback": "overload"},
    {"status": "UNAVAILABLE", "attempts": 0},
    {"status": "UNAVAILABLE"},
    {"status": "DEADLINE_EXCEEDED"},
    {"status": "DEADLINE_EXCEEDED", "attempts": 0},
    {"status": "INTERNAL"},
    {"status": "UNKNOWN", "failure": "unavailable"},
    {"status": "CANCELLED"},
    {"latency_ms": 200.0},
)


def random_log(seed: int) -> LogLines:
    """Three hours of a call every two seconds by returning users, with everything that may become of a call."""
    rng, log = random.Random(seed), LogLines()
    log.allocation("000000000001", {"control": 50, "treatment": 50})
    at, gone = START, START
    while at < START + timedelta(hours=3):
        at += timedelta(seconds=rng.expovariate(0.5))
        user = rng.randrange(3000)
        group = ("control", "treatment")[user % 2]
        if rng.random() < 0.0005:
            gone = at + timedelta(seconds=rng.uniform(0, 900))
        fate = {"latency_ms": 200.0} if rng.random() < 0.05 else rng.choice(FATES) if rng.random() < 0.1 else {}
        if at < gone and rng.random() < 0.9:
            fate = {"fallback": "unavailable", "attempts": 1} if user % 2 else {"status": "UNAVAILABLE", "attempts": 0}
        log.exposure(f"u{user}", group, at, **fate)
    return log


@pytest.mark.parametrize("seed", [1, 2])
def test_the_evidence_is_that_of_a_report(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Users, outages and E of both halves, where the report's blocks are as short as the autopilot's."""
    monkeypatch.setattr(guardrail_events, "BLOCK_US", BLOCK_US)
    random_log(seed).write(tmp_path)
    config = load_text(TEXT)
    evidence: Evidence = analyse([tmp_path], config).experiments[0].gathered.evidence
    core, feed = Core(config), LogFeed(tmp_path)
    for line in (*feed.replay(1 << 60), *feed.rest()):
        core.take(line)
    core.tick(core.newest)
    guardrails = core.evidence["test"].treatments[1].guardrails
    assert guardrails is not None
    for kind in ("error_rate", "response_time_p95"):
        events, mine = evidence.bad_events[kind], guardrails.events[kind]
        assert (mine.treatment, mine.control) == (events.counts[:, 1].sum(), events.control_of(1).sum())
        steps = guardrail_paths._of_users(events, 1, np.ones(evidence.calendar.done + 1))
        assert mine.process.ln_e == pytest.approx(steps.log_e[-1], abs=1e-9)
        assert mine.process.capped == steps.capped
        assert mine.control > 15
    pair = evidence.outages[1]
    counted = guardrails.counts("error_rate", core.newest)
    unshared = ~pair.shared
    found = (int((pair.of_treatment & unshared).sum()), int((~pair.of_treatment & unshared).sum()))
    assert counted.outages[:2] == found
    # Of users who count already nothing is left out here.
    assert 0.9 * pair.left_out <= counted.left_out <= pair.left_out
    path = guardrail_paths.guardrail_path(evidence.bad_events["error_rate"], 1, evidence.calendar.done, pair)
    assert guardrails.highest["error_rate"][0] >= path.log_e[-1] - 1e-9  # it is asked after each event, not each block
    assert sum(found) > 3


def test_one_table_says_what_became_of_a_call() -> None:
    """The database and the autopilot read each combination of words alike."""
    import ibis

    rows = [
        {"status": status, "fallback": fallback, "failure": failure, "attempts": attempts}
        for status in (*STATUSES, None)
        for fallback in (*FALLBACKS, None)
        for failure in (*FALLBACKS, None)
        for attempts in (0, 1)
    ]
    schema = {"status": "string", "fallback": "string", "failure": "string", "attempts": "int32"}
    table = ibis.memtable(rows, schema=schema)
    cause = ibis.coalesce(table.failure, table.fallback)
    unsent = ibis.ifelse(table.attempts == 0, "unsent", ibis.null("string"))
    results = call_results(table.status, table.fallback, cause, unsent, ibis.null("string"))
    columns = ("failure", "own", "in_time")
    found = ibis.duckdb.connect().to_pyarrow(table.select(*schema, **{f"x_{one}": results[one] for one in columns}))
    for row in found.to_pylist():
        words = row["status"], row["fallback"], row["failure"]
        mine = call_result(*words, sent=row["attempts"] != 0)
        assert (int(mine.failure), mine.own, mine.timed) == (row["x_failure"], row["x_own"], row["x_in_time"]), row
    assert {Failure(row["x_failure"]) for row in found.to_pylist()} == set(Failure)
    assert np.isin("timeout", CERTAIN) == np.False_
