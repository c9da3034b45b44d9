"""A folder of logs as lines: from the beginning, and as it grows, is rotated, compressed, torn or compacted."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from abfleet_autopilot.following.log_feed import CHUNK_BYTES, GrowingFile, LogFeed
from abfleet_autopilot.following.read_line import microseconds, read_line
from abfleet_autopilot.lines import CountedCall, Line
from abfleet_log import outcome
from abfleet_log.files import WriterIdentity, locked_if_closed
from abfleet_log.files import compress as compress_file
from abfleet_log.tools.compact import compact
from abfleet_protos import recommender_pb2

from tests.analysis.log_lines import START, LogLines

US = 1_000_000
NOW = int(START.timestamp()) * US + 10**12
FIRST, SECOND = "decisions-a-20261101T000000000000Z-1.jsonl", "decisions-b-20261101T000000000000Z-2.jsonl"


def lines(count: int, *, begin: float = 0.0, step: float = 1.0, **changed: Any) -> bytes:
    """Calls of so many users, a second apart."""
    log = LogLines()
    for number in range(count):
        log.exposure(f"u{begin}-{number}", "control", START + timedelta(seconds=begin + step * number), **changed)
    return b"".join(encoded(log))


def encoded(log: LogLines) -> Iterable[bytes]:
    import orjson

    return (orjson.dumps(line) + b"\n" for line in log.lines)


def seconds(found: Iterable[Line]) -> list[float]:
    return [(line.at - int(START.timestamp()) * US) / US for line in found]


def compress(path: Path) -> None:
    identity = WriterIdentity("a", 1)
    with locked_if_closed(path, identity, lambda: 1e12) as file:
        assert file is not None
        assert compress_file(file, path, lambda: True) is not None


def all_of(folder: Path) -> list[float]:
    feed = LogFeed(folder)
    return seconds([*feed.replay(NOW), *feed.rest()])


def test_files_are_read_side_by_side(tmp_path: Path) -> None:
    """In order of time, of two routers whose lines alternate; actions beside them are no lines."""
    (tmp_path / FIRST).write_bytes(lines(500, begin=0, step=2))
    (tmp_path / SECOND).write_bytes(lines(500, begin=1, step=2))
    (tmp_path / "actions-a-20261101T000000000000Z-1.jsonl").write_bytes(b'{"event":"action"}\n')
    assert all_of(tmp_path) == [float(number) for number in range(1000)]


def test_a_growing_log_is_followed_over_rotation_and_compression(tmp_path: Path) -> None:
    """Each line once: of a torn line, of a file that is compressed between two polls, and of a new one."""
    path, feed = tmp_path / FIRST, LogFeed(tmp_path)
    content = lines(100)
    path.write_bytes(content[:5000])
    found = list(feed.replay(NOW))
    with path.open("ab") as file:
        file.write(content[5000:])
    compress(path)
    later = tmp_path / FIRST.replace("-1.", "-3.").replace("T000000", "T000150")
    later.write_bytes(lines(10, begin=100))
    found += [*feed.poll(NOW)]
    compress(later)
    (tmp_path / SECOND).write_bytes(lines(10, begin=110))
    compress(tmp_path / SECOND)
    found += [*feed.poll(NOW), *feed.poll(NOW), *feed.rest()]
    assert seconds(found) == [float(number) for number in range(120)]
    assert (feed.late, feed.counts.unreadable, feed.counts.read) == (0, 0, 120)


def test_compacted_files_are_read_in_order_of_time(tmp_path: Path) -> None:
    """Together with what is still a file of lines."""
    (tmp_path / FIRST).write_bytes(lines(50, begin=0, step=2))
    (tmp_path / SECOND).write_bytes(lines(50, begin=1, step=2))
    compact(tmp_path, tmp_path / "parquet", WriterIdentity("a", 1), wall=lambda: 1e12)
    assert not list(tmp_path.glob("*.jsonl"))
    (tmp_path / FIRST).write_bytes(lines(5, begin=100))
    assert all_of(tmp_path) == [float(number) for number in range(105)]


def test_what_a_power_cut_left_is_counted_and_passed_over(tmp_path: Path) -> None:
    """A line that is no JSON, one that is far too long, and a last one without its end."""
    path = tmp_path / FIRST
    path.write_bytes(lines(1) + b"\0" * 50 + b"\n" + b"x" * (40 << 20) + b"\n" + lines(1, begin=1) + b'{"eve')
    feed = LogFeed(tmp_path)
    assert seconds([*feed.replay(NOW), *feed.rest()]) == [0.0, 1.0]
    assert feed.counts.unreadable == 2
    assert not feed.faults()


def test_a_line_longer_than_a_chunk_is_read(tmp_path: Path) -> None:
    """As long as routers may write them."""
    path = tmp_path / FIRST
    path.write_bytes(b"x" * (CHUNK_BYTES + 10) + b"\ny\nz")
    growing = GrowingFile(path)
    assert [len(line) for line in growing.read()] == [CHUNK_BYTES + 10, 1]
    assert growing.read() == []


# --- wrong clocks -----------------------------------------------------------------------------------------------------


def test_one_line_of_a_wrong_clock_is_not_the_time(tmp_path: Path) -> None:
    """One of 1970, one of years ahead, one of a day before: left out and counted; all others come."""
    day = 86_400
    odd = [lines(1, begin=-56 * 365 * day), lines(1, begin=3 * day), lines(1, begin=-day), lines(1, begin=4000 * day)]
    parts = [lines(10, begin=10 * n) + one for n, one in enumerate(odd)]
    (tmp_path / FIRST).write_bytes(b"".join(parts) + lines(10, begin=40))
    feed = LogFeed(tmp_path)
    assert seconds([*feed.replay(NOW), *feed.rest()]) == [float(number) for number in range(50)]
    assert sum(feed.counts.wrong_clock.values()) == 4


def test_after_a_silence_time_goes_on(tmp_path: Path) -> None:
    """A night without calls is no wrong clock."""
    (tmp_path / FIRST).write_bytes(lines(5) + lines(5, begin=30_000))
    assert all_of(tmp_path) == [0.0, 1.0, 2.0, 3.0, 4.0, 30_000.0, 30_001.0, 30_002.0, 30_003.0, 30_004.0]


def test_a_router_that_is_ahead_is_a_fault(tmp_path: Path) -> None:
    """Its lines are of the future: they are left out, and the log is not trusted until they end."""
    start = int(START.timestamp()) * US
    (tmp_path / FIRST).write_bytes(lines(200))
    (tmp_path / SECOND).write_bytes(lines(50, begin=7200, router="r2"))
    feed = LogFeed(tmp_path)
    assert seconds(feed.replay(start + 200 * US)) == [float(number) for number in range(196)]
    assert feed.faults() == ["50 of the newest 250 lines came too late or have a wrong time (routers: r2)"]
    with (tmp_path / FIRST).open("ab") as file:
        file.write(lines(700, begin=200))
    list(feed.poll(start + 900 * US))
    assert feed.faults() == []


# --- single lines -----------------------------------------------------------------------------------------------------


def test_what_is_taken_of_a_line() -> None:
    """A call that counts, and others of which only the router is known."""
    log = LogLines()
    log.exposure("u", "treatment", START, fallback="timeout", latency_ms=12.5)
    log.exposure("u", "treatment", START, synthetic=True)
    log.exposure(None, None, START)
    log.exposure("u", "treatment", START, reason="override")
    first, *others = [read_line(one) for one in encoded(log)]
    assert isinstance(first, CountedCall)
    assert (first.group, first.own, first.latency_ms, first.propensity) == ("treatment", False, 12.5, 0.5)
    assert [type(one).__name__ for one in others] == ["Other"] * 3
    assert [read_line(raw) for raw in (b"", b"[]", b'{"event":"exposure"}', b'{"event":"exposure","ts":3}')] == [
        None
    ] * 4


@pytest.mark.parametrize("text", ["2026-11-01T00:00:00Z", "2026-11-01 00:00:00.000000Z", "x" * 27])
def test_a_time_that_is_none(text: str) -> None:
    """Only the log's own form is read."""
    with pytest.raises(ValueError, match=r"is no time of the log|invalid literal"):
        microseconds(text)
    assert microseconds("2026-11-01T00:00:00.000001Z") == int(START.timestamp()) * US + 1


