"""Each line of the decision log against its schema: every arm, status and reason, and text that wants to break out."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
from abfleet_experiments.assign import Arm, Assigner
from abfleet_experiments.file.load import load_text
from abfleet_log.lines import event, timestamp
from abfleet_log.schema import EVENTS, EXPOSURE, FALLBACKS, REASONS, problems
from abfleet_router.calls.log_line import exposures
from abfleet_router.calls.routed_call import RoutedCall
from abfleet_router.configuration.snapshot import Snapshot, log_constant
from abfleet_router.fleet.failure import FailureReason
from abfleet_transport.call import Code
from hypothesis import example, given
from hypothesis import strategies as st

from tests.router.fakes import FakeCall

EVERYTHING = """
version: 1
default: v1
models: {v1: {target: "127.0.0.1:1"}, v2: {target: "127.0.0.1:2"}}
holdout: {percent: 5}
log_attributes: [country, "odd \\"name\\""]
experiments:
  - name: ranking
    traffic: 40
    overrides: {qa: treatment}
    groups: [{name: control, model: v1, weight: 66.67}, {name: treatment, model: v2, weight: 33.33}]
  - name: german
    layer: second
    audience: {country: [DE]}
    groups: [{name: control, model: v1, weight: 50}, {name: treatment, model: v2, weight: 50}]
"""
EMPTY = 'version: 1\ndefault: v1\nmodels: {v1: {target: "127.0.0.1:1"}}\n'
AT = datetime(2026, 11, 1, tzinfo=UTC)
CONFIGS = [
    load_text(EVERYTHING),
    load_text(EVERYTHING.replace("audience: {country: [DE]}", "traffic: 40")),
    load_text(EMPTY),
]
ARMS = [(config, arm) for config in CONFIGS for arm in Assigner(config, AT).arms]
HOSTILE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40),
    st.sampled_from(
        ['"', "\\", '","user_id":"x', "a\nb", "\u2028\u2029", "\x00", "пользователь-7", "用户", "🦉", "%s%d"]
    ),
)
FIELDS = {field.name for field in EXPOSURE.fields if not field.optional} | {"schema", "event"}


def ticket_of(arm: Arm, attributes: frozenset[str] = frozenset()) -> RoutedCall:
    """A call of this arm, under a snapshot that logs these attributes."""
    routes = (SimpleNamespace(log_constant=b'"layer":null'),) * (arm.index + 1)
    snapshot = SimpleNamespace(arms=(arm,), log_attributes=attributes, routes=routes)
    routed = RoutedCall(FakeCall(b""), cast(Snapshot, snapshot), 0.0)
    routed.arm = arm
    return routed


def test_the_arms_have_every_reason() -> None:
    """What follows covers every reason that the schema knows."""
    assert {arm.reason for _, arm in ARMS} == set(REASONS) - {"pinned"}  # which nobody is assigned


@given(
    st.sampled_from(ARMS),
    st.tuples(HOSTILE, st.one_of(st.just(""), HOSTILE), HOSTILE),
    st.sampled_from(Code),
    st.one_of(st.none(), st.sampled_from(["v1", "v1.4.0-rc1"])),
    st.one_of(st.none(), st.sampled_from(FailureReason)),
    st.dictionaries(st.one_of(st.sampled_from(["country", 'odd "name"', "secret"]), HOSTILE), HOSTILE, max_size=4),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5),
    st.tuples(st.booleans(), st.one_of(st.none(), st.just("4bf92f3577b34da6a3ce929d0e0e4736"))),
    st.tuples(st.floats(0, 4e9), st.floats(0, 1e4)),
    st.tuples(st.integers(0, 6), st.integers(0, 2**31), st.one_of(st.none(), st.integers(0, 9999))),
)
@example(
    ARMS[0],
    ("r", "\u2028", "router"),
    Code.OK,
    "v1",
    None,
    {"country": "D\nE"},
    [],
    (False, None),
    (0.0, 0.0),
    (1, 0, 0),
)
def test_every_exposure_is_what_the_schema_says(
    where: tuple[Any, Arm],
    names: tuple[str, str, str],
    status: Code,
    served: str | None,
    fallback: FailureReason | None,
    attributes: dict[str, str],
    items: list[int],
    marks: tuple[bool, str | None],
    times: tuple[float, float],
    numbers: tuple[int, int, int | None],
) -> None:
    """One line of JSON, exactly the schema's fields, each with the value that it was given, whatever text it has."""
    config, arm = where
    allowed = frozenset(config.log_attributes)
    routed = ticket_of(arm, allowed)
    routed.request_id, routed.user_id, router = names
    routed.fallback, routed.attributes = fallback, attributes
    routed.synthetic, routed.trace_id = marks
    routed.attempts, routed.history_length, routed.bucket = numbers
    routed.snapshot.routes[arm.index].log_constant = log_constant(arm, config.revision, router)
    failure = None if status is Code.OK else FailureReason.MODEL_ERROR
    (line,) = exposures([(routed, items, served, status, failure, times[1])], times[0])
    assert b"\n" not in line
    got = orjson.loads(line)
    assert problems(got) == []
    own = fallback or failure  # of a version that did not answer, whatever its group; where it did nothing is said
    assert got.pop("failure", None) == (own.value if own else None)
    assert set(got) == FIELDS
    moment = datetime.fromisoformat(got.pop("ts"))
    assert abs(moment.timestamp() - times[0]) <= 2e-6
    assert got.pop("latency_ms") == pytest.approx(times[1] * 1000, abs=0.0005)
    assert got == {
        "schema": 1,
        "event": "exposure",
        "request_id": names[0],
        "user_id": names[1] or None,
        "layer": arm.layer,
        "experiment": arm.experiment,
        "group": arm.group,
        "bucket": numbers[2],
        "reason": arm.reason,
        "allocation": arm.allocation,
        "propensity": arm.propensity,
        "model_version": arm.model_version,
        "served_version": served,
        "fallback": fallback.value if fallback else None,
        "attempts": numbers[0],
        "status": status.name,
        "items": items,
        "history_length": numbers[1],
        "attributes": {key: value for key, value in attributes.items() if key in allowed},
        "config_revision": config.revision,
        "synthetic": marks[0],
        "trace_id": marks[1],
        "client": None,
        "router": router,
    }


