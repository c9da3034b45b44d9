"""Experiments that interleave two versions: what the file may say, who is in them, and what commands make of them."""

from datetime import timedelta

import pytest
from abfleet_experiments import change
from abfleet_experiments.advice import advice
from abfleet_experiments.assign import Assigner
from abfleet_experiments.bulk import BulkAssigner
from abfleet_experiments.change import ChangeError
from abfleet_experiments.config import Group
from abfleet_experiments.explain import explain
from abfleet_experiments.file.load import load_text
from abfleet_experiments.file.rewrite import rewrite
from abfleet_experiments.movement import movement
from abfleet_experiments.plan import plan

from tests.experiments.strategies import START

HEAD = """\
version: 1
default: v1
models: {v1: {target: "h:1"}, v2: {target: "h:2"}, v3: {target: "h:3"}}
experiments:
"""
DUEL = f"""{HEAD}\
  - name: duel
    interleave: [v1, v2]  # today's against the new one
    traffic: 20
    overrides: {{forced: interleaved}}
    plan: {{look: 1h, horizon: 2d, minimum: 1h}}
"""
RAMPED = f"""{DUEL}\
    ramp:
      - {{at: 2026-01-01T00:00:00Z, traffic: 5}}
      - {{at: 2126-01-01T00:00:00Z}}
"""
AB = f"{HEAD}  - {{name: duel, traffic: 20, groups: [{{name: control, model: v1, weight: 100}}]}}\n"
USERS = [f"user-{number}" for number in range(2000)]


def test_one_group_with_two_versions() -> None:
    """All of its users are in the group `interleaved`, and both versions are in use as soon as it takes anybody."""
    config = load_text(DUEL)
    (duel,) = config.experiments
    assert (duel.groups, duel.control) == ((Group("interleaved", "", 10_000),), "interleaved")
    assert (duel.interleave, duel.versions) == (("v1", "v2"), ("v1", "v2"))
    assert config.versions_in_use(START) == {"v1", "v2"}
    assert load_text(DUEL + "    enabled: false\n").versions_in_use(START) == {"v1"}
    assert config.revision != load_text(DUEL.replace("[v1, v2]", "[v2, v1]")).revision


def test_users_are_assigned_as_ever() -> None:
    """The same users as in any experiment of this salt and traffic; no version is theirs alone, propensity is 1."""
    duel, plain = (Assigner(load_text(text), START) for text in (DUEL, AB))
    taken = 0
    for user in USERS:
        (arm, bucket), (other, same_bucket) = duel.assign(user, {}), plain.assign(user, {})
        assert (arm.experiment, arm.reason, bucket) == (other.experiment, other.reason, same_bucket)
        if arm.experiment:
            taken += 1
            assert (arm.group, arm.model_version, arm.interleave) == ("interleaved", "", ("v1", "v2"))
            assert (arm.propensity, arm.served_by) == (1.0, "v1 + v2")
        else:
            assert (arm.model_version, arm.interleave) == ("v1", None)
    assert 300 < taken < 500
    assert duel.assign("forced", {})[0].reason == "override"
    rows = BulkAssigner(duel, {}).rows(["forced"])
    assert rows.startswith("forced,duel,interleaved,")
    assert rows.endswith(",,override\r\n")


def test_a_ramp_is_of_traffic_alone() -> None:
    """Rows have no shares; one without `traffic` takes the experiment's."""
    (duel,) = load_text(RAMPED).experiments
    assert [(row.traffic_bp, row.weights_bp) for row in duel.ramp] == [(500, (10_000,)), (2000, (10_000,))]


def test_explain_names_both() -> None:
    """Whoever asks why reads both versions."""
    user = next(user for user in USERS if Assigner(load_text(DUEL), START).assign(user, {})[0].experiment)
    steps = explain(load_text(DUEL), START, user, {}).steps
    assert steps[-1].text == ("duel: buckets 0 to 9999 are interleaved (100 %), whose lists v1 and v2 draft in turn")
    (forced,) = explain(load_text(DUEL), START, "forced", {}).steps
    assert "forces this user into interleaved, served by v1 and v2" in forced.text


def test_what_an_edit_does() -> None:
    """Beginning one changes the version of its share of users; other versions in it are another experiment."""
    begun = movement(load_text(HEAD + "  []\n"), START, load_text(DUEL), START)
    assert float(begun.entered) == float(begun.version_changed) == 0.2
    other = plan(load_text(DUEL), load_text(DUEL.replace("[v1, v2]", "[v1, v3]")), START)
    assert (float(other.now.moved), float(other.now.version_changed)) == (0, 0.2)
    (warning,) = other.warnings
    assert (warning.kind, "it interleaved v1 and v2 and now v1 and v3" in warning.message) == ("model_changed", True)
    assert not plan(load_text(DUEL), load_text(DUEL), START).warnings
    into = plan(load_text(AB), load_text(DUEL), START)
    assert "it interleaved no versions and now v1 and v2" in " ".join(map(str, into.warnings))


@pytest.mark.parametrize("text", [DUEL, RAMPED], ids=["plain", "ramped"])
def test_commands_edit_the_file(text: str) -> None:
    """More traffic is a row without shares; halt, resume and conclude do what they say; the rest of the text stays."""
    config = load_text(text)
    at = START + timedelta(days=36_500 if text is RAMPED else 1)
    more = change.ramped(config, "duel", {}, traffic_bp=1000, at=at, now=START, drop_later=text is RAMPED)
    assert f"at: {at:%Y-%m-%dT%H:%M:%S}Z, traffic: 10}}" in rewrite(text, more)
    off = change.enabled(config, "duel", on=False)
    on = change.given_back(load_text(rewrite(text, off)), "duel", None, at=START)
    assert load_text(rewrite(rewrite(text, off), on)) == config
    over = rewrite(text, change.concluded(config, "duel", winner="v2", at=START))
    assert load_text(over).default == "v2"
    assert load_text(over).concluded[0].winner == "v2"
    assert "interleave" not in over


def test_changes_that_make_no_sense() -> None:
    """Its group cannot be halted, and only one of its versions can win."""
    config = load_text(DUEL)
    with pytest.raises(ChangeError, match="`v3` is not a version of `duel`; allowed: v1, v2"):
        change.concluded(config, "duel", winner="v3", at=START)
    with pytest.raises(ChangeError, match="halt the experiment instead"):
        change.halted(config, "duel", "interleaved", at=START)
    with pytest.raises(ChangeError, match="`duel` is already running"):
        change.given_back(config, "duel", None, at=START)


def test_an_alias_is_advised_against() -> None:
    """What it stands for may change in the middle."""
    text = DUEL.replace("v2: {", "staging: {").replace("[v1, v2]", "[v1, staging]")
    assert [one.key_path for one in advice(load_text(text))] == ["experiments[0].interleave[1]"]
