"""Reading the file: every mistake with its line, column and key, all at once, and none of YAML's traps."""

from datetime import timedelta
from pathlib import Path

import pytest
from abfleet_experiments.config import (
    AnalysisPlan,
    Autopilot,
    AutopilotRamp,
    Config,
    Guardrail,
    Holdout,
    InRange,
    LoggedOutputs,
    Metric,
    MetricsPlan,
    ModelTarget,
    Money,
    OipModel,
    OneOf,
    Presence,
)
from abfleet_experiments.file.errors import ConfigError, ConfigErrors
from abfleet_experiments.file.load import load, load_text

from tests.experiments.mistakes import MISTAKES, TRAPS, VALID

SHIPPED = Path(__file__).parents[3] / "experiments" / "recommender.yaml"


def _errors(text: str, fleet: str | None = None) -> list[ConfigError]:
    with pytest.raises(ConfigErrors) as caught:
        load_text(text, name="f", fleet_text=fleet, fleet_name="fleet")
    return list(caught.value.errors)


def test_the_shipped_file() -> None:
    """One experiment with control, experiment and canary at 70/20/10 over the three versions, no ramp."""
    config = load(SHIPPED)
    (experiment,) = config.experiments
    assert [(g.name, g.model, g.weight_bp) for g in experiment.groups] == [
        ("control", "v1.2.3", 7000),
        ("experiment", "v1.3.0-beta", 2000),
        ("canary", "v1.4.0-rc1", 1000),
    ]
    assert (config.default, experiment.name, experiment.salt) == ("v1.2.3", "homepage-ranking", "recommender-2026-11")
    assert experiment.ramp == ()
    assert list(config.models) == ["v1.2.3", "v1.3.0-beta", "v1.4.0-rc1"]


def test_defaults() -> None:
    """What the file leaves out has the documented default."""
    config = load_text(VALID.replace("    traffic: 50\n    salt: s\n", ""))
    (e,) = config.experiments
    assert (e.salt, e.layer, e.traffic_bp, e.enabled, e.control) == ("e", "default", 10_000, True, "control")
    assert (e.owner, e.hypothesis, e.audience, dict(e.overrides), e.ramp) == (None, None, (), {}, ())
    assert e.metrics == MetricsPlan("ctr", (Guardrail("error_rate"),), ())
    assert e.plan == AnalysisPlan()
    assert (config.holdout, config.metrics, config.log_attributes) == (Holdout(0, "holdout"), {}, ())
    assert config.money is None


def test_every_key_is_read() -> None:
    """A file that uses all there is means what it says."""
    config = load_text(
        """\
version: 1
default: v1
models: {v1: {target: "h:1"}, "1.10": {target: ["h:2", "[::1]:3"]}}
holdout: {percent: 2.5, salt: h}
log_attributes: [country]
currency: EUR
rates: {USD: 0.92}
experiments:
  - name: e
    owner: me
    hypothesis: |
      Two lines,
      of text.
    enabled: false
    salt: соль
    layer: l
    traffic: 12.34
    audience: {country: [NO, DE], age: {min: 18}, beta: {present: true}, os: ios}
    overrides: {"42": b, пользователь: a}
    groups: [{name: a, model: v1, weight: 99.99, control: true}, {name: b, model: "1.10", weight: 0.01}]
    ramp: [{at: 2026-11-01T00:00:00Z, traffic: 1, a: 99.99, b: 0.01}]
    metrics:
      primary: plays
      guardrails: [{name: error_rate, outages_per_day: 0.5}, {name: response_time_p95, margin: 0.2, threshold_ms: 250}]
      secondary: [revenue_per_user, fallback_rate]
    plan: {effect: 0.05, power: 0.9, horizon: 2w, look: 12h, minimum: 90s}
    exclude:
      - {from: 2026-11-04T00:00:00Z, to: 2026-11-05T01:00:00+01:00, why: later}
      - {from: 2026-11-03T00:00:00Z, to: 2026-11-04T00:00:00Z, why: "it touches, and is earlier"}
    autopilot: {halt: [broken_data], absent: 0, ramp: {traffic: [1, 12.34], hold: 12h, detect: 3}, conclude: ship}
metrics:
  plays: {type: mean, outcome: long_play, window: 3d, winsorise: 0.99, direction: down, margin: 0.05}
  orders: {type: mean, outcome: order, currency: JPY, rates: {EUR: 165}}
"""
    )
    (e,) = config.experiments
    assert config.models["1.10"] == ModelTarget(("h:2", "[::1]:3"))
    assert config.holdout == Holdout(250, "h")
    assert (e.hypothesis, e.salt, e.layer, e.traffic_bp) == ("Two lines,\nof text.\n", "соль", "l", 1234)
    assert e.audience == (
        InRange("age", 18, None),
        Presence("beta", True),
        OneOf("country", ("DE", "NO")),
        OneOf("os", ("ios",)),
    )
    assert e.overrides == {"42": "b", "пользователь": "a"}
    assert e.control == "a"
    assert e.ramp[0].weights_bp == (9999, 1)
    assert [(one.begin.day, one.end.day, one.why[:5]) for one in e.exclude] == [(3, 4, "it to"), (4, 5, "later")]
    ramp = AutopilotRamp((100, 1234), timedelta(hours=12), 1000, 3)
    assert e.autopilot == Autopilot(("broken_data",), timedelta(0), ramp, "ship")
    assert e.metrics.guardrails[0].outages_per_day == 0.5
    assert e.metrics.guardrails[1] == Guardrail("response_time_p95", 0.2, 250)
    assert (e.plan.horizon.days, e.plan.look.seconds, e.plan.minimum.seconds) == (14, 43200, 90)
    assert config.metrics["plays"] == Metric("mean", "long_play", e.plan.horizon * 3 / 14, 0.99, "down", 0.05)
    assert config.money == Money("EUR", {"USD": 0.92})
    assert config.metrics["orders"] == Metric("mean", "order", money=Money("JPY", {"EUR": 165}))


