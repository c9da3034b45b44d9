"""Explanations: always the answer that assign gives, with the decisions that led there."""

from typing import Any

from abfleet_experiments.assign import Assigner
from abfleet_experiments.bucketing import bucket
from abfleet_experiments.explain import explain
from abfleet_experiments.file.load import load_text
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.experiments import reference
from tests.experiments.strategies import START, USERS, files, percent, text_of


@settings(max_examples=200, deadline=None)
@given(files(), st.one_of(st.just(""), st.integers(0, 9).map(str), USERS), st.sampled_from(("DE", "NO", "XX")))
def test_the_steps_lead_to_the_answer(file: dict[str, Any], user_id: str, country: str) -> None:
    """The last step is the one that decided, and each step's bucket is that of its salt."""
    config = load_text(text_of(file))
    told = explain(config, START, user_id, {"country": country})
    arm, user_bucket = Assigner(config, START).assign(user_id, {"country": country})
    assert (told.arm, told.bucket) == (arm, user_bucket)
    last = told.steps[-1]
    ends = {"no_user_id": "user_id", "override": "override", "holdout": "holdout", "allocated": "experiment"}
    assert last.about == ends.get(arm.reason, "default")
    if arm.group is not None:
        assert f"{arm.experiment}" in last.text
        assert f" {arm.group}" in last.text
    for step in told.steps:
        if step.salt is not None:
            assert step.bucket == bucket(step.salt, user_id)
            assert step.hash == reference.murmur3_x86_32(f"{step.salt}:{user_id}".encode())


def test_where_the_traffic_in_force_ends() -> None:
    """The user of the first bucket beyond the traffic is told to be beyond it, the one before to be in."""
    place = bucket("layer/default", "user-1")
    for traffic, reason in ((place, "default"), (place + 1, "experiment")):
        config = load_text(
            "version: 1\ndefault: v1\nmodels: {v1: {target: 'h:1'}}\nexperiments:\n"
            "  - {name: e, groups: [{name: g, model: v1, weight: 100}],\n"
            f"     ramp: [{{at: 2026-10-01T00:00:00Z, traffic: {percent(traffic)}, g: 100}}]}}\n"
        )
        assert explain(config, START, "user-1", {}).steps[-1].about == reason


def test_a_story_with_every_kind_of_step() -> None:
    """A holdout passed, an audience that refuses, experiments that take nobody yet, then the default."""
    config = load_text(
        """\
version: 1
default: v1
models: {v1: {target: "h:1"}}
holdout: {percent: 0.01}
experiments:
  - {name: a, layer: a, audience: {c: [x, y]}, groups: [{name: control, model: v1, weight: 100}]}
  - name: b
    layer: b
    ramp: [{at: 2026-10-01T00:00:00Z, traffic: 0, g: 100}]
    groups: [{name: g, model: v1, weight: 100}]
  - {name: c, layer: c, ramp: [{at: 2027-01-01T00:00:00Z, g: 100}], groups: [{name: g, model: v1, weight: 100}]}
  - {name: d, layer: d, enabled: false, groups: [{name: g, model: v1, weight: 100}]}
  - {name: e, layer: e, traffic: 0, groups: [{name: g, model: v1, weight: 100}]}
"""
    )
    told = explain(config, START, "user-1", {"c": "z"})
    assert [step.about for step in told.steps] == ["holdout", *["layer", "experiment"] * 4, "layer", "default"]
    assert [step.text for step in told.steps if step.about == "experiment"] == [
        "a requires that c is x or y, and it is `z`: does not match",
        "b now takes 0 % of the layer's users, the first 0 buckets of its slice",
        "c takes no users before its first ramp row, at 2027-01-01T00:00:00Z",
        "d is not enabled",
    ]
    assert told.arm.reason == "not_in_audience"
