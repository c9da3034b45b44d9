"""Money in a log: what is added up is in one currency, and what it is does not hang on lines that come later."""

from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from abfleet_analysis.analyse import analyse
from abfleet_experiments.file.load import load_text

from tests.analysis.log_lines import DAY, START, LogLines, file_text, metric, only, report_of

HOUR = timedelta(hours=1)
ORDERS = "metrics:\n  orders: {type: mean, outcome: order}\n"
RATES = "currency: EUR\nrates: {JPY: 0.006, USD: 0.5}\n"


def shop(users: int = 40) -> LogLines:
    """Users of both groups, who have done nothing yet."""
    log = LogLines()
    for user in range(users):
        log.exposure(f"u{user}", ("control", "treatment")[user % 2])
    return log


def orders(log: LogLines, *sales: tuple[str, int, float, str | None], at: timedelta = HOUR) -> LogLines:
    """Outcomes: type, user, value, currency."""
    for kind, user, value, currency in sales:
        log.outcome(kind, f"u{user}", at=START + at, value=value, currency=currency)
    return log


def test_an_own_mean_adds_up_one_currency(tmp_path: Path) -> None:
    """200 orders of 10 EUR and 20 of 1,600 JPY: the yen are left out and counted, whatever the type is called."""
    log = orders(shop(), *(("order", n % 40, 10.0, "EUR") for n in range(200)))
    orders(log, *(("order", 1, 1600.0, "JPY") for _ in range(20)))
    report = report_of(log.write(tmp_path), file_text("orders", metrics=ORDERS))
    found = metric(report, "orders")
    assert (found["value"], found["baseline_value"], found["currency"]) == (50.0, 50.0, "EUR")
    assert only(report)["data_quality"]["other_currencies"] == 20


@pytest.mark.parametrize(
    ("name", "kind", "winsorise", "before"),
    [
        ("orders", "order", "", False),
        ("orders", "order", "", True),
        ("orders", "order", ", winsorise: 0.9", False),
        ("revenue_per_user", "purchase", "", True),
    ],
)
def test_what_does_not_count_is_as_if_it_were_not_there(
    tmp_path: Path, name: str, kind: str, winsorise: str, before: bool
) -> None:
    """No figure hangs on it: not the value, the cut or the value before the experiment, which CUPED uses.

    And with a rate every figure is that of the same sales in the metric's own currency.
    """
    sales = [(kind, n % 40, float(n % 7), ("EUR", None, "EUR", "JPY")[n % 4]) for n in range(160)]
    logs: dict[str, Callable[[str, int, float, str | None], list[tuple[str, int, float, str | None]]]] = {
        "all": lambda *sale: [sale],
        "euros": lambda *sale: [] if sale[3] == "JPY" else [sale],
        "exchanged": lambda kind, user, value, currency: [
            (kind, user, value * (0.006 if currency == "JPY" else 1), "EUR")
        ],
    }
    own = f"metrics:\n  orders: {{type: mean, outcome: order{winsorise}}}\n"
    plain, rates = file_text(name, metrics=own), file_text(name, metrics=RATES + own)
    reports = []
    for number, (text, log_name) in enumerate(((plain, "all"), (plain, "euros"), (rates, "all"), (rates, "exchanged"))):
        log, taken = shop(), logs[log_name]
        orders(log, *(one for sale in sales for one in taken(*sale)))
        if before:
            orders(log, *(one for sale in sales[::-1] for one in taken(*sale)), at=-DAY)
        folder = tmp_path / str(number)
        folder.mkdir()
        reports.append(report_of(log.write(folder), text))
    assert [only(report)["data_quality"]["other_currencies"] for report in reports] == [40, 0, 0, 0]
    for one, other in (reports[:2], reports[2:]):
        for key, value in metric(one, name).items():
            assert value == pytest.approx(metric(other, name)[key]), key
    assert {metric(report, name)["currency"] for report in reports} == {"EUR"}


