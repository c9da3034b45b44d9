"""Plans: what an edit's warnings say, and the rows that are still to come."""

import json

import pytest
from abfleet_experiments.advice import advice, changeable
from abfleet_experiments.assign import Assigner
from abfleet_experiments.file.load import load_text
from abfleet_experiments.plan import EditPlan, plan

from tests.experiments.strategies import START, days

FILE = """\
version: 1
default: v1
models: {v1: {target: "h:1"}, v2: {target: "h:2"}, v3: {target: "h:3"}}
holdout: {percent: 1}
experiments:
  - name: e
    salt: s
    traffic: 50
    audience: {country: DE}
    groups:
      - {name: control, model: v1, weight: 70}
      - {name: one, model: v2, weight: 20}
      - {name: two, model: v3, weight: 10}
  - {name: f, traffic: 20, groups: [{name: control, model: v1, weight: 100}]}
"""
TWO_WEIGHTS = "weight: {}}}\n      - {{name: one, model: v2, weight: {}"
RAMP = """\
    ramp:
      - {at: 2026-10-01T00:00:00Z, control: 90, one: 10}
      - {at: 2026-11-02T00:00:00Z, control: 80, one: 20}
      - {at: 2026-11-03T00:00:00Z, control: 70, one: 20, two: 10}
  - {name: f"""
RAMPED = FILE.replace("  - {name: f", RAMP)


def _plan(old: str, new: str) -> EditPlan:
    return plan(load_text(old), load_text(new), START)


def _kinds(made: EditPlan) -> set[str]:
    return {warning.kind for warning in made.warnings}


def test_no_change_no_warning() -> None:
    """A file against itself is silent."""
    made = _plan(FILE, FILE)
    assert (made.now.moved, made.warnings, made.later) == (0, (), ())


def test_an_edit_of_money_moves_nobody() -> None:
    """Currency and rates, of the file and of a metric: no user moves, every allocation stays, nothing is warned of."""
    own = "metrics: {a: {type: mean, outcome: x, currency: JPY, rates: {EUR: 165}}}\n"
    plain = own.replace(", currency: JPY, rates: {EUR: 165}", "") + FILE
    with_money = "currency: EUR\nrates: {USD: 0.92}\n" + own + FILE
    for old, new in ((plain, with_money), (with_money, plain), (with_money, with_money.replace("0.92", "0.93"))):
        made = _plan(old, new)
        assert (made.now.moved, made.warnings, made.later) == (0, (), ())
        old_allocations, new_allocations = (
            [(one.experiment, one.allocation) for one in Assigner(load_text(text), START).allocations]
            for text in (old, new)
        )
        assert old_allocations == new_allocations


@pytest.mark.parametrize(
    ("old", "new", "kinds"),
    [
        ("default: v1", "default: v2", {"default_changed"}),
        ("percent: 1", "percent: 2", {"holdout_changed", "treatment_loses_users"}),
        ("salt: s", "salt: t", {"salt_changed", "treatment_loses_users"}),
        ("country: DE", "country: FR", {"audience_changed"}),
        ("model: v2", "model: v3", {"model_changed"}),
        (TWO_WEIGHTS.format(70, 20), TWO_WEIGHTS.format(60, 30), {"weights_without_ramp"}),
        (TWO_WEIGHTS.format(70, 20), TWO_WEIGHTS.format(80, 10), {"weights_without_ramp", "treatment_loses_users"}),
        ("name: one", "name: uno", {"groups_changed", "treatment_loses_users", "weights_without_ramp"}),
        ("traffic: 50", "traffic: 60", {"slice_moved"}),
        ("salt: s", "salt: s\n    enabled: false", {"treatment_loses_users"}),
        ("  - {name: f, ", "  - {name: g, ", {"experiment_removed"}),
        (
            "salt: s",
            "salt: s\n    exclude: [{from: 2026-11-01T00:00:00Z, to: 2026-11-01T01:00:00Z, why: x}]",
            {"exclude_changed"},
        ),
        ("experiments:", "shadow: [{model: v2, percent: 1}]\nexperiments:", {"shadow_changed"}),
        ("weight: 10}", "weight: 10, control: true}", {"control_changed", "treatment_loses_users", "groups_changed"}),
    ],
)
def test_each_edit_has_its_warnings(old: str, new: str, kinds: set[str]) -> None:
    """An edit is warned of for what it does, and for nothing else."""
    assert old in FILE
    changed = FILE.replace(old, new)
    if "control: true" in new:
        changed = changed.replace("name: control, model: v1, weight: 70", "name: base, model: v1, weight: 70")
        kinds = kinds | {"weights_without_ramp"}
    assert _kinds(_plan(FILE, changed)) == kinds


def test_weights_with_a_ramp_row_are_not_warned_of() -> None:
    """The recommended way is silent."""
    assert "weights_without_ramp" not in _kinds(_plan(FILE, RAMPED))


