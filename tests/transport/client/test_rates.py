"""Two statuses to rates and percentiles: pure. Then what is said of them."""

from io import StringIO
from typing import Any

import pytest
from abfleet_protos.admin_pb2 import (
    ConfigurationStatus,
    DecisionLogStatus,
    GroupStatus,
    LatencyHistogram,
    PoolStatus,
    ReplicaStatus,
    StatusResponse,
)
from abfleet_transport.client.rates import between, percentile
from hypothesis import given
from hypothesis import strategies as st

from abfleet.up.status_news import StatusNews
from abfleet.up.status_view import StatusWindow, one_line, plain, screen

BOUNDS = [0.001, 0.01, 0.1]


def group(name: str, counts: list[int], *, errors: int = 0, fallbacks: int = 0, version: str = "v1") -> GroupStatus:
    return GroupStatus(
        experiment="e",
        group=name,
        model_version=version,
        calls=sum(counts),
        errors=errors,
        fallbacks=fallbacks,
        latency=LatencyHistogram(bounds_s=BOUNDS, counts=counts),
    )


def status(uptime_s: float, *groups: GroupStatus, **config: Any) -> StatusResponse:
    known = {"revision": "abc", "generation": 1, "seen_revision": "abc", "default": "v1"}
    return StatusResponse(
        router="r",
        serving=True,
        uptime_s=uptime_s,
        groups=groups,
        config=ConfigurationStatus(**(known | config)),
        pools=[
            PoolStatus(
                version="v1",
                ejections=2,
                replicas=[ReplicaStatus(address="127.0.0.1:1", health="lost", gets_calls=False)],
            )
        ],
        shed=3,
        decision_log=DecisionLogStatus(path="p", lines=5),
    )


def test_rates_are_differences() -> None:
    """Calls, errors, fallbacks and percentiles count from the earlier document on; shares are of the same time."""
    before = status(10, group("a", [100, 0, 0, 0], errors=7), group("b", [5, 0, 0, 0]))
    after = status(
        12, group("a", [100, 30, 0, 0], errors=8), group("b", [5, 0, 10, 0], fallbacks=4), group("c", [0] * 4)
    )
    found = between(before, after)
    a, b, c = found.groups
    assert (a.calls, a.calls_per_s, a.share, a.errors) == (30, 15.0, 0.75, 1)
    assert a.p50_ms == pytest.approx(5.5)
    assert (b.calls, b.share, b.fallbacks) == (10, 0.25, 4)
    assert b.p50_ms == pytest.approx(55)
    assert (c.calls, c.share, c.p50_ms) == (0, 0.0, None)
    assert (found.total.calls, found.total.errors, found.total.share) == (40, 1, 1.0)


def test_a_router_that_was_started_again_counts_from_zero() -> None:
    """Numbers that went down are a new process: no negative rate."""
    found = between(status(500, group("a", [900, 0, 0, 0])), status(2, group("a", [4, 0, 0, 0])))
    assert found.total.calls == 4
    assert found.total.calls_per_s == 2.0


def test_no_groups_and_no_time() -> None:
    """A router that has done nothing has rates of nothing."""
    found = between(None, status(0.0))
    assert (found.groups, found.total.calls, found.total.share, found.total.p99_ms) == ((), 0, None, None)


