"""The decision log: every kind of line and every field of it. Knows no writer and no reader.

One JSON object a line, UTF-8, `schema: 1`. A field may be added without a new schema number; a reader accepts lines
without the fields that it does not need.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from abfleet_experiments import assign

SCHEMA: Final = 1
REASONS: Final = (
    assign.ALLOCATED,
    assign.OVERRIDE,
    assign.HOLDOUT,
    assign.NO_USER_ID,
    assign.NOT_IN_AUDIENCE,
    assign.NOT_IN_TRAFFIC,
    assign.NO_EXPERIMENT,
    assign.PINNED,
)
METHODS: Final = ("recommend", "infer")
FALLBACKS: Final = ("unavailable", "timeout", "overload", "ejected", "model_error")
STATUSES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
TIME: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z"
REVISION: Final = r"[0-9a-f]{12}"
TEAMS: Final = r"[AB=]*"
LARGEST_VALUE: Final = 1e15
"""Of an outcome, either way. A float64 has whole numbers up to nine times as much; a few of these can be added up."""


class Type(Enum):
    """The type of a field's value; each member's value says in words what is allowed."""

    TEXT = "string"
    TIME = "time"
    REVISION = "revision"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    INTEGERS = "integers"
    TEXTS = "texts"
    TEXT_MAP = "text map"
    NUMBER_MAP = "number map"
    NUMBERS_MAP = "map of lists of numbers"
    TEAMS = "letters A, B and ="


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a line.

    Attributes:
        nullable: May be null; the field is there all the same.
        optional: May be missing altogether.
        allowed: The words that a text may be; empty for any.
        largest: What a number may be at most, either way; None for any that is finite.
    """

    name: str
    type: Type
    doc: str
    nullable: bool = False
    optional: bool = False
    allowed: tuple[str, ...] = ()
    largest: float | None = None


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One kind of line: the word in its field `event`, and its fields in order."""

    name: str
    doc: str
    fields: tuple[Field, ...]


_TS: Final = Field("ts", Type.TIME, "When the line's event happened, UTC with microseconds.")
_ROUTER: Final = Field("router", Type.TEXT, "The router that wrote the line.")
_REVISION: Final = Field("config_revision", Type.REVISION, "The configuration in force.")
_SYNTHETIC: Final = Field("synthetic", Type.BOOLEAN, "Made by a traffic generator; left out of analysis.")
_HASHED: Final = Field(
    "user_id_hmac", Type.TEXT, "HMAC-SHA256 of the user's id, in hex, where the id itself is not kept.", optional=True
)
_CLIENT: Final = Field("client", Type.TEXT, "Identity of the caller, if authenticated.", nullable=True)

EXPOSURE: Final = LogEvent(
    "exposure",
    "One call: what was decided for it and what came of it.",
    (
        _TS,
        Field(
            "request_id",
            Type.TEXT,
            "Id of the request: the client's, else the router's. With user_id it is the key of the line.",
        ),
        Field("user_id", Type.TEXT, "Null if the call had none.", nullable=True),
        _HASHED,
        Field("layer", Type.TEXT, "Layer of the experiment.", nullable=True),
        Field("experiment", Type.TEXT, "The experiment that took the user.", nullable=True),
        Field("group", Type.TEXT, "The group assigned.", nullable=True),
        Field("bucket", Type.INTEGER, "0 to 9,999, under the experiment's salt.", nullable=True),
        Field("reason", Type.TEXT, "Why this version was assigned.", allowed=REASONS),
        Field("allocation", Type.TEXT, "Id of the allocation in force.", nullable=True),
        Field("propensity", Type.NUMBER, "Share of the group then in force, 0 to 1.", nullable=True),
        Field("model_version", Type.TEXT, "The version assigned; null where two are interleaved.", nullable=True),
        Field(
            "served_version", Type.TEXT, "The version that answered; null if none did, or two together.", nullable=True
        ),
        Field(
            "versions",
            Type.TEXTS,
            "The two versions whose lists the group gets as one, team A's and team B's; missing elsewhere.",
            optional=True,
        ),
        Field(
            "fallback",
            Type.TEXT,
            "Why a version other than the assigned one answered.",
            nullable=True,
            allowed=FALLBACKS,
        ),
        Field("attempts", Type.INTEGER, "How often the call was sent to a worker."),
        Field("status", Type.TEXT, "gRPC status of the answer.", allowed=STATUSES),
        Field(
            "failure",
            Type.TEXT,
            "Why the assigned version did not answer, whatever its group; missing or null where it is not to blame.",
            nullable=True,
            optional=True,
            allowed=FALLBACKS,
        ),
        Field("latency_ms", Type.NUMBER, "Time from the call's arrival to its answer."),
        Field(
            "method",
            Type.TEXT,
            "What was called: Recommend, as where it is missing, or ModelInfer.",
            optional=True,
            allowed=METHODS,
        ),
        Field(
            "items",
            Type.INTEGERS,
            "Item ids in the answer, best first; null where items have names; of ModelInfer what the file's `log` "
            "names, or null.",
            nullable=True,
        ),
        Field(
            "item_names",
            Type.TEXTS,
            "The same where items have names; then `items` is null.",
            nullable=True,
            optional=True,
        ),
        Field(
            "teams",
            Type.TEAMS,
            "Of a list out of two, a letter for each item: A or B for the team that gave it, = where it is nobody's; "
            "missing where one version answered alone.",
            optional=True,
        ),
        Field("history_length", Type.INTEGER, "Items in the request's history; null for ModelInfer.", nullable=True),
        Field(
            "outputs",
            Type.NUMBERS_MAP,
            "The first 100 numbers of each output that the file's `log` names; null for one that is not finite.",
            optional=True,
        ),
        Field("attributes", Type.TEXT_MAP, "Request attributes that the file's `log_attributes` names."),
        _REVISION,
        _SYNTHETIC,
        Field("trace_id", Type.TEXT, "W3C trace id of the call.", nullable=True),
        _CLIENT,
        _ROUTER,
    ),
)
OUTCOME: Final = LogEvent(
    "outcome",
    "Something that a user did after the call.",
    (
        _TS,
        Field("received_ts", Type.TIME, "When the router received the outcome."),
        Field("outcome_id", Type.TEXT, "Id of the outcome; a repeat counts once."),
        Field("request_id", Type.TEXT, "Request id of the exposure that it belongs to, if known.", nullable=True),
        Field("user_id", Type.TEXT, "The user, if known.", nullable=True),
        _HASHED,
        Field(
            "type", Type.TEXT, "impression, click, conversion, purchase, or an outcome type of the file's own metrics."
        ),
        Field("item_id", Type.INTEGER, "The item, if it was about one that has a number.", nullable=True),
        Field("item_name", Type.TEXT, "The item, if it was about one that has a name.", nullable=True, optional=True),
        Field(
            "value",
            Type.NUMBER,
            "Money or another quantity; negative for a refund.",
            nullable=True,
            largest=LARGEST_VALUE,
        ),
        Field("currency", Type.TEXT, "Currency of a value in money.", nullable=True),
        Field("synthetic", Type.BOOLEAN, "Made by a traffic generator; left out of analysis.", optional=True),
        Field("router", Type.TEXT, "The router that received the outcome.", optional=True),
        Field("client", Type.TEXT, "Identity of the client, if authenticated.", optional=True),
    ),
)
ALLOCATION: Final = LogEvent(
    "allocation",
    "An experiment's shares come into force: at activation of a configuration and at each ramp row.",
    (
        _TS,
        _ROUTER,
        _REVISION,
        Field("experiment", Type.TEXT, "The experiment."),
        Field("salt", Type.TEXT, "Its salt."),
        Field("allocation", Type.TEXT, "Id of the allocation; null before the first ramp row.", nullable=True),
        Field("traffic", Type.NUMBER, "Percent of the layer's users that it takes; 0 when disabled or not begun."),
        Field("weights", Type.NUMBER_MAP, "Group to percent."),
        Field(
            "moved",
            Type.NUMBER,
            "Share of all users whose group this changed, 0 to 1; null at a router's start.",
            nullable=True,
        ),
    ),
)
RELOAD: Final = LogEvent(
    "reload",
    "The experiments file was read again.",
    (
        _TS,
        _ROUTER,
        Field("old_revision", Type.REVISION, "Revision that was in force before.", nullable=True),
        Field("new_revision", Type.REVISION, "Revision of the file; null if it could not be read.", nullable=True),
        Field("active", Type.BOOLEAN, "Whether the new one is in force now."),
        Field("moved", Type.NUMBER, "Share of all users whose group changed, 0 to 1.", nullable=True),
        Field("errors", Type.TEXTS, "All mistakes in the file, or why the new configuration is not in force yet."),
    ),
)
CONCLUSION: Final = LogEvent(
    "conclusion",
    "An experiment has ended, as the file's `concluded` says: at a router's start and with each new configuration.",
    (
        _TS,
        _ROUTER,
        _REVISION,
        Field("experiment", Type.TEXT, "The experiment."),
        Field("winner", Type.TEXT, "The group whose version became the default."),
        Field("concluded_at", Type.TIME, "When it ended."),
    ),
)
REJECTED: Final = LogEvent(
    "rejected",
    "A call refused as the caller's mistake: INVALID_ARGUMENT, and NOT_FOUND or UNIMPLEMENTED of ModelInfer. Without a "
    "user id, so that a wrong one is not kept.",
    (
        _TS,
        _ROUTER,
        Field("request_id", Type.TEXT, "Id of the request, if the client gave a valid one.", nullable=True),
        Field("field", Type.TEXT, "The request's field that was wrong."),
        Field("message", Type.TEXT, "What was wrong with it."),
        _REVISION,
        _SYNTHETIC,
        _CLIENT,
    ),
)
SHADOW: Final = LogEvent(
    "shadow",
    "An answered call that was asked again of another version, as the file's `shadow` says. Nobody saw the answer.",
    (
        Field("ts", Type.TIME, "When it was sent to the version, UTC with microseconds."),
        Field("request_id", Type.TEXT, "Of the call; with the user's id the key of its exposure."),
        Field("user_id", Type.TEXT, "Null if the call had none.", nullable=True),
        _HASHED,
        Field("version", Type.TEXT, "The version that was asked."),
        Field("primary", Type.TEXT, "The version that answered the call."),
        Field(
            "items",
            Type.INTEGERS,
            "Item ids in the answer, best first; null where items have names, where there is no answer, and of "
            "ModelInfer where the file's `log` names no output with items.",
            nullable=True,
        ),
        Field("item_names", Type.TEXTS, "The same where items have names.", optional=True),
        Field("status", Type.TEXT, "gRPC status of the answer.", allowed=STATUSES),
        Field("latency_ms", Type.NUMBER, "From sending to the answer, without the router's own time."),
        _REVISION,
        _ROUTER,
    ),
)
EVENTS: Final = {event.name: event for event in (EXPOSURE, OUTCOME, ALLOCATION, RELOAD, CONCLUSION, REJECTED, SHADOW)}

_JSON: Final[dict[Type, dict[str, object]]] = {
    Type.TEXT: {"type": "string"},
    Type.TIME: {"type": "string", "pattern": f"^{TIME}$"},
    Type.REVISION: {"type": "string", "pattern": f"^{REVISION}$"},
    Type.INTEGER: {"type": "integer"},
    Type.NUMBER: {"type": "number"},
    Type.BOOLEAN: {"type": "boolean"},
    Type.INTEGERS: {"type": "array", "items": {"type": "integer"}},
    Type.TEXTS: {"type": "array", "items": {"type": "string"}},
    Type.TEXT_MAP: {"type": "object", "additionalProperties": {"type": "string"}},
    Type.NUMBER_MAP: {"type": "object", "additionalProperties": {"type": "number"}},
    Type.NUMBERS_MAP: {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": ["number", "null"]}},
    },
    Type.TEAMS: {"type": "string", "pattern": f"^{TEAMS}$"},
}


def json_schema() -> dict[str, object]:
    """The JSON Schema (2020-12) of one line."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of the decision log",
        "oneOf": [_event_schema(event) for event in EVENTS.values()],
    }


