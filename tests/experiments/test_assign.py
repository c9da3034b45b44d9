"""Assignment: the order of evaluation case by case, and whole files against a second reading of the rules."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from abfleet_experiments.assign import Arm, Assigner
from abfleet_experiments.bucketing import bucket
from abfleet_experiments.file.load import load_text
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.experiments import reference
from tests.experiments.strategies import START, USERS, WORDS, days, files, percent, text_of

HEAD = "version: 1\ndefault: v1\nmodels: {v1: {target: 'h:1'}, v2: {target: 'h:2'}, v3: {target: 'h:3'}}\n"
GROUPS = "groups: [{name: control, model: v1, weight: 50}, {name: one, model: v2, weight: 50}]"


def _assign(text: str, user_id: str, at: datetime = START, **attributes: str) -> Arm:
    return Assigner(load_text(HEAD + text), at).assign(user_id, attributes)[0]


@settings(max_examples=120, deadline=None)
@given(
    files(),
    st.lists(USERS, min_size=1, max_size=30),
    st.dictionaries(st.sampled_from(("country", "language", "other")), st.sampled_from((*WORDS, "XX")), max_size=2),
)
def test_agrees_with_a_second_reading(file: dict[str, Any], users: list[str], attributes: dict[str, str]) -> None:
    """Whatever the file, the user and the attributes: experiment, group, version, reason and bucket are the rules'."""
    assigner = Assigner(load_text(text_of(file)), START)
    for user_id in ["", *(str(number) for number in range(10)), *users]:
        arm, user_bucket = assigner.assign(user_id, attributes)
        expected = reference.decide(file, user_id, attributes)
        assert (arm.experiment, arm.group, arm.model_version, arm.reason) == expected
        salts = {e["name"]: e["salt"] for e in file["experiments"]}
        assert user_bucket == (reference.bucket(salts[arm.experiment], user_id) if arm.experiment else None)
        assert assigner.arms[arm.index] is arm


ORDER_OF_EVALUATION = (
    # What the file has, and the reason and experiment that come of it, each line beating those below it.
    ("", "holdout: {percent: 100}", "overrides: {u: one}", "no_user_id", None),
    ("u", "holdout: {percent: 100}", "overrides: {u: one}, traffic: 0, audience: {a: b}", "override", "e"),
    ("u", "holdout: {percent: 100}", "", "holdout", None),
    ("u", "", "", "allocated", "e"),
    ("u", "", "audience: {a: b}", "not_in_audience", None),
    ("u", "", "traffic: 0, audience: {a: b}", "not_in_traffic", None),
    ("u", "", "enabled: false, audience: {a: b}", "not_in_traffic", None),
    ("u", "", "enabled: false, overrides: {u: one}", "not_in_traffic", None),
)


@pytest.mark.parametrize(("user", "top", "inside", "reason", "experiment"), ORDER_OF_EVALUATION)
def test_order_of_evaluation(user: str, top: str, inside: str, reason: str, experiment: str | None) -> None:
    """No user id, override, holdout, layers, default: each before the next; a disabled experiment takes nobody."""
    keys = f"name: e, {inside}{', ' if inside else ''}{GROUPS}"
    arm = _assign(f"{top}\nexperiments:\n  - {{{keys}}}\n", user)
    assert (arm.reason, arm.experiment) == (reason, experiment)
    if experiment is None:
        assert (arm.layer, arm.group, arm.allocation, arm.propensity) == (None, None, None, None)
        assert arm.model_version == "v1"


def test_a_file_without_experiments() -> None:
    """The default serves, and the reason says that there is nothing to be in."""
    assert _assign("", "u").reason == "no_experiment"