def test_the_file_says_which_currency(tmp_path: Path) -> None:
    """Though another is more frequent; and a metric's own word goes before the file's, rates included."""
    log = orders(shop(2), ("purchase", 1, 8.0, "EUR"), *(("purchase", 1, 100.0, "JPY") for _ in range(3)))
    orders(log, ("purchase", 1, 2.0, "USD"), ("purchase", 1, 1000.0, "SEK"))
    log.write(tmp_path)
    own = "metrics:\n  yen: {type: mean, outcome: purchase, currency: JPY, rates: {EUR: 200}}\n"
    own += "  euros: {type: mean, outcome: purchase}\n"
    for text, name, value, others in (
        ("", "revenue_per_user", 300.0, 3),
        ("currency: EUR\n", "revenue_per_user", 8.0, 5),
        (RATES, "revenue_per_user", 8 + 3 * 0.6 + 2 * 0.5, 1),
        (RATES, "euros", 8 + 3 * 0.6 + 2 * 0.5, 1),
        (RATES, "yen", 300 + 8 * 200.0, 2),
    ):
        report = report_of(tmp_path, file_text(name, metrics=text + own))
        assert metric(report, name)["value"] == pytest.approx(value), (text, name)
        assert only(report)["data_quality"]["other_currencies"] == others, (text, name)


def test_a_currency_as_others_write_it(tmp_path: Path) -> None:
    """In small letters or with blanks it is the same one; an empty text is none, and is in the metric's."""
    written = ("EUR", "eur", " EUR ", "", None)
    log = orders(shop(2), *(("order", 1, 1.0, one) for one in written), ("order", 1, 1.0, "usd"))
    report = report_of(log.write(tmp_path), file_text("orders", metrics=ORDERS))
    assert (metric(report, "orders")["value"], metric(report, "orders")["currency"]) == (5.0, "EUR")
    assert only(report)["data_quality"]["other_currencies"] == 1


def test_numbers_without_a_currency_are_added_up(tmp_path: Path) -> None:
    """Minutes played have none, and none is made up, also where the file names one for money."""
    log = orders(shop(2), ("order", 1, 2.0, None), ("order", 1, 3.0, None))
    log.write(tmp_path)
    for text, currency in (("", None), (RATES, "EUR")):
        found = metric(report_of(tmp_path, file_text("orders", metrics=text + ORDERS)), "orders")
        assert (found["value"], found["currency"]) == (5.0, currency)


def test_outcomes_are_counted_in_every_currency(tmp_path: Path) -> None:
    """Who counts outcomes adds up no values: count, proportion and ratio take all of them."""
    log = orders(
        shop(2),
        ("order", 1, 10.0, "EUR"),
        ("order", 1, 1600.0, "JPY"),
        ("visit", 1, 0.0, None),
        ("visit", 0, 0.0, None),
    )
    own = "metrics:\n  n: {type: count, outcome: order}\n  any: {type: proportion, outcome: order}\n"
    own += "  each: {type: ratio, outcome: order, over: visit}\n"
    report = report_of(log.write(tmp_path), file_text("n", (), ("any", "each"), RATES + own))
    assert [metric(report, name)["value"] for name in ("n", "any", "each")] == [2.0, 1.0, 2.0]
    assert only(report)["data_quality"]["other_currencies"] == 0
    assert {metric(report, name)["currency"] for name in ("n", "any", "each")} == {None}


def said(path: Path, text: str, days: float) -> tuple[dict[str, Any], str | None]:
    """The sums of the primary metric at each look, as of a time, and its currency then."""
    (experiment,) = analyse([path], load_text(text), as_of=START + DAY * days).experiments
    evidence = experiment.gathered.evidence
    found = evidence.metrics[0].moments
    parts = {one.name: getattr(found, one.name) for one in fields(found)}
    parts |= {one.name: getattr(found.third, one.name) for one in fields(found.third)} if found.third else {}
    looks = {name: part[: evidence.calendar.done] for name, part in parts.items() if isinstance(part, np.ndarray)}
    return looks, experiment.gathered.currencies["orders"]