def problems(line: Mapping[str, object]) -> list[str]:
    """What is wrong with a line, field by field; empty if nothing. Fields that no schema names are let pass."""
    if line.get("schema") != SCHEMA:
        return [f"schema: is {line.get('schema')!r}, and must be {SCHEMA}"]
    event = EVENTS.get(str(line.get("event")))
    if event is None:
        return [f"event: is {line.get('event')!r}, and must be one of {', '.join(EVENTS)}"]
    found = []
    for field in event.fields:
        if field.name not in line:
            if not field.optional:
                found.append(f"{field.name}: is missing")
        elif (problem := _problem(field, line[field.name])) is not None:
            found.append(f"{field.name}: {problem}")
    return found or (_interleaving_problems(line) if event is EXPOSURE else [])


def _interleaving_problems(line: Mapping[str, object]) -> list[str]:
    """What is wrong between the fields of an exposure that two versions are to serve together."""
    found = []
    versions, teams, model_version = line.get("versions"), line.get("teams"), line["model_version"]
    if isinstance(versions, list) and len(versions) != 2:
        found.append(f"versions: has {len(versions)} items, and must have 2")
    if versions is None and model_version is None:
        found.append("model_version: is null")
    elif versions is not None and model_version is not None:
        found.append("model_version: must be null where there are versions")
    items = line.get("items") if line.get("items") is not None else line.get("item_names")
    if isinstance(teams, str) and (versions is None or not isinstance(items, list) or len(items) != len(teams)):
        found.append("teams: must be as long as the list of items, of two versions")
    return found