def test_shares_end_where_they_say() -> None:
    """A share of b basis points takes the buckets below b: the user of bucket b - 1, not the one of bucket b."""
    for user_id in (f"u{number}" for number in range(50)):
        held, placed = bucket("holdout", user_id), bucket("layer/default", user_id)
        for more, reason in ((0, "allocated"), (1, "holdout")):
            top = f"holdout: {{percent: {percent(held + more)}}}\nexperiments:\n"
            assert _assign(f"{top}  - {{name: e, {GROUPS}}}\n", user_id).reason == reason
        for more, reason in ((0, "not_in_traffic"), (1, "allocated")):
            text = f"experiments:\n  - {{name: e, traffic: {percent(placed + more)}, {GROUPS}}}\n"
            assert _assign(text, user_id).reason == reason
        upper = f"  - {{name: upper, traffic: {percent(placed)}, {GROUPS}}}\n"
        assert _assign(f"experiments:\n{upper}  - {{name: e, traffic: 0.01, {GROUPS}}}\n", user_id).experiment == "e"


def test_the_first_override_in_the_file_wins() -> None:
    """A user forced by two experiments is in the upper one, even if a layer below would take the user too."""
    two = "".join(f"  - {{name: {n}, layer: {n}, overrides: {{u: one}}, {GROUPS}}}\n" for n in ("a", "b"))
    assert _assign("experiments:\n" + two, "u").experiment == "a"


def test_layers_are_asked_in_order_of_first_appearance() -> None:
    """Layer x is named first and takes everyone; y is asked only for those whom x does not take."""
    x, y = (f"  - {{name: {n}, layer: {n}, audience: {{c: [{n}, both]}}, {GROUPS}}}\n" for n in "xy")
    for sent, expected in (("x", "x"), ("y", "y"), ("both", "x"), ("none", None)):
        assert _assign("experiments:\n" + x + y, "u", c=sent).experiment == expected


def test_many_layers_are_remembered_as_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more layers than a few, who comes again is not hashed again, and gets what a plain walk through all of them
    gives, whatever the attributes then are."""
    experiments = "".join(
        f"  - {{name: e{n}, layer: l{n}, traffic: 20, audience: {{c: [x, y{n % 2}]}}, {GROUPS}}}\n" for n in range(8)
    )
    text = HEAD + "experiments:\n" + experiments + f"  - {{name: last, layer: last, traffic: 60, {GROUPS}}}\n"
    remembering = Assigner(load_text(text), START)
    monkeypatch.setattr("abfleet_experiments.assign.FEW_LAYERS", 100)
    walking = Assigner(load_text(text), START)
    found = set()
    for attributes in ({"c": "x"}, {"c": "y0"}, {"c": "y1"}, {}, {"c": "x"}):
        for number in range(300):
            arm, user_bucket = remembering.assign(f"u{number}", attributes)
            assert (arm, user_bucket) == walking.assign(f"u{number}", attributes)
            found.add(arm.experiment)
    assert found == {None, "last", *(f"e{n}" for n in range(8))}


def test_not_in_audience_outranks_not_in_traffic() -> None:
    """One layer's audience refused and another has no slice: the attribute is what could be otherwise."""
    refuses = f"  - {{name: a, layer: a, audience: {{c: d}}, {GROUPS}}}\n"
    empty = f"  - {{name: b, layer: b, traffic: 0, {GROUPS}}}\n"
    assert _assign("experiments:\n" + refuses + empty, "u").reason == "not_in_audience"
    assert _assign("experiments:\n" + empty + refuses, "u").reason == "not_in_audience"


@pytest.mark.parametrize(
    ("condition", "value", "matches"),
    [
        ("DE", "DE", True),
        ("DE", "de", False),
        ("NO", "NO", True),
        ("[DE, FR]", "FR", True),
        ("[DE, FR]", None, False),
        ("3", "3", True),
        ("3", "3.0", False),
        ("true", "true", True),
        ("{min: 18}", "18", True),
        ("{min: 18}", "17.99", False),
        ("{max: 3}", "-4", True),
        ("{min: 1, max: 2}", "1.5", True),
        ("{min: 1, max: 2}", "2.01", False),
        ("{min: 1}", "abc", False),
        ("{min: 1}", "nan", False),
        ("{min: 1}", "1_000", False),
        ("{min: 1}", " 5", False),
        ("{min: 1}", "٣", False),
        ("{min: 1}", None, False),
        ("{max: 5}", None, False),
        ("{present: true}", "", True),
        ("{present: true}", None, False),
        ("{present: false}", None, True),
        ("{present: false}", "x", False),
    ],
)
def test_audience_conditions(condition: str, value: str | None, matches: bool) -> None:
    """Equality as text, lists, ranges of numbers with both ends, presence."""
    text = f"experiments:\n  - {{name: e, audience: {{a: {condition}}}, {GROUPS}}}\n"
    arm = _assign(text, "u", **({} if value is None else {"a": value}))
    assert arm.reason == ("allocated" if matches else "not_in_audience")


