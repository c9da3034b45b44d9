"""Users' first bad events beside each treatment against a plain count, over three groups and a ramp. Real files."""

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

from abfleet_analysis.decision.metrics import metric_rules
from abfleet_analysis.evidence.gather_evidence import gather_evidence
from abfleet_analysis.evidence.log_lines import read_lines
from abfleet_analysis.periods.allocation_periods import microseconds, moment
from abfleet_analysis.reading.open_log import open_log
from abfleet_experiments.file.load import load_text

from tests.analysis.log_lines import START, LogLines, file_text

GROUPS = ("control", "treatment", "canary")
TEXT = file_text(guardrails=["error_rate"]).replace("weight: 50}\n    metrics", "weight: 30}\n    metrics")
TEXT = TEXT.replace("    metrics", "      - {name: canary, model: v2, weight: 20}\n    metrics", 1)
Call = tuple[int, str, str, str]
"""When, in seconds, whose, in which group, and why the assigned version did not answer."""


def made_calls(chance: random.Random) -> list[Call]:
    """Few users who come often, some of whose calls find nobody, or time out, or are answered wrongly."""
    group_of = {f"u{number}": GROUPS[number % 3] for number in range(60)}
    calls = []
    for second in sorted(chance.sample(range(20_000), 1500)):
        user = chance.choice(list(group_of))
        why = chance.choices(["", "timeout", "model_error", "unavailable"], [0.87, 0.06, 0.01, 0.06])[0]
        calls.append(
            (second, user, group_of[user], "" if group_of[user] == "control" and why == "unavailable" else why)
        )
    return calls


def counted(calls: list[Call], group: str, until: int) -> list[int]:
    """Users of control and of a treatment with a first bad event that counts between the two, by plain loops."""
    out = [second for second, _, of, why in calls if why == "unavailable" and of == group]
    firsts: dict[str, str] = {}
    for second, user, of, why in calls:
        near = any(abs(second - other) <= 60 for other in out)
        late = why == "timeout" and not near and second + 60 <= until
        if of in ("control", group) and (why == "model_error" or late):
            firsts.setdefault(user, of)
    return [sum(of == name for of in firsts.values()) for name in ("control", group)]


def test_first_bad_events_beside_each_treatment_are_the_plain_count(tmp_path: Path) -> None:
    """Timeouts around the outages of one treatment are left out of it and of the control that it is compared with."""
    differs = 0
    for seed in range(3):
        calls, log = made_calls(random.Random(seed)), LogLines()
        for second, user, group, why in calls:
            changed: dict[str, Any] = {"allocation": "000000000002"} if second > 11_000 else {}
            at = START + timedelta(seconds=second)
            bucket = GROUPS.index(group)
            log.exposure(user, group, at, fallback=why or None, propensity=0.3, bucket=bucket, **changed)
        config, experiment = load_text(TEXT), load_text(TEXT).experiments[0]
        rules = metric_rules(experiment.metrics, experiment.plan, config.metrics)
        as_of = calls[-1][0]
        with open_log([log.write(tmp_path)]) as opened:
            at = microseconds(START) + as_of * 1_000_000
            gathered, _ = gather_evidence(
                read_lines(opened, at), "test", experiment, rules, experiment.plan, moment(at)
            )
        found = gathered.evidence.bad_events["error_rate"]
        for index, name in ((1, "treatment"), (2, "canary")):
            sums = [found.control_of(index).sum(), found.counts[:, index].sum()]
            assert sums == counted(calls, name, as_of), (seed, name)
        assert found.control is not None
        differs += bool((found.control[:, 1] != found.control[:, 2]).any())
        assert found.blocks is not None
        assert (found.blocks.at_us // found.blocks.length_us >= found.blocks.first).all()
    assert differs  # what is left out depends on the treatment