@pytest.mark.parametrize("reason", FailureReason)
def test_fallbacks_are_words_of_the_schema(reason: FailureReason) -> None:
    """No reason is told under a name that analysis does not know."""
    assert reason.value in FALLBACKS


@given(st.integers(0, 4_000_000_000_000_000))
def test_timestamps_are_exact(microseconds: int) -> None:
    """To the microsecond as far as a float tells them apart, in a form that sorts as text."""
    seconds = microseconds / 1e6
    text = timestamp(seconds).decode()
    assert len(text) == 27
    assert abs(datetime.fromisoformat(text).timestamp() - seconds) <= 2e-6
    assert timestamp(seconds + 1).decode() > text


def test_a_timestamp() -> None:
    """Microseconds are there when they are zero."""
    assert timestamp(1793491200.0) == b"2026-11-01T00:00:00.000000Z"
    assert timestamp(1793491200.25) == b"2026-11-01T00:00:00.250000Z"


@given(HOSTILE)
def test_other_events(text: str) -> None:
    """A line that is no exposure has its kind, its time and what it was given."""
    members = {
        "router": text,
        "request_id": None,
        "field": text,
        "message": text,
        "config_revision": "0" * 12,
        "synthetic": False,
        "client": None,
    }
    line = event("rejected", 0.0, members)
    assert b"\n" not in line
    got = orjson.loads(line)
    assert problems(got) == []
    assert got == {"schema": 1, "event": "rejected", "ts": "1970-01-01T00:00:00.000000Z", **members}
    assert set(got) == {field.name for field in EVENTS["rejected"].fields} | {"schema", "event"}


def test_calls_of_a_batch_have_each_their_own_line() -> None:
    """What is kept from one call to the next is right when arm, attempts, second and user change between them."""
    calls = []
    for number, (config, arm) in enumerate(ARMS * 2):
        routed = ticket_of(arm)
        routed.snapshot.routes[arm.index].log_constant = log_constant(arm, config.revision, "100%")
        routed.call.arrived = number / 3
        routed.request_id, routed.attempts = f"r-{number}", 1 + number % 4 // 2
        routed.fallback = FailureReason.TIMEOUT if number % 5 == 4 else None
        calls.append(routed)
    ended = [(routed, [number], "v1", Code.OK, None, 100.0) for number, routed in enumerate(calls)]
    picker = exposures(ended, 1e9)
    alone = [exposures([one], 1e9)[0] for one in ended]
    assert picker == alone
    for number, line in enumerate(map(orjson.loads, picker)):
        assert (line["request_id"], line["items"], line["attempts"]) == (f"r-{number}", [number], 1 + number % 4 // 2)
        assert line["fallback"] == ("timeout" if number % 5 == 4 else None)
        assert line["router"] == "100%"
        assert abs(datetime.fromisoformat(line["ts"]).timestamp() - 1e9 - number / 3) < 2e-6


def test_a_hashed_user() -> None:
    """The id is nowhere in the line, its hash is; a call without a user has neither."""
    hashed = {"user-1": "ab" * 32}.__getitem__
    for user_id, expected in (("user-1", "ab" * 32), ("", None)):
        routed = ticket_of(ARMS[0][1])
        routed.user_id = user_id
        (raw,) = exposures([(routed, (), "v1", Code.OK, None, 0.0)], 0.0, hashed)
        line = orjson.loads(raw)
        assert b"user-1" not in raw
        assert line["user_id"] is None
        assert line.get("user_id_hmac") == expected
