"""Every key of the experiments file and the fleet file: what it may hold, its default, and what it is for.

Reader, published schema and documentation are made from it. Rules between keys (weights sum to 100) are the reader's.
"""

from typing import Final

from abfleet_process.declarations.keys import Key, either, list_of, map_of, section
from abfleet_process.declarations.kinds import DURATION, FLAG, TIME, exactly, number, or_zero, text, whole, word

from abfleet_experiments.bucketing import BUCKETS
from abfleet_experiments.config import (
    DEFAULT_LAYER,
    DEFAULT_NAME,
    DEFAULT_WINDOW,
    AnalysisPlan,
    Autopilot,
    AutopilotRamp,
    Holdout,
    MetricsPlan,
)
from abfleet_experiments.file.kinds import (
    ADDRESS,
    ATTRIBUTE_NAME,
    ATTRIBUTE_VALUE,
    CURRENCY,
    GROUP_NAME,
    METRIC_NAME,
    NAME,
    NAME_OR_NUMBER,
    NEW_GROUP_NAME,
    PERCENT,
    USER_ID,
    VERSION_NAME,
)

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
_CHANGE: Final = number("a relative change", 0, 10, remark=" (0.10 is 10 %)")
_RATES: Final = map_of(CURRENCY, number("how much of the `currency` one unit is: a number", 0, 1_000_000_000))
_MAX_ATTRIBUTES: Final = 32
"""As many as a request may carry."""

