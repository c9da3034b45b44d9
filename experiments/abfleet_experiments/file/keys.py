"""Every key of the experiments file and the fleet file: what it may hold, its default, and what it is for.

Plain data, in JSON Schema terms. The reader takes from here which keys exist and which are needed, the published schema
is made from it, and the documentation is checked against it. Rules between keys (weights sum to 100) are the reader's.
"""

from dataclasses import dataclass
from typing import Final

Schema = dict[str, object]

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
VERSION: Final = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
DURATION: Final = r"[1-9][0-9]{0,5}(s|m|h|d|w)"
CURRENCY: Final = r"[A-Z]{3}"
TIME: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
METRICS: Final = (
    "ctr",
    "conversion_rate",
    "response_time_mean",
    "response_time_p95",
    "revenue_per_user",
    "error_rate",
    "fallback_rate",
)
DESCRIPTIVE_METRICS: Final = frozenset({"fallback_rate"})
"""Shown, never judged by: control cannot fall back, so there is nothing to compare with."""
METRIC_TYPES: Final = ("mean", "count", "proportion", "ratio")
MAX_GROUPS: Final = 100
MAX_EXPERIMENTS: Final = 1000
MAX_RAMP_ROWS: Final = 1000
MAX_CONCLUDED: Final = 10_000
MAX_EXCLUDED: Final = 100
"""Windows of one experiment; whoever needs more of them has no experiment left."""
MAX_ATTRIBUTES: Final = 32
"""As many as a request may carry."""
RESERVED_GROUPS: Final = frozenset({"at", "traffic"})
"""A ramp row has these as keys beside the groups' names."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a mapping; a default of None stands for "nothing", and is not written into the schema."""

    name: str
    schema: Schema
    doc: str
    required: bool = False
    default: object = None


def _text(pattern: str | None = None, longest: int = 128) -> Schema:
    schema: Schema = {"type": "string", "minLength": 1, "maxLength": longest}
    return {"type": "string", "pattern": f"^{pattern}$"} if pattern else schema


def _percent() -> Schema:
    return {"type": "number", "minimum": 0, "maximum": 100}


def _number(above: float, below: float) -> Schema:
    return {"type": "number", "exclusiveMinimum": above, "exclusiveMaximum": below}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


_TARGET: Final[Schema] = {
    "oneOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "uniqueItems": True},
    ]
}
_EQUAL: Final[Schema] = {"type": ["string", "integer", "boolean"]}
_DIRECTION: Final[Schema] = {"enum": ["up", "down"]}
_RATES: Final[Schema] = {
    "type": "object",
    "propertyNames": _text(CURRENCY),
    "additionalProperties": _number(0, 1_000_000_000),
}

