"""Mutated files: each is read or refused with its mistakes; nothing crashes, hangs or gets through half."""

import os
import random
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from abfleet_experiments import advice, change, plan
from abfleet_experiments.assign import Assigner
from abfleet_experiments.config import Config
from abfleet_experiments.file import rewrite
from abfleet_experiments.file.errors import ConfigErrors
from abfleet_experiments.file.load import load_text

FILES = int(os.environ.get("ABFLEET_FUZZ_FILES", "3000"))
"""How many mutated files to try; raise it for a long run."""
PARTS = 8
AT = datetime(2026, 11, 5, tzinfo=UTC)
SEED_TEXT = """\
# a comment
version: 1
default: v1
models: {v1: {target: "dns:///h:1"}, v2: {target: ["h:2", "[::1]:3"]}}
holdout: {percent: 2.5, salt: h}
log_attributes: [country]
experiments:
  - name: one
    salt: соль   # why
    traffic: 40
    audience: {country: [NO, DE], age: {min: 18, max: 99}}
    overrides: {"42": b, пользователь: control}
    groups:
      - {name: control, model: v1, weight: 79.99}
      - {name: b, model: v2, weight: 20.01}
    ramp:
      - {at: 2026-11-01T00:00:00Z, traffic: 1, control: 90, b: 10}
      - {at: 2026-11-08T00:00:00Z, control: 79.99, b: 20.01}
    metrics: {primary: plays, guardrails: [error_rate, {name: response_time_p95, margin: 0.2}]}
    plan: {effect: 0.05, horizon: 2w, look: 12h}
  - {name: two, enabled: false, traffic: 60, groups: [{name: a, model: v2, weight: 100}]}
metrics:
  plays: {type: mean, outcome: long_play, window: 3d, winsorise: 0.99}
"""
TOKENS = (
    *"[]{}:,\n\t\"'|>#%~\x00\u2028\ufeff\rж\U0001f600",
    ": ",
    "- ",
    "? ",
    "  ",
    "&a ",
    "*a",
    "<<: ",
    "!!set ",
    "---\n",
    "...\n",
    "null",
    "true",
    "no",
    "0",
    "-1",
    "1e9",
    "1.10",
    ".nan",
    "9" * 400,
    "0x1F",
    "v1",
    "control",
    "x" * 300,
    "2026-11-01T00:00:00Z",
)


def _mutated(text: str, source: random.Random) -> str:
    """A few random edits: something inserted, cut, doubled, moved or put in the place of something else."""
    for _ in range(source.randint(1, 4)):
        start = source.randrange(len(text) + 1)
        end = min(len(text), start + source.choice((0, 1, 1, 2, 5, 20, 100)))
        kind = source.randrange(5)
        if kind == 0:
            text = text[:start] + source.choice(TOKENS) + text[start:]
        elif kind == 1:
            text = text[:start] + text[end:]
        elif kind == 2:
            text = text[:end] + text[start:end] * source.choice((1, 2, 50)) + text[end:]
        elif kind == 3:
            place = source.randrange(len(text) + 1)
            text = text[:place] + text[start:end] + text[place:]
        else:
            text = text[:start] + source.choice(TOKENS) + text[end:]
    return text


def _use(config: Config, text: str) -> None:
    """What people and routers would do with a file that was read."""
    assigner = Assigner(config, AT)
    for user_id in ("", "42", "user-1", "пользователь"):
        arm, _ = assigner.assign(user_id, {"country": "DE", "age": "20"})
        assert arm.model_version in config.models
    advice.advice(config)
    good = load_text(SEED_TEXT)
    assert sum(flow.share for flow in plan.plan(good, config, AT).now.flows) == 1
    for experiment in config.experiments[:2]:
        other = change.enabled(config, experiment.name, on=not experiment.enabled)
        with suppress(rewrite.RewriteError):  # said, and nothing written
            assert load_text(rewrite.rewrite(text, other)) == other


def _check(error: ConfigErrors, text: str) -> None:
    """Mistakes that a person can find and read."""
    lines = text.count("\n") + text.count("\r") + text.count("\u2028") + 2
    assert error.errors
    assert all(1 <= e.line <= lines and e.column >= 1 and len(str(e)) < 2000 for e in error.errors)


@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_files(part: int) -> None:
    """A mutated file is a whole configuration that works, or a list of mistakes with places inside the file."""
    accepted = refused = 0
    for number in range(part, FILES, PARTS):
        text = _mutated(SEED_TEXT, random.Random(number))
        try:
            config = load_text(text)
        except ConfigErrors as error:
            refused += 1
            _check(error, text)
        else:
            accepted += 1
            _use(config, text)
    assert accepted
    assert refused