def test_all_conditions_must_hold() -> None:
    """Two conditions are an and."""
    text = f"experiments:\n  - {{name: e, audience: {{a: x, b: [y, z]}}, {GROUPS}}}\n"
    assert _assign(text, "u", a="x", b="z").reason == "allocated"
    assert _assign(text, "u", a="x").reason == "not_in_audience"
    assert _assign(text, "u", b="y").reason == "not_in_audience"


RAMP = """experiments:
  - name: e
    overrides: {forced: one}
    groups: [{name: control, model: v1, weight: 60}, {name: one, model: v2, weight: 40}]
    ramp:
      - {at: 2026-11-02T00:00:00Z, traffic: 10, control: 90, one: 10}
      - {at: 2026-11-03T00:00:00Z, traffic: 50, control: 60, one: 40}
      - {at: 2026-11-04T02:00:00+02:00, control: 60, one: 40}
"""


def test_the_row_in_force_counts() -> None:
    """Before the first row nobody is taken; from the very instant of a row its shares and traffic hold."""
    config = load_text(HEAD + RAMP)
    users = [f"u{i}" for i in range(3000)]
    places = {user: bucket("layer/default", user) for user in users}
    for at, traffic, share in ((1.5, 0, 0), (2, 1000, 1000), (2.999, 1000, 1000), (3, 5000, 4000), (4, 10_000, 4000)):
        when = days(at - 1)
        assigner = Assigner(config, when)
        for user in users:
            arm, user_bucket = assigner.assign(user, {})
            if places[user] < traffic:
                assert arm.group == ("one" if bucket("e", user) < share else "control")
                assert arm.propensity == (share if arm.group == "one" else 10_000 - share) / 10_000
                assert user_bucket == bucket("e", user)
            else:
                assert (arm.reason, user_bucket) == ("not_in_traffic", None)


def test_next_change_walks_the_rows() -> None:
    """A router that recompiles at each `next_change` meets every row once, and then there is none."""
    config, at, met = load_text(HEAD + RAMP), START, []
    while (change := Assigner(config, at).next_change) is not None:
        met.append(change)
        at = change
    assert met == [days(1), days(2), days(3)]
    halted = load_text(HEAD + RAMP.replace("name: e\n", "name: e\n    enabled: false\n"))
    assert Assigner(halted, START).next_change is None


def test_an_override_works_before_the_first_row() -> None:
    """Testers see a treatment before it begins; there is no allocation yet, so no propensity either."""
    arm = _assign(RAMP, "forced")
    assert (arm.reason, arm.group, arm.allocation, arm.propensity) == ("override", "one", None, None)


def test_growing_traffic_changes_nobodys_group() -> None:
    """At fixed weights, more traffic only adds users."""
    small, large = (
        Assigner(load_text(f"{HEAD}experiments:\n  - {{name: e, traffic: {t}, {GROUPS}}}\n"), START) for t in (10, 35.5)
    )
    stayed = 0
    for number in range(5000):
        before, after = small.assign(str(number), {})[0], large.assign(str(number), {})[0]
        if before.group is not None:
            stayed += 1
            assert after.group == before.group
    assert stayed > 300


def test_a_disabled_experiment_keeps_its_slice() -> None:
    """Halting the upper experiment of a layer moves nobody into, out of or within the lower one."""

    def assigner(enabled: str) -> Assigner:
        upper = f"  - {{name: a, traffic: 40, enabled: {enabled}, {GROUPS}}}\n"
        return Assigner(load_text(f"{HEAD}experiments:\n{upper}  - {{name: b, traffic: 60, {GROUPS}}}\n"), START)

    on, off = assigner("true"), assigner("false")
    for number in range(3000):
        before, after = on.assign(str(number), {})[0], off.assign(str(number), {})[0]
        assert (after.experiment, after.group) == (
            (before.experiment, before.group) if before.experiment == "b" else (None, None)
        )