@pytest.mark.parametrize("changed", [{}, {"fallback": "timeout"}, {"status": "INTERNAL"}, {"synthetic": True}])
@pytest.mark.parametrize("user", ["u", 'q"', "ж", None])
def test_a_routers_own_line_is_read_alike_without_parsing_all_of_it(user: str | None, changed: dict[str, Any]) -> None:
    """In the router's order of members, which tells what calls share; whatever the attributes say."""
    import orjson

    log = LogLines()
    said = {"attributes": {"x": '"synthetic":false,"latency_ms":7,', "latency_ms": "9"}}
    log.exposure(user, "treatment" if user else None, START, latency_ms=12.5, **said, **changed)
    (line,) = log.lines
    first = ("schema", "event", "ts", "request_id", "user_id", "bucket")
    shared = [name for name in line if name not in first][: list(line).index("latency_ms")]
    ends = ("served_version", "fallback", "attempts", "status", "latency_ms", "items", "history_length", "attributes")
    tail = ("synthetic", "trace_id", "client")
    order = [*first, *(name for name in shared if name not in (*ends, *tail)), "router", *ends, *tail]
    own = orjson.dumps({name: line[name] for name in dict.fromkeys(order)})
    assert read_line(own) == read_line(orjson.dumps(line))
    assert read_line(own[:-1]) is None


@pytest.mark.parametrize("request_id", ["r1", "", None, 'q"', "ж"])
@pytest.mark.parametrize("router", ["router-1", 'r"', None])
def test_a_routers_own_outcome_is_read_alike(request_id: str | None, router: str | None) -> None:
    """As `abfleet_log.outcome` writes it, with whatever else it says; one that is cut is none."""
    import orjson

    sent = recommender_pb2.Outcome(
        outcome_id="o1", request_id=request_id or "", user_id='"router":"other"', type="click", item='"router":"x"'
    )
    line = outcome.line(sent, int(START.timestamp()) * US + 7, router=router, client="c")
    own = orjson.dumps(line | {"request_id": request_id})
    other = orjson.dumps(dict(reversed([*(line | {"request_id": request_id}).items()])))
    assert read_line(own) == read_line(other)
    assert read_line(own[:-1]) is None