EXCLUDED = "{from: 2026-11-01T00:00:00Z, to: 2026-11-02T00:00:00Z, why: an incident}"


def _place(marked: str) -> tuple[str, int, int]:
    """The text without its mark, and the line and column where the mark was."""
    before = marked[: marked.index("§")]
    return marked.replace("§", ""), before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_has_its_place(name: str) -> None:
    """One mistake gives one error at the line and column of the value (or key), with its path and what is allowed."""
    old, new, key_path, message = MISTAKES[name]
    assert old in VALID
    text, line, column = _place(VALID.replace(old, new, 1))
    found = [(e.line, e.column, e.key_path, e.message[: len(message)]) for e in _errors(text)]
    assert found == [(line, column, key_path, message)]


@pytest.mark.parametrize("name", TRAPS)
def test_text_that_is_no_such_file(name: str) -> None:
    """What YAML itself, or its rare features, would make of a text is refused in one plain sentence."""
    marked, message = TRAPS[name]
    text, line, column = _place(marked)
    (error,) = _errors(text)
    assert (error.line, error.column, error.message[: len(message)]) == (line, column, message)


@pytest.mark.parametrize("text", ["a: " + "[" * 100_000, "{" * 100_000, "- " * 100_000])
def test_no_depth_is_too_deep_for_a_plain_sentence(text: str) -> None:
    """However deep it is, and whoever notices first."""
    assert [e.message for e in _errors(text)] == ["is nested deeper than 16 levels"]


def test_more_than_one_control() -> None:
    """A group named control beside one marked `control: true` leaves open which is meant."""
    (error,) = _errors(VALID.replace("weight: 30}", "weight: 30, control: true}"))
    assert str(error) == (
        "f:11:7: experiments[0].groups: exactly one group must be named `control` or have `control: true`; "
        "one, control are"
    )
    marked = VALID.replace("weight: 30}", "weight: 30, control: true}").replace(
        "name: control", "control: false, name: control"
    )
    assert load_text(marked).experiments[0].control == "one"


def test_two_experiments_of_one_name() -> None:
    """Names are unique; the error points at the second."""
    second = VALID[VALID.index("  - name") :]
    (error,) = _errors(VALID + second)
    assert str(error) == "f:13:11: experiments[1].name: `e` is already the name of experiments[0]"


def test_a_layer_given_away_more_than_whole() -> None:
    """Slices of one layer sum to at most 100; the error is at the traffic that is too much."""
    second = VALID[VALID.index("  - name") :].replace("name: e", "name: f").replace("traffic: 50", "traffic: 50.01")
    (error,) = _errors(VALID + second)
    assert str(error) == (
        "f:14:14: experiments[1].traffic: 50.01 is more than the 50 percent left of layer `default` "
        "by the experiments above"
    )
    load_text(VALID + second.replace("50.01", "50"))