def _event_schema(event: LogEvent) -> dict[str, object]:
    properties: dict[str, object] = {"schema": {"const": SCHEMA}, "event": {"const": event.name}}
    for field in event.fields:
        one: dict[str, object] = {"enum": list(field.allowed)} if field.allowed else dict(_JSON[field.type])
        if field.largest is not None:
            one |= {"minimum": -field.largest, "maximum": field.largest}
        if field.nullable:
            one = {"anyOf": [one, {"type": "null"}]}
        properties[field.name] = {**one, "description": field.doc}
    required = ["schema", "event", *(field.name for field in event.fields if not field.optional)]
    return {
        "type": "object",
        "title": event.name,
        "description": event.doc,
        "properties": properties,
        "required": required,
    }


def _problem(field: Field, value: object) -> str | None:
    if value is None:
        return None if field.nullable else "is null"
    if not _fits(field.type, value):
        return f"is {str(value)[:64]!r}, and must be: {field.type.value}"
    if field.allowed and value not in field.allowed:
        return f"is {str(value)[:64]!r}, and must be one of {', '.join(field.allowed)}"
    if field.largest is not None and isinstance(value, int | float) and abs(value) > field.largest:
        return f"is {str(value)[:64]!r}, and must be from {-field.largest:g} to {field.largest:g}"
    return None