def test_a_past_row_deleted_is_warned_of() -> None:
    """Past rows decide buckets; the plan says what deleting one moves now."""
    gone = RAMPED.replace("      - {at: 2026-10-01T00:00:00Z, control: 90, one: 10}\n", "")
    made = _plan(RAMPED, gone)
    assert "past_row_changed" in _kinds(made)
    assert made.now.left > 0
    added = RAMPED.replace("2026-11-02", "2026-11-01T00:00:00Z, control: 85, one: 15}\n      - {at: 2026-11-02")
    made = _plan(RAMPED, added)
    assert made.now.moved > 0
    assert "past_row_changed" not in _kinds(made)


def test_rows_to_come_are_planned() -> None:
    """Each future row has its own movement, in order of time."""
    made = _plan(FILE, RAMPED)
    assert [step.at for step in made.later] == [days(1), days(2)]
    users = 0.5 * 0.99
    assert [float(step.movement.moved) for step in made.later] == pytest.approx([0.1 * users, 0.1 * users])


def test_audiences_are_said_to_be_assumed() -> None:
    """Shares that leave audiences aside say so."""
    assert _plan(FILE, FILE).matching_only
    everyone = FILE.replace("    audience: {country: DE}\n", "")
    assert not _plan(everyone, everyone).matching_only


def test_as_dict_is_json() -> None:
    """The plan's plain values survive JSON and carry the main figures."""
    values = json.loads(json.dumps(_plan(FILE, FILE.replace("salt: s", "salt: t")).as_dict()))
    assert values["moved"] == pytest.approx(100 * 0.5 * 0.99 * 0.46)
    assert sum(flow["share"] for flow in values["flows"]) == pytest.approx(100)
    assert values["warnings"][0]["kind"] == "salt_changed"


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("country", False),
        ("purchases_30d", True),
        ("app_version", False),
        ("session_count", True),
        ("os", False),
        ("tier", True),
    ],
)
def test_attributes_that_a_treatment_can_change(attribute: str, expected: bool) -> None:
    """Words of behaviour are changeable, what is fixed before the request is not; any other quantity is."""
    assert changeable(attribute, quantity=False) is expected
    assert changeable("score", quantity=True)
    assert not changeable("age", quantity=True)


@pytest.mark.parametrize(
    ("old", "new", "path", "words"),
    [
        ("country: DE", "purchases: {min: 3}", "experiments[0].audience.purchases", "a treatment may change"),
        ("name: f, ", "name: f, salt: s, ", "experiments[1].salt", "is also the salt of `e`"),
        ('target: "h:2"', 'target: "h:1"', 'models["v2"].target', "is also a target of `v1`"),
        ("salt: s", "salt: s\n    overrides: {u: one}", "experiments[0].overrides", "has weight 0"),
        ("v2", "staging", "experiments[0].groups[1].model", "`staging` is an alias"),
        (
            "name: f, ",
            "name: f, ramp: [{at: 2026-11-01T00:00:00Z, traffic: 0, control: 100}], ",
            "experiments[1].ramp[0].traffic",
            "the last row takes no users",
        ),
    ],
)
def test_advice(old: str, new: str, path: str, words: str) -> None:
    """What is allowed and still worth a second look is told with its key."""
    text = FILE.replace(old, new)
    if "overrides" in new:
        text = text.replace("weight: 70", "weight: 90").replace("v2, weight: 20", "v2, weight: 0")
    (remark,) = advice(load_text(text))
    assert remark.key_path == path
    assert words in remark.message


def test_a_shadow_is_told_in_words_and_moves_nobody() -> None:
    """The plan says who is asked with which calls, and what is over; the revision is another one."""
    shadowed = FILE.replace("experiments:", "shadow: [{model: v3, percent: 12.5, of: [v1, v2]}]\nexperiments:")
    made, back = _plan(FILE, shadowed), _plan(shadowed, FILE)
    assert (made.now.moved, made.now.version_changed) == (0, 0)
    assert made.old_revision != made.new_revision == load_text(shadowed).revision
    (warning,) = made.warnings
    assert "shadow calls go to v3 with 12.5 % of the calls of v1, v2; no user sees" in str(warning)
    assert [str(one) for one in back.warnings] == ["shadow calls are switched off; no user moves"]


@pytest.mark.parametrize(
    ("shadow", "path"),
    [
        ("{model: v1, percent: 10}", None),
        ("{model: v2, percent: 10, of: [v1]}", None),
        ("{model: v2, percent: 10, of: [v4]}", "shadow[0].of"),
    ],
)
def test_a_shadow_of_calls_that_nobody_makes_is_advised_against(shadow: str, path: str | None) -> None:
    """`of` should name a version that somebody gets."""
    text = FILE.replace('v3: {target: "h:3"}', 'v3: {target: "h:3"}, v4: {target: "h:4"}')
    config = load_text(text.replace("experiments:", f"shadow: [{shadow}]\nexperiments:"))
    assert [one.key_path for one in advice(config)] == ([] if path is None else [path])


def test_a_shadow_of_the_only_version_is_advised_against() -> None:
    """A version is not compared with itself."""
    text = "version: 1\ndefault: v1\nmodels: {v1: {target: 'h:1'}}\nshadow: [{model: v1, percent: 1}]\n"
    assert [one.key_path for one in advice(load_text(text))] == ["shadow[0].model"]