def test_all_errors_at_once_in_file_order() -> None:
    """Mistakes of shape, of sums and of names are found in one go, in the file and in the fleet file."""
    text = VALID.replace("weight: 30", "weight: 29").replace("model: v2", "model: v3").replace("salt: s", "sallt: s")
    found = _errors(text.replace("default: v1", "default: v9"), fleet="version: 1\nmodels: {v1: {target: nowhere}}\n")
    places = [(error.file, error.line, error.key_path) for error in found]
    assert places == [
        ("f", 2, "default"),
        ("f", 9, "experiments[0].sallt"),
        ("f", 11, "experiments[0].groups"),
        ("f", 12, "experiments[0].groups[1].model"),
        ("fleet", 2, "models.v1.target"),
    ]


def test_nothing_multiplies() -> None:
    """Anchors, aliases, merge keys and tags are refused where they stand: a small file cannot become a large one."""
    laughs = VALID + "a: &a [x, x]\nb: &b [*a, *a]\nc: !!python/object/apply:os.system [ls]\n"
    messages = [(error.line, error.message) for error in _errors(laughs)]
    assert (13, "has an anchor (&); write the value out each time") in messages
    assert (14, "is an alias (*); write the value out") in messages
    assert (15, "has a tag `tag:yaml.org,2002:python/object/apply:os.system`; remove it") in messages
    merged = VALID.replace("{name: one, model: v2, weight: 30}", "{<<: {name: one, model: v2, weight: 30}}")
    assert any(error.key_path == 'experiments[0].groups[1]["<<"]' for error in _errors(merged))


def test_yaml_words_are_text() -> None:
    """`no`, `on` and `y` are what they look like, as YAML 1.2 has it."""
    config = load_text(VALID.replace("salt: s", "audience: {country: [no, on, y]}").replace("name: e", "name: off"))
    assert config.experiments[0].audience == (OneOf("country", ("no", "on", "y")),)
    assert config.experiments[0].name == "off"


def test_limits_of_size() -> None:
    """A file beyond 16 MiB or 600,000 values is refused, and of very many mistakes the first hundred are told."""
    assert _errors("#" * (16 * 1024 * 1024 + 1))[0].message == "is larger than 16 MiB"
    assert _errors("a: [" + "1," * 600_000 + "]")[0].message == "holds more than 600000 values"
    many = _errors(VALID + "".join(f"k{i}: 1\n" for i in range(1000)))
    assert len(many) == 101
    assert many[-1].message == "and 900 more mistakes"