@given(counts=st.lists(st.integers(0, 50), min_size=4, max_size=4), parts=st.tuples(*[st.floats(0.001, 1.0)] * 2))
def test_percentiles_are_in_their_bucket_and_in_order(counts: list[int], parts: tuple[float, float]) -> None:
    """A percentile lies in the bucket of the observation of that rank, and a higher one is never lower."""
    low, high = sorted(parts)
    found = percentile(BOUNDS, counts, low)
    if not sum(counts):
        assert found is None
        return
    observations = [index for index, count in enumerate(counts) for _ in range(count)]
    rank = low * len(observations)
    bucket = observations[max(0, -int(-rank // 1) - 1)]
    assert found is not None
    if bucket == len(BOUNDS):
        assert found == BOUNDS[-1]
    else:
        assert ([0.0, *BOUNDS][bucket]) <= found <= BOUNDS[bucket] * (1 + 1e-12)
    above = percentile(BOUNDS, counts, high)
    assert above is not None
    assert above >= found - 1e-12


def test_the_window_is_ten_seconds() -> None:
    """Rates are of the last ten seconds once there are so many; a restarted router begins a new window."""
    looks = StatusWindow()
    assert looks.rates() is None
    for second in range(31):
        looks.add(status(float(second + 1), group("a", [second * second, 0, 0, 0])))
    rates = looks.rates()
    assert rates is not None
    assert rates.total.calls == 30 * 30 - 20 * 20
    looks.add(status(1.0, group("a", [3, 0, 0, 0])))
    rates = looks.rates()
    assert rates is not None
    assert rates.total.calls == 3


def test_what_is_shown() -> None:
    """The plain form has every number that the table has; markup in a name is text."""
    from rich.console import Console

    after = status(2, group("a[red]", [4, 0, 0, 0], errors=1), errors=["file:1: bad [key]"])
    rates = between(None, after)
    text = plain(after, rates)
    assert "error\tfile:1: bad [key]" in text
    assert "e\ta[red]\tv1\t2.0\t100.0 %\t0.50\t0.99\t1\t0" in text
    assert "v1\t0\t1\t2\t127.0.0.1:1 lost" in text
    assert "3 shed" in text
    console = Console(width=160, file=StringIO())
    console.print(screen(after, rates))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("bad [key]", "a[red]", "100.0 %", "127.0.0.1:1 lost"):
        assert word in shown
    assert one_line(rates).startswith("2.0 calls/s  p50 0.50 ms  p99 0.99 ms  errors 1  fallbacks 0")


class Ear:
    """Stands for a console without a terminal."""

    is_live = False

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> None:
        self.lines.append(line)


def told(*statuses: StatusResponse) -> list[str]:
    ear, looks = Ear(), StatusWindow()
    teller = StatusNews(ear)  # type: ignore[arg-type]  # it needs `note` and `is_live` alone
    for one in statuses:
        looks.add(one)
        teller.update(one, looks)
    return ear.lines


def test_news_is_said_once() -> None:
    """A new revision, each mistake of a file, and its end: one line each however often one looks."""
    bad = {"errors": ["one", "two"]}
    lines = told(
        status(1),
        status(2),
        status(3, **bad),
        status(4, **bad),
        status(5),
        status(6, revision="new", seen_revision="new"),
        status(7, revision="new", seen_revision="new"),
    )
    assert lines == [
        "the new configuration is not in force: one",
        "the new configuration is not in force: two",
        "the file again matches the configuration in force, abc",
        "configuration new is now in force",
    ]


def test_a_short_wait_is_no_news() -> None:
    """A configuration that waits for a starting worker is said after five seconds, and not at all if it is taken."""
    waits = {"seen_revision": "new", "errors": ["waits for v2"]}
    taken = {"seen_revision": "new", "revision": "new"}
    assert told(status(1), status(2, **waits), status(5, **waits), status(6, **taken)) == [
        "configuration new is now in force"
    ]
    assert told(status(1), status(2, **waits), status(7, **waits), status(8, **waits)) == [
        "the new configuration is not in force: waits for v2"
    ]


def test_traffic_is_a_line_every_ten_seconds_if_there_was_any() -> None:
    """No calls, no line; a restarted router begins anew."""
    idle = [status(float(second), group("a", [5, 0, 0, 0])) for second in range(15, 60)]
    assert len(told(status(1), *[status(float(s), group("a", [s, 0, 0, 0])) for s in range(2, 42)])) == 4
    assert len(told(status(1), *idle)) == 1