def _fits(kind: Type, value: object) -> bool:
    match kind:
        case Type.TEXT:
            return isinstance(value, str)
        case Type.TIME | Type.REVISION:
            return isinstance(value, str) and re.fullmatch(TIME if kind is Type.TIME else REVISION, value) is not None
        case Type.TEAMS:
            return isinstance(value, str) and re.fullmatch(TEAMS, value) is not None
        case Type.BOOLEAN:
            return isinstance(value, bool)
        case Type.INTEGER:
            return isinstance(value, int) and not isinstance(value, bool)
        case Type.NUMBER:
            whole = isinstance(value, int) and not isinstance(value, bool)
            return whole or (isinstance(value, float) and math.isfinite(value))
        case Type.INTEGERS:
            return isinstance(value, list) and all(_fits(Type.INTEGER, item) for item in value)
        case Type.TEXTS:
            return isinstance(value, list) and all(isinstance(item, str) for item in value)
        case Type.NUMBERS_MAP:
            return isinstance(value, dict) and all(
                isinstance(name, str)
                and isinstance(numbers, list)
                and all(number is None or _fits(Type.NUMBER, number) for number in numbers)
                for name, numbers in value.items()
            )
        case Type.TEXT_MAP | Type.NUMBER_MAP:
            inner = Type.TEXT if kind is Type.TEXT_MAP else Type.NUMBER
            return isinstance(value, dict) and all(isinstance(k, str) and _fits(inner, v) for k, v in value.items())