def test_a_hundred_thousand_overrides_load() -> None:
    """The largest file that people have reason to write is read whole."""
    lines = "".join(f"      user-{i:032x}: one\n" for i in range(100_000))
    config = load_text(VALID.replace("    salt: s\n", "    salt: s\n    overrides:\n" + lines))
    assert len(config.experiments[0].overrides) == 100_000


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no UTF-8 are errors of the file, for both files at once."""
    bad = tmp_path / "bad.yaml"
    bad.write_bytes("version: 1\nж: ".encode() + b"\xff\n")
    with pytest.raises(ConfigErrors) as caught:
        load(bad, tmp_path / "none.yaml")
    first, second = caught.value.errors
    assert str(first) == f"{bad}:2:4: is not UTF-8: byte 0xff"
    assert str(second) == f"{tmp_path / 'none.yaml'}:1:1: cannot be read: No such file or directory"
    with pytest.raises(ConfigErrors, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_a_fleet_file_replaces_targets_only() -> None:
    """Versions that it names get its targets, others keep theirs, and versions of its own are ignored."""
    fleet = 'version: 1\nmodels: {v2: {target: "other:1"}, v9: {target: "nine:1"}}\n'
    plain, moved = load_text(VALID), load_text(VALID, fleet_text=fleet)
    assert moved.models == {"v1": plain.models["v1"], "v2": ModelTarget(("other:1",))}
    assert moved.experiments == plain.experiments
    assert moved.revision == plain.revision
    (error,) = _errors(VALID, fleet="version: 1\nmodels: {}\nexperiments: []\n")[1:] or _errors(
        VALID, fleet='version: 1\nmodels: {v1: {target: "h:1"}}\nexperiments: []\n'
    )
    assert (error.file, error.key_path) == ("fleet", "experiments")


def _revision(text: str) -> str:
    config: Config = load_text(text)
    assert len(config.revision) == 12
    assert set(config.revision) <= set("0123456789abcdef")
    return config.revision


def test_revision_is_of_the_meaning() -> None:
    """Comments, notation, key order, spelled-out defaults and workers' addresses leave it; what decides changes it."""
    first = _revision(VALID)
    same = (
        "# a comment\n" + VALID,
        VALID.replace("\n", "\r\n"),
        "\ufeff" + VALID,
        VALID.replace("weight: 70", "weight: 70.00"),
        VALID.replace("{name: one, model: v2, weight: 30}", "{weight: 30, name: 'one', model: v2}"),
        VALID.replace("    salt: s", "    salt: s\n    layer: default\n    enabled: true"),
        VALID.replace("version: 1\ndefault: v1\n", "") + "default: v1\nversion: 1\n",
        # Where workers are differs from place to place; who gets what does not.
        VALID.replace("worker-v1", "worker-v0"),
        # What only the analysis reads is nothing for a router to put in force.
        VALID.replace("salt: s", f"salt: s\n    exclude: [{EXCLUDED}]"),
        # And so is what the autopilot may do.
        VALID.replace("salt: s", "salt: s\n    autopilot: {conclude: ship}"),
    )
    assert {_revision(text) for text in same} == {first}
    one, other = "    overrides: {a: one, b: control}\n", "    overrides: {b: control, a: one}\n"
    assert len({_revision(VALID.replace("    salt: s\n", order)) for order in (one, other)}) == 1
    first_model, second_model = VALID.splitlines(keepends=True)[3:5]
    assert _revision(VALID.replace(first_model + second_model, second_model + first_model)) == first
    others = (
        VALID.replace("weight: 70", "weight: 69.99").replace("weight: 30", "weight: 30.01"),
        VALID.replace("salt: s", "salt: t"),
        VALID.replace("traffic: 50", "traffic: 51"),
        VALID.replace("default: v1", "default: v2"),
        VALID.replace("models:\n", 'models:\n  v3: {target: "worker-v1:50061"}\n'),
        VALID.replace("salt: s", "salt: s\n    overrides: {u: one}"),
        VALID.replace("salt: s", "salt: s\n    metrics: {guardrails: [{name: error_rate, outages_per_day: 2}]}"),
        "currency: EUR\n" + VALID,
        "currency: EUR\nrates: {USD: 0.92}\n" + VALID,
        "metrics: {a: {type: mean, outcome: x}}\n" + VALID,
        "metrics: {a: {type: mean, outcome: x, currency: EUR}}\n" + VALID,
    )
    assert len({first, *(_revision(text) for text in others)}) == len(others) + 1


@pytest.mark.parametrize("break_of_yaml_1_1", ["\x85", "\u2028", "\u2029"])
def test_what_ended_lines_in_yaml_1_1_alone_is_a_character(break_of_yaml_1_1: str) -> None:
    """Copied text brings them into comments; the line goes on after them, and values keep them."""
    comment = f"# a{break_of_yaml_1_1}b: c\n"
    text = comment + VALID.rstrip("\n") + f"  # d{break_of_yaml_1_1}e: f\n" + comment
    assert load_text(text).revision == load_text(VALID).revision
    with pytest.raises(ConfigErrors) as caught:
        load_text(comment + VALID + f'"a{break_of_yaml_1_1}b": 1\n')
    assert caught.value.errors[0].line == VALID.count("\n") + 2


INFER = """
version: 1
default: v1
models: {v1: {target: "h:1"}, v2: {target: "h:2", log: {outputs: [score]}}, v3: {target: "h:3", log: {}}}
"""