def test_a_ramped_experiment_keeps_its_slice() -> None:
    """A ramp of the upper experiment fills its own slice, and moves nobody of the lower one."""
    shares = "control: 50, one: 50"
    ramp = f"[{{at: 2026-11-02T00:00:00Z, traffic: 1, {shares}}}, {{at: 2026-11-03T00:00:00Z, {shares}}}]"
    upper = f"  - {{name: a, traffic: 40, ramp: {ramp}, {GROUPS}}}\n"
    config = load_text(f"{HEAD}experiments:\n{upper}  - {{name: b, traffic: 60, {GROUPS}}}\n")
    early, late = Assigner(config, days(1)), Assigner(config, days(2))
    for number in range(3000):
        before, after = early.assign(str(number), {})[0], late.assign(str(number), {})[0]
        assert (before.experiment == "b") == (after.experiment == "b")


def test_allocations_are_told_apart() -> None:
    """The id follows salt, traffic, weights and buckets; renaming the owner, or another experiment, leaves it."""

    def allocation(text: str, day: float = 9) -> str | None:
        return Assigner(load_text(HEAD + text), days(day)).allocations[0].allocation

    first = allocation(RAMP)
    assert first == allocation(RAMP.replace("name: e\n", "name: e\n    owner: me\n"))
    changed = [
        allocation(RAMP, 2),
        allocation(RAMP, 1),
        allocation(RAMP.replace("name: e\n", "name: e\n    salt: other\n")),
    ]
    assert len({first, *changed}) == 4
    assert allocation(RAMP, 0) is None


def test_same_weights_on_other_buckets_are_another_allocation() -> None:
    """Two ways to the same shares leave users in different groups, so what was seen of them must not be pooled."""
    weights = {"control": 10, "a": 30, "b": 30, "c": 30}
    groups = ", ".join(f"{{name: {name}, model: v1, weight: {weight}}}" for name, weight in weights.items())
    last = "{at: 2026-10-03T00:00:00Z, control: 10, a: 30, b: 30, c: 30}"
    first = "{at: 2026-10-01T00:00:00Z, c: 100}"
    direct, roundabout = (
        Assigner(load_text(f"{HEAD}experiments:\n  - {{name: e, groups: [{groups}], ramp: [{rows}]}}\n"), START)
        for rows in (last, f"{first}, {last}")
    )
    users = [str(number) for number in range(500)]
    assert any(direct.assign(u, {})[0].group != roundabout.assign(u, {})[0].group for u in users)
    assert direct.allocations[0].allocation != roundabout.allocations[0].allocation
    assert direct.allocations[0].weights == roundabout.allocations[0].weights


def test_allocation_events_say_what_is_in_force() -> None:
    """Traffic and weights in percent; a disabled experiment takes nothing."""
    (event,) = Assigner(load_text(HEAD + RAMP), days(2)).allocations
    assert (event.experiment, event.salt, event.traffic, event.weights) == ("e", "e", 50.0, {"control": 60, "one": 40})
    (early,) = Assigner(load_text(HEAD + RAMP), START).allocations
    assert (early.allocation, early.traffic, early.weights) == (None, 0.0, {})
    (off,) = Assigner(load_text(HEAD + RAMP.replace("name: e\n", "name: e\n    enabled: false\n")), days(2)).allocations
    assert off.traffic == 0.0


def test_versions_in_use_follow_time_and_weight() -> None:
    """A group at weight 0, a disabled experiment and one that has not begun need no worker; the default always does."""
    config = load_text(HEAD + RAMP)
    assert config.versions_in_use(START) == {"v1"}
    assert config.versions_in_use(days(1)) == {"v1", "v2"}
    groups = "groups: [{name: control, model: v2, weight: 100}, {name: one, model: v3, weight: 0}]"
    assert load_text(f"{HEAD}experiments: [{{name: e, {groups}}}]").versions_in_use(START) == {"v1", "v2"}
    off = load_text(f"{HEAD}experiments: [{{name: e, enabled: false, {groups}}}]")
    assert off.versions_in_use(START + timedelta(days=99)) == {"v1"}