@pytest.mark.parametrize("before", [False, True])
def test_what_comes_later_changes_no_look_before(tmp_path: Path, before: bool) -> None:
    """Values without a currency at first, then euros, then yen that become more: each look says what it said then."""
    log = shop()
    for user in range(40, 60):
        log.exposure(f"u{user}", ("control", "treatment")[user % 2], START + DAY * 3)
    if before:
        orders(log, *(("order", n, float(n), ("EUR", "JPY", None)[n % 3]) for n in range(60)), at=-DAY)
    sales = [(0.1, None, 20), (1, "EUR", 30), (2, "EUR", 20), (3, "JPY", 60), (4, "EUR", 30), (4.9, None, 5)]
    for day, currency, many in sales:
        orders(log, *(("order", n % 40, 1.0 + n % 5, currency) for n in range(many)), at=DAY * day)
    text = file_text("orders", metrics=ORDERS)
    log.write(tmp_path)
    last, currency = said(tmp_path, text, 5.0)
    euros = sum(1.0 + n % 5 for _, currency, many in sales for n in range(many) if currency != "JPY")
    assert (last["y"][-1].sum(), currency) == (pytest.approx(euros), "EUR")
    for days, expected in ((0.5, None), (2.0, "EUR"), (3.5, "JPY")):
        then, currency = said(tmp_path, text, days)
        assert currency == expected
        assert then.keys() == last.keys()
        for name, part in then.items():
            np.testing.assert_allclose(part, last[name][: len(part)], atol=1e-9, err_msg=f"{name} {days}")


def test_groups_before_the_experiment_are_compared_in_one_currency(tmp_path: Path) -> None:
    """The check of the time before the experiment adds up no two currencies either."""
    log = shop()
    orders(log, *(("order", n, 10.0, "EUR") for n in range(40)), ("order", 1, 1e6, "JPY"), at=-DAY)
    orders(log, *(("order", n, 10.0, "EUR") for n in range(40)))
    log.write(tmp_path)
    for text, value in ((ORDERS, 400.0), (RATES + ORDERS, 400.0 + 6000.0)):
        (experiment,) = analyse([tmp_path], load_text(file_text("orders", metrics=text))).experiments
        before = experiment.gathered.evidence.quality.before
        assert before is not None
        assert before.y.sum() == pytest.approx(value)


@pytest.mark.parametrize("changed", [{"value": 900.0}, {"kind": "visit"}, {"user": "u3"}, {"request": "r0"}])
def test_an_outcome_with_the_id_of_another(tmp_path: Path, changed: dict[str, Any]) -> None:
    """The first one counts; the others are counted apart from harmless repeats, over all files."""
    log = shop(4)
    log.outcome("order", "u1", at=START + HOUR, outcome_id="same", value=5.0, currency="EUR")
    log.outcome("order", "u1", at=START + HOUR * 2, outcome_id="same", value=5.0, currency="eur")
    other = {"kind": "order", "user": "u1", "value": 5.0, "currency": "EUR"} | changed
    log.outcome(at=START + HOUR * 3, outcome_id="same", **other)
    log.outcome(at=START + HOUR * 4, outcome_id="same", **other)
    log.outcome("order", "u2", at=START, outcome_id="same", value=7.0, synthetic=True)
    report = report_of(log.write(tmp_path), file_text("orders", metrics=ORDERS))
    assert metric(report, "orders")["value"] == 2.5
    assert (report["log"]["duplicates"], only(report)["data_quality"]["conflicting_outcomes"]) == (1, 2)


def test_of_two_at_the_same_time_the_choice_is_the_same_in_any_order(tmp_path: Path) -> None:
    """Which of two outcomes with one id and one time counts is no matter of the order of lines or files."""
    values = []
    for name in ("one", "other"):
        log = shop(4)
        for value in (5.0, 9.0)[:: 1 if name == "one" else -1]:
            log.outcome("order", "u1", at=START + HOUR, outcome_id="same", value=value)
        (tmp_path / name).mkdir()
        values.append(
            metric(report_of(log.write(tmp_path / name), file_text("orders", metrics=ORDERS)), "orders")["value"]
        )
    assert values[0] == values[1]