def test_what_is_logged_of_tensors_is_the_versions_else_the_files() -> None:
    """A version that says something is taken at its word, be it nothing; a fleet file changes none of it."""
    config = load_text(INFER + "name: ranker\nlog: {items: item_ids}\n")
    assert config.name == "ranker"
    assert [config.logged_outputs(version) for version in ("v1", "v2", "v3")] == [
        LoggedOutputs("item_ids"),
        LoggedOutputs(None, ("score",)),
        LoggedOutputs(),
    ]
    moved = load_text(INFER, fleet_text='version: 1\nmodels: {v2: {target: "other:1"}}\n')
    assert moved.models["v2"] == ModelTarget(("other:1",), LoggedOutputs(None, ("score",)))
    with pytest.raises(ConfigErrors, match="is not a known key"):
        load_text(INFER, fleet_text='version: 1\nmodels: {v2: {target: "other:1", log: {}}}\n')


def test_keys_for_tensors_are_a_new_revision_only_where_they_are_given() -> None:
    """Files from before them keep theirs."""
    bare = INFER.replace(", log: {outputs: [score]}", "").replace(", log: {}", "")
    plain = load_text(bare)
    assert plain.revision == load_text(bare + "name: recommender\nlog: {}\n").revision
    others = [INFER, INFER + "name: ranker\n", INFER + "log: {items: x}\n"]
    assert len({plain.revision, *(load_text(text).revision for text in others)}) == 4


OIP = """
version: 1
default: v1
models: {v1: {target: "h:1"}, v3: {target: "t:1", protocol: oip, model: ranker, version: 3, log: {items: i}}}
"""


def test_a_version_may_be_a_model_of_another_server() -> None:
    """What it is called there is text, or a whole number as it is written; without a version the server chooses."""
    config = load_text(OIP)
    assert config.models["v3"] == ModelTarget(("t:1",), LoggedOutputs("i"), OipModel("ranker", "3"))
    assert config.models["v1"].oip is None
    assert load_text(OIP.replace("version: 3, ", "")).models["v3"].oip == OipModel("ranker", "")
    assert load_text(OIP.replace("version: 3", 'version: "a b"')).models["v3"].oip == OipModel("ranker", "a b")
    # It is a matter of where servers are, not of who gets what.
    assert config.revision == load_text(OIP.replace("protocol: oip, model: ranker, version: 3, ", "")).revision


@pytest.mark.parametrize(
    ("server", "found"),
    [
        ('{target: "o:1"}', OipModel("ranker", "3")),
        ('{target: "o:1", protocol: abfleet}', None),
        ('{target: "o:1", protocol: oip, model: other}', OipModel("other")),
    ],
)
def test_a_fleet_file_says_what_its_servers_speak(server: str, found: OipModel | None) -> None:
    """Where it says nothing of it, they speak what the experiments file says."""
    moved = load_text(OIP, fleet_text=f"version: 1\nmodels: {{v3: {server}}}\n")
    assert moved.models["v3"] == ModelTarget(("o:1",), LoggedOutputs("i"), found)
    (error,) = _errors(OIP, fleet='version: 1\nmodels: {v3: {target: "o:1", model: m}}\n')
    assert (error.file, error.key_path, error.message) == (
        "fleet",
        "models.v3.model",
        "is allowed with `protocol: oip` only",
    )


def test_every_mistake_of_a_ramp_row_is_told_at_once() -> None:
    """Each rule of a row holds what is right of it: a wrong time hides no wrong sum, nor a wrong sum the order, and the
    last row is held against the groups' weights whatever else is wrong."""
    rows = """\
    ramp:
      - {at: 2026-11-03T00:00:00Z, control: 70, one: 20}
      - {at: 2026-11-02T00:00:00Z, traffic: 51, control: 80, one: 30, two: 0}
      - {at: tomorrow, traffic: 99, control: 60, one: 40}
"""
    errors = _errors(VALID + rows)
    assert [(one.key_path.removeprefix("experiments[0]."), one.message.split(":")[0]) for one in errors] == [
        ("ramp[0]", "shares must sum to 100 percent"),
        ("ramp[1].at", "must be later than the time of the row above"),
        ("ramp[1]", "shares must sum to 100 percent"),
        ("ramp[1].traffic", "51 is more than the experiment's own `traffic` of 50"),
        ("ramp[1].two", "is not a known key; allowed"),
        ("ramp[2]", "the last row and the groups' weights must be equal; here"),
        ("ramp[2].at", errors[6].message.split(":")[0]),
        ("ramp[2].traffic", "99 is more than the experiment's own `traffic` of 50"),
    ]
    assert "tomorrow" in errors[6].message