FILE: Final = (
    Key("version", {"const": 1}, "Version of this format.", required=True),
    Key(
        "default",
        _text(VERSION),
        "Model version that serves everyone whom no experiment takes, and the fallback "
        "when a group's version cannot answer.",
        required=True,
    ),
    Key(
        "models",
        {"type": "object", "minProperties": 1, "propertyNames": _text(VERSION), "additionalProperties": _ref("model")},
        "Where the workers of each model version are.",
        required=True,
    ),
    Key("holdout", _ref("holdout"), "Users whom no experiment of the file takes."),
    Key(
        "experiments",
        {"type": "array", "items": _ref("experiment"), "maxItems": MAX_EXPERIMENTS},
        "The experiments, in order of evaluation.",
        default=[],
    ),
    Key(
        "concluded",
        {"type": "array", "items": _ref("conclusion"), "maxItems": MAX_CONCLUDED},
        "Experiments that have ended, with their winners; `abfleet conclude` adds them.",
        default=[],
    ),
    Key(
        "metrics",
        {"type": "object", "propertyNames": _text(NAME), "additionalProperties": _ref("metric")},
        "Metrics of your own, over outcome types.",
        default={},
    ),
    Key(
        "currency",
        _text(CURRENCY),
        "Currency, as an ISO 4217 code, that `revenue_per_user` and own metrics of type `mean` add up. "
        "Default: the most frequent one of each metric.",
    ),
    Key(
        "rates",
        _RATES,
        "Other currencies, and how much of `currency` one unit of each is; values in any other are left out.",
        default={},
    ),
    Key(
        "log_attributes",
        {"type": "array", "items": _text(), "uniqueItems": True, "maxItems": MAX_ATTRIBUTES},
        "Request attributes that may be written to the decision log; others are used and forgotten.",
        default=[],
    ),
)
MODEL: Final = (
    Key(
        "target",
        _TARGET,
        "Address, or list of addresses, of the workers: `dns:///host:port` (one name may be many "
        "replicas), `host:port` or `unix:path`.",
        required=True,
    ),
)
HOLDOUT: Final = (
    Key("percent", _percent(), "Percent of all users, to two decimal places.", default=0),
    Key("salt", _text(), "Decides which users; a new salt holds out others.", default="holdout"),
)
EXPERIMENT: Final = (
    Key("name", _text(NAME), "Name in answers, logs and reports; unique in the file.", required=True),
    Key("owner", _text(longest=256), "Who answers for it."),
    Key("hypothesis", _text(longest=4096), "What is expected to happen, and why."),
    Key(
        "enabled",
        {"type": "boolean"},
        "`false` takes nobody, overrides included, and keeps the slice of the layer.",
        default=True,
    ),
    Key("salt", _text(), "Decides which user gets which bucket. A new salt is a new randomisation. Default: the name."),
    Key("layer", _text(NAME), "Experiments of one layer never share a user.", default="default"),
    Key(
        "traffic",
        _percent(),
        "Percent of the layer's users that the experiment owns, to two decimal places.",
        default=100,
    ),
    Key(
        "audience",
        {
            "type": "object",
            "propertyNames": {"minLength": 1, "maxLength": 256},
            "additionalProperties": _ref("condition"),
            "minProperties": 1,
            "maxProperties": MAX_ATTRIBUTES,
        },
        "Conditions on request attributes that must all hold.",
    ),
    Key(
        "overrides",
        {"type": "object", "additionalProperties": _text(NAME)},
        "User id to group: forced users, left out of analysis.",
        default={},
    ),
    Key(
        "groups",
        {"type": "array", "items": _ref("group"), "minItems": 1, "maxItems": MAX_GROUPS},
        "The arms. Order has meaning: the first treatment grows from bucket 0 up, the second from the top down.",
        required=True,
    ),
    Key(
        "ramp",
        {"type": "array", "items": _ref("ramp_row"), "maxItems": MAX_RAMP_ROWS},
        "Dated shares; the last row whose time has come is in force, past rows stay.",
    ),
    Key("metrics", _ref("metrics_plan"), "What the experiment is judged by."),
    Key("plan", _ref("plan"), "What the experiment is sized for."),
    Key(
        "exclude",
        {"type": "array", "items": _ref("excluded"), "maxItems": MAX_EXCLUDED},
        "Windows of time that analysis leaves out, such as an incident. Who gets what does not change.",
        default=[],
    ),
)
GROUP: Final = (
    Key(
        "name",
        {"allOf": [_text(NAME), {"not": {"enum": sorted(RESERVED_GROUPS)}}]},
        "Unique in the experiment.",
        required=True,
    ),
    Key("model", _text(VERSION), "Version that serves the group; one of `models`.", required=True),
    Key(
        "weight",
        _percent(),
        "Percent of the experiment's users, to two decimal places; all weights sum to 100.",
        required=True,
    ),
    Key("control", {"type": "boolean"}, "Marks the baseline where no group is named `control`.", default=False),
)
RAMP_ROW: Final = (
    Key("at", _text(TIME), "When the row takes effect, with a time zone: `2026-11-08T00:00:00Z`.", required=True),
    Key(
        "traffic",
        _percent(),
        "Percent of the layer's users taken from then on; at most the experiment's `traffic`, "
        "which is also the default.",
    ),
)
EXCLUDED: Final = (
    Key(
        "from",
        _text(TIME),
        "Calls from then on are left out, with a time zone: `2026-11-08T12:00:00Z`.",
        required=True,
    ),
    Key("to", _text(TIME), "Calls from then on count again, with a time zone.", required=True),
    Key("why", _text(longest=256), "What happened; the report shows it.", required=True),
)
METRICS_PLAN: Final = (
    Key("primary", _text(NAME), "The metric that decides.", default="ctr"),
    Key(
        "guardrails",
        {"type": "array", "items": {"oneOf": [_text(NAME), _ref("guardrail")]}},
        "Metrics that must not get worse.",
        default=["error_rate"],
    ),
    Key("secondary", {"type": "array", "items": _text(NAME)}, "Metrics that are shown.", default=[]),
)
GUARDRAIL: Final = (
    Key("name", _text(NAME), "The metric.", required=True),
    Key("margin", _number(0, 10), "Relative change that is tolerated: 0.10 is 10 %. Default: the metric's own."),
    Key(
        "points",
        _number(0, 1),
        "For `error_rate`: how much larger a share of all users is tolerated at least, 0.01 is 1 in 100. "
        "Default: 0.002, or nothing beside a `margin`.",
    ),
    Key(
        "threshold_ms",
        _number(0, 3_600_000),
        "For response times: what counts as slow, in milliseconds. Default: learnt from control.",
    ),
    Key(
        "outages_per_day",
        _number(0, 1000),
        "For `error_rate`: outages of a treatment a day that are tolerated whatever control has. Default: 1.",
    ),
)
PLAN: Final = (
    Key("effect", _number(0, 10), "Smallest relative change worth finding: 0.10 is 10 %.", default=0.10),
    Key("power", {"type": "number", "minimum": 0.5, "maximum": 0.99}, "Probability to find it.", default=0.8),
    Key("horizon", _text(DURATION), "Longest duration of the experiment.", default="28d"),
    Key("look", _text(DURATION), "How often the result is looked at.", default="1d"),
    Key("minimum", _text(DURATION), "Nothing is shipped before this.", default="7d"),
)
METRIC: Final = (
    Key(
        "type",
        {"enum": list(METRIC_TYPES)},
        "`mean` of the summed values of a user, `count` of outcomes a user, "
        "`proportion` of users with one or more, or `ratio` of two outcome types' numbers.",
        required=True,
    ),
    Key("outcome", _text(NAME), "Outcome type that it reads.", required=True),
    Key("over", _text(NAME), "Outcome type that a `ratio` divides by; only there, and needed there."),
    Key("window", _text(DURATION), "How long after a user's first exposure an outcome counts.", default="7d"),
    Key(
        "winsorise",
        {"type": "number", "minimum": 0.5, "maximum": 1},
        "Quantile of all users' values at which a user's value is cut; 1 cuts nothing. Default: 0.999 for a `mean` in "
        "an experiment whose groups are uneven, else nothing is cut.",
    ),
    Key("direction", _DIRECTION, "Which way is better.", default="up"),
    Key("margin", _number(0, 10), "Relative change tolerated as a guardrail. Default: the experiment's `plan.effect`."),
    Key(
        "currency",
        _text(CURRENCY),
        "Currency of a `mean`, in place of the file's `currency` and `rates`; only there.",
    ),
    Key("rates", _RATES, "As the file's `rates`, for the metric's own `currency`.", default={}),
)
CONCLUSION: Final = (
    Key("experiment", _text(NAME), "Name that the experiment had; no experiment of the file has it.", required=True),
    Key("winner", _text(NAME), "Group whose version became the default.", required=True),
    Key("at", _text(TIME), "When it ended, with a time zone.", required=True),
)
RANGE: Final = (
    Key("min", {"type": "number"}, "Smallest value that belongs."),
    Key("max", {"type": "number"}, "Largest value that belongs."),
)
PRESENCE: Final = (Key("present", {"type": "boolean"}, "Whether the attribute must be there.", required=True),)
FLEET: Final = (
    Key("version", {"const": 1}, "Version of this format.", required=True),
    Key(
        "models",
        {"type": "object", "additionalProperties": _ref("model")},
        "Targets that replace those of the experiments file; versions it does not name are ignored.",
        required=True,
    ),
)

CONDITION: Final[Schema] = {
    "oneOf": [
        _EQUAL,
        {"type": "array", "items": _EQUAL, "minItems": 1},
        {**_ref("range"), "description": "A number from `min` to `max`, both included."},
        {**_ref("presence"), "description": "Sent with the request or not, whatever the value."},
    ]
}
OBJECTS: Final = {
    "model": MODEL,
    "holdout": HOLDOUT,
    "experiment": EXPERIMENT,
    "group": GROUP,
    "ramp_row": RAMP_ROW,
    "excluded": EXCLUDED,
    "metrics_plan": METRICS_PLAN,
    "guardrail": GUARDRAIL,
    "plan": PLAN,
    "metric": METRIC,
    "conclusion": CONCLUSION,
    "range": RANGE,
    "presence": PRESENCE,
}