_TENSOR: Final = text(256, many="names of outputs")
LOGGED: Final = section(
    "logged",
    "mapping, [below](#log)",
    Key(
        "items",
        _TENSOR,
        "Output whose first 100 elements become `items` of the decision log, or `item_names` where they are texts.",
    ),
    Key(
        "outputs",
        list_of(_TENSOR, most=32, distinct=True),
        "Outputs whose first 100 numbers each become `outputs` of the decision log.",
        default=[],
    ),
)
_TARGET: Final = Key(
    "target",
    either(ADDRESS, list_of(ADDRESS, most=1000, empty="is empty; it needs at least one address", distinct=True)),
    "Address, or list of addresses, of the workers: `dns:///host:port` (one name may be many "
    "replicas), `host:port` or `unix:path`.",
    required=True,
)
_SERVER: Final = (
    _TARGET,
    Key(
        "protocol",
        word("abfleet", "oip"),
        "Protocol of the servers: `abfleet` for abfleet's workers, `oip` for "
        "[any server of the Open Inference Protocol](own-models.md#triton-mlserver-and-kserve-behind).",
        without="`abfleet`; in a fleet file, what the experiments file says",
    ),
    Key(
        "model",
        NAME_OR_NUMBER,
        "Name of the model on servers of the protocol `oip`; required there, refused elsewhere.",
    ),
    Key(
        "version",
        NAME_OR_NUMBER,
        "Version of the model on servers of the protocol `oip`; refused elsewhere.",
        without="the one that the server chooses",
    ),
)
MODEL: Final = section(
    "model",
    "[mappings](#models)",
    *_SERVER,
    Key(
        "log",
        LOGGED,
        "Outputs of the version's answers to `ModelInfer` that go into the decision log.",
        without="the file's",
    ),
)
SERVERS: Final = section("servers", "[mappings](#the-fleet-file)", *_SERVER)
HOLDOUT: Final = section(
    "holdout",
    "mapping, [below](#holdout)",
    Key("percent", PERCENT, "Percent of all users, to two decimal places.", default=Holdout().percent_bp),
    Key("salt", text(), "Decides which users are held out; a new salt holds out other users.", default=Holdout().salt),
)
RANGE: Final = section(
    "range",
    "range",
    Key("min", number("a number"), "Smallest value that matches."),
    Key("max", number("a number"), "Largest value that matches."),
    empty="is empty; give `min`, `max` or `present`",
    remark="A number from `min` to `max`, both included.",
)
PRESENCE: Final = section(
    "presence",
    "presence",
    Key("present", FLAG, "`true`: the attribute must be present; `false`: it must be absent.", required=True),
    remark="Whether the request has the attribute, whatever its value.",
)
CONDITION: Final = either(
    ATTRIBUTE_VALUE,
    list_of(ATTRIBUTE_VALUE, empty="is an empty list, which no user matches; list at least one value"),
    RANGE,
    PRESENCE,
    name="condition",
    called="[conditions](#audience)",
)
GROUP: Final = section(
    "group",
    "[groups](#groups)",
    Key("name", NEW_GROUP_NAME, "Unique in the experiment.", required=True),
    Key("model", VERSION_NAME, "Version that serves the group; one of `models`.", required=True),
    Key(
        "weight",
        PERCENT,
        "Percent of the experiment's users, to two decimal places; all weights sum to 100.",
        required=True,
    ),
    Key("control", FLAG, "Marks the baseline where no group is named `control`.", default=False),
)
RAMP_ROW: Final = section(
    "ramp_row",
    "[rows](#ramp)",
    Key("at", TIME, "When the row takes effect, with a time zone: `2026-11-08T00:00:00Z`.", required=True),
    Key(
        "traffic",
        PERCENT,
        "Percent of the layer's users taken from then on; at most the experiment's `traffic`.",
        without="the experiment's `traffic`",
    ),
    others=PERCENT,  # by the groups' names, which only the file knows
)
EXCLUDED: Final = section(
    "excluded",
    "[windows](#exclude)",
    Key("from", TIME, "Calls from then on are left out, with a time zone: `2026-11-08T12:00:00Z`.", required=True),
    Key("to", TIME, "Calls from then on count again, with a time zone.", required=True),
    Key("why", text(256), "What happened; the report shows it.", required=True),
)
GUARDRAIL: Final = section(
    "guardrail",
    "[mappings](#guardrail)",
    Key("name", NAME, "The metric.", required=True),
    Key("margin", _CHANGE, "Tolerated relative change: 0.10 is 10 %.", without="the metric's own"),
    Key(
        "points",
        number("a share of users", 0, 1, remark=" (0.01 is 1 in 100)"),
        "For `error_rate`: the rise that is always tolerated, as a share of all users; 0.01 is 1 in 100.",
        without="0.002; 0 where `margin` is given",
    ),
    Key(
        "threshold_ms",
        number("milliseconds", 0, 3_600_000),
        "For response times: what counts as slow, in milliseconds.",
        without="learnt from control",
    ),
    Key(
        "outages_per_day",
        number("outages a day", 0, 1000),
        "For `error_rate`: outages of a treatment per day that are tolerated, whatever the outages of control.",
        without="1",
    ),
)
METRICS_PLAN: Final = section(
    "metrics_plan",
    "mapping, [below](#metrics-of-an-experiment)",
    Key("primary", NAME, "The metric that decides.", default=MetricsPlan().primary),
    Key(
        "guardrails",
        list_of(either(METRIC_NAME, GUARDRAIL)),
        "Metrics that must not get worse.",
        default=[guardrail.name for guardrail in MetricsPlan().guardrails],
    ),
    Key("secondary", list_of(METRIC_NAME), "Metrics that the report shows and that decide nothing.", default=[]),
)
PLAN: Final = section(
    "plan",
    "mapping, [below](#plan)",
    Key("effect", _CHANGE, "Smallest relative change worth finding: 0.10 is 10 %.", default=AnalysisPlan().effect),
    Key(
        "power",
        number("a probability", 0.5, 0.99, ends=True),
        "Probability of detecting that change (power).",
        default=AnalysisPlan().power,
    ),
    Key("horizon", DURATION, "Longest duration of the experiment.", default=AnalysisPlan().horizon),
    Key("look", DURATION, "Time between two looks.", default=AnalysisPlan().look),
    Key("minimum", DURATION, "Shortest duration before a treatment can ship.", default=AnalysisPlan().minimum),
)
AUTOPILOT_RAMP: Final = section(
    "autopilot_ramp",
    "mapping, [below](#autopilot)",
    Key(
        "traffic",
        list_of(PERCENT, most=100, empty="is empty; it needs at least one step"),
        "Steps of traffic, ascending, in percent of the layer's users; none is above the experiment's `traffic`.",
        required=True,
    ),
    Key("hold", DURATION, "How long each step is in force at least.", default=AutopilotRamp(()).hold),
    Key(
        "users",
        whole(1, 1_000_000_000),
        "Users that each group must have in a step before the next one.",
        default=AutopilotRamp(()).users,
    ),
    Key(
        "detect",
        number("a ratio of bad events", 1.25, 1000, remark=" (3 is three times control's)"),
        "Goes on only where each guardrail would have found this ratio in the step with a probability of 80 %.",
        without="asks for nothing, and says what would have been found",
    ),
)
AUTOPILOT: Final = section(
    "autopilot",
    "mapping, [below](#autopilot)",
    Key(
        "halt",
        list_of(word("guardrails", "harm", "broken_data"), distinct=True),
        "What a treatment is halted for: a guardrail, harm to the primary metric, data too broken to judge.",
        default=list(Autopilot().halt),
    ),
    Key(
        "absent",
        or_zero(DURATION),
        "A treatment is halted when of at least 30 calls none is answered for so long while control answers; 0: never.",
        default=Autopilot().absent,
    ),
    Key("ramp", AUTOPILOT_RAMP, "How traffic is raised.", without="traffic is not raised"),
    Key(
        "conclude",
        word("never", "ship"),
        "`ship` concludes the experiment once the verdict is to ship a group.",
        default=Autopilot().conclude,
    ),
)
EXPERIMENT: Final = section(
    "experiment",
    "[experiments](#experiments)",
    Key("name", NAME, "Name in answers, logs and reports; unique in the file.", required=True),
    Key("owner", text(256), "Who is responsible for it."),
    Key("hypothesis", text(4096), "The expected effect, and the reason for it."),
    Key("enabled", FLAG, "`false` takes no users, overrides included, and keeps the slice of the layer.", default=True),
    Key("salt", text(), "Decides which user gets which bucket. A new salt is a new randomisation.", without="the name"),
    Key("layer", NAME, "Experiments of one layer never share a user.", default=DEFAULT_LAYER),
    Key(
        "traffic",
        PERCENT,
        "Percent of the layer's users that the experiment owns, to two decimal places.",
        default=BUCKETS,
    ),
    Key(
        "audience",
        map_of(
            ATTRIBUTE_NAME,
            CONDITION,
            most=_MAX_ATTRIBUTES,
            empty="is empty; leave it out to take everyone",
            counted="conditions",
        ),
        "Conditions on request attributes that must all hold.",
    ),
    Key("overrides", map_of(USER_ID, GROUP_NAME), "User id to group: forced users, left out of analysis.", default={}),
    Key(
        "groups",
        list_of(GROUP, most=100, empty="is empty; an experiment needs at least one group"),
        "The groups. Their order matters: the first treatment grows from bucket 0 upwards, the second from the "
        "top downwards.",
        without="`interleave` instead",
    ),
    Key(
        "interleave",
        list_of(VERSION_NAME, exactly=2, distinct=True),
        "Two versions whose lists its users get as one, [interleaved](interleaving.md); the first is team A. In place "
        "of `groups`, `metrics` and `autopilot`; the users are in the group `interleaved`.",
        without="`groups` instead",
    ),
    Key(
        "ramp",
        list_of(RAMP_ROW, most=1000),
        "Dated shares; the last row whose time has come is in force, past rows stay.",
    ),
    Key("metrics", METRICS_PLAN, "The metrics that decide the experiment."),
    Key("plan", PLAN, "The effect and the time that the experiment is sized for."),
    Key(
        "exclude",
        list_of(EXCLUDED, most=100),  # whoever needs more of them has no experiment left
        "Windows of time that analysis leaves out, such as an incident. The assignment does not change.",
        default=[],
    ),
    Key("autopilot", AUTOPILOT, "What `abfleet autopilot` does by itself.", without="nothing acts by itself"),
    one_of=("groups", "interleave"),
)
METRIC: Final = section(
    "metric",
    "[mappings](#metrics-of-your-own)",
    Key(
        "type",
        word("mean", "count", "proportion", "ratio"),
        "`mean` of the summed values of a user, `count` of outcomes a user, "
        "`proportion` of users with one or more, or `ratio` of two outcome types' numbers.",
        required=True,
    ),
    Key("outcome", NAME, "Outcome type that it reads.", required=True),
    Key("over", NAME, "Outcome type that a `ratio` divides by; only there, and needed there."),
    Key("window", DURATION, "How long after a user's first exposure an outcome counts.", default=DEFAULT_WINDOW),
    Key(
        "winsorise",
        number("a quantile", 0.5, 1, ends=True, remark=", which cuts nothing"),
        "Quantile of all users' values at which a user's value is cut; 1 cuts nothing.",
        without="0.999 for a `mean` in an experiment whose groups are uneven, else nothing is cut",
    ),
    Key("direction", word("up", "down"), "The direction that is better.", default="up"),
    Key("margin", _CHANGE, "Relative change tolerated as a guardrail.", without="the experiment's `plan.effect`"),
    Key("currency", CURRENCY, "Currency of a `mean`, in place of the file's `currency` and `rates`; only there."),
    Key("rates", _RATES, "As the file's `rates`, for the metric's own `currency`.", default={}),
)
CONCLUSION: Final = section(
    "conclusion",
    "[ended experiments](#concluded)",
    Key("experiment", NAME, "Name that the experiment had; no experiment of the file has it.", required=True),
    Key(
        "winner",
        VERSION_NAME,
        "Group whose version became the default; of an experiment with `interleave`, that version.",
        required=True,
    ),
    Key("at", TIME, "When it ended, with a time zone.", required=True),
)
SHADOW: Final = section(
    "shadow",
    "[shadow calls](#shadow)",
    Key("model", VERSION_NAME, "Version that is asked; one of `models`.", required=True),
    Key("percent", PERCENT, "Percent of calls, to two decimal places.", required=True),
    Key(
        "of",
        list_of(VERSION_NAME, empty="is an empty list, which no call is of", distinct=True),
        "Only calls that one of these versions served.",
        without="all other versions",
    ),
)
FILE: Final = section(
    "file",
    "experiments file",
    Key("version", exactly(1), "Version of this format.", required=True),
    Key(
        "default",
        VERSION_NAME,
        "Model version that serves everyone whom no experiment takes, and the fallback "
        "when a group's version cannot answer.",
        required=True,
    ),
    Key(
        "models",
        map_of(VERSION_NAME, MODEL, empty="is empty; it needs at least the default version"),
        "Where the servers of each model version are, and what they speak.",
        required=True,
    ),
    Key("name", VERSION_NAME, "What callers of `ModelInfer` give as `model_name`.", default=DEFAULT_NAME),
    Key("log", LOGGED, "What the decision log has of answers to `ModelInfer`, where a version does not say."),
    Key("holdout", HOLDOUT, "Users whom no experiment of the file takes."),
    Key("experiments", list_of(EXPERIMENT, most=1000), "The experiments, in order of evaluation.", default=[]),
    Key(
        "shadow",
        list_of(SHADOW, most=16),
        "Versions that are asked with a sample of calls once these are answered; nobody sees what they say.",
        default=[],
    ),
    Key(
        "concluded",
        list_of(CONCLUSION, most=10_000),
        "Experiments that have ended, with their winners; `abfleet conclude` adds them.",
        default=[],
    ),
    Key("metrics", map_of(NAME, METRIC), "Metrics of your own, over outcome types.", default={}),
    Key(
        "currency",
        CURRENCY,
        "Currency, as an ISO 4217 code, that `revenue_per_user` and own metrics of type `mean` add up.",
        without="the most frequent one of each metric",
    ),
    Key(
        "rates",
        _RATES,
        "Other currencies, and how much of `currency` one unit of each is; values in any other are left out.",
        default={},
    ),
    Key(
        "log_attributes",
        list_of(text(many="attribute names"), most=_MAX_ATTRIBUTES, distinct=True),
        "Request attributes that may be written to the decision log; others are used and forgotten.",
        default=[],
    ),
)
FLEET: Final = section(
    "fleet",
    "fleet file",
    Key("version", exactly(1), "Version of this format.", required=True),
    Key(
        "models",
        map_of(VERSION_NAME, SERVERS, empty="is empty; it needs at least the default version"),
        "Servers that replace those of the experiments file; versions it does not name are ignored.",
        required=True,
    ),
)
DEFINITIONS: Final = (
    MODEL,
    LOGGED,
    HOLDOUT,
    EXPERIMENT,
    GROUP,
    RAMP_ROW,
    EXCLUDED,
    METRICS_PLAN,
    GUARDRAIL,
    PLAN,
    AUTOPILOT,
    AUTOPILOT_RAMP,
    METRIC,
    SHADOW,
    CONCLUSION,
    RANGE,
    PRESENCE,
    CONDITION,
)
