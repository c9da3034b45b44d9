"""How numbers and times are written, at their edges."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from abfleet_dashboard import numbers
from abfleet_dashboard.views.words import spoken


def said(text: str) -> str:
    """With plain spaces."""
    return text.replace(numbers.NBSP, " ")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0812, "+8.1 %"),
        (-0.0812, "−8.1 %"),
        (0.0, "0.0 %"),
        (-0.0001, "0.0 %"),
        (12.5, "+1,250 %"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_change(value: float, text: str) -> None:
    """A sign except for nothing, one decimal except for the very large."""
    assert said(numbers.change(value)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "50.0 %"), (0.0541, "5.41 %"), (0.00012, "0.012 %"), (0.0, "0.0 %"), (1.0, "100.0 %"), (math.nan, "–")],
)
def test_share(value: float, text: str) -> None:
    """About three digits."""
    assert said(numbers.share(value)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (90, "90 seconds"),
        (180, "3 minutes"),
        (3600, "1 hour"),
        (5400, "90 minutes"),
        (7200, "2 hours"),
        (86400, "1 day"),
        (129600, "36 hours"),
        (216000, "2.5 days"),
        (2419200, "28 days"),
        (math.nan, "–"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    """In the largest unit that says enough."""
    assert said(numbers.duration(seconds)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0541, "0.0541"), (0.141, "0.1410"), (3.14159, "3.142"), (12345.6, "12,346"), (-2.5, "−2.5"), (math.nan, "–")],
)
def test_plain(value: float, text: str) -> None:
    """Enough digits to tell two versions apart."""
    assert said(numbers.plain(value)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9.34, "9.34 ms"),
        (9.997, "10.0 ms"),
        (12.26, "12.3 ms"),
        (99.96, "100 ms"),
        (318.4, "318 ms"),
        (1234.0, "1,234 ms"),
        (None, "–"),
    ],
)
def test_milliseconds(value: float | None, text: str) -> None:
    """Three figures at least, so that a change fits the values beside it."""
    assert said(numbers.milliseconds(value)) == text


def test_times_are_utc() -> None:
    """Whatever zone they come in, and as precise as the span needs."""
    at = datetime.fromisoformat("2026-11-08T01:03:09+02:00")
    assert said(numbers.instant(at)) == "7 Nov 2026, 23:03 UTC"
    assert said(numbers.instant(at, seconds=True)) == "7 Nov 2026, 23:03:09 UTC"
    spans = (timedelta(days=9), timedelta(days=1), timedelta(hours=1), timedelta(seconds=50))
    assert [said(numbers.moment(at, span)) for span in spans] == ["7 Nov", "7 Nov, 23:03", "23:03", "23:03:09"]
    assert numbers.instant(datetime(2026, 1, 1, tzinfo=UTC)).startswith("1")


def test_small_and_large_evidence() -> None:
    """Chances and e-values stay short."""
    assert said(numbers.chance(1e-9)) == "< 0.0001"
    assert numbers.chance(0.012) == "0.012"
    assert [said(numbers.p_value(value)) for value in (1e-9, 0.012)] == ["p < 0.0001", "p = 0.012"]
    assert [numbers.evidence(value) for value in (0.31, 412.4, 2.1e9)] == ["0.31", "412", "2.1e+09"]


def test_sentences_of_the_analysis_are_written_as_the_page_is() -> None:
    """Metrics by their names, percents with a real minus and a space; words of the file's own stay."""
    sentence = "ctr of my_ctr is worse: -5.8% (95 % interval -9.1% to -2.5%), and response_time_p95 held; day 1-5%"
    assert said(spoken(sentence)) == (
        "CTR of my_ctr is worse: \u22125.8 % (95 % interval \u22129.1 % to \u22122.5 %), and 95th percentile of "
        "response time held; day 1-5 %"
    )
