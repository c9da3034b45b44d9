"""Decision logs to look at, drawn by a seed: what a shop would have, and experiments at every age. No IO.

Their last line is now, so that pages have nothing to say of its age.
"""

import hashlib
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from tests.analysis.log_lines import text_time

MODELS: Final = ("v1.2.3", "v1.3.0-beta", "v1.4.0-rc1", "v1.4.0-rc2", "v1.5.0-dev")
FILMS: Final = 2269
COUNTRIES: Final = ("DE", "FR", "IT", "ES")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One experiment of the log.

    Attributes:
        groups: Name, version and share of each; the first is control.
        clicks: The probability that a list gets a click, by group. errors: that a call fails.
        lost: The part of a group whose users are not in the log.
        ramp: Shares that take effect later: after how many days from now, and one for each group in percent.
        winner: Of an experiment that has ended and left the file; it ended when its days were over.
    """

    name: str
    owner: str
    hypothesis: str
    traffic: int
    days: float
    users_a_day: int
    groups: tuple[tuple[str, str, float], ...]
    clicks: tuple[float, ...]
    errors: tuple[float, ...]
    lost: tuple[float, ...] = (0.0,) * 5
    ramp: tuple[tuple[float, tuple[int, ...]], ...] = ()
    winner: str | None = None


THREE: Final = (("control", MODELS[0], 0.7), ("experiment", MODELS[1], 0.2), ("canary", MODELS[2], 0.1))
HALVES: Final = (("control", MODELS[0], 0.5), ("treatment", MODELS[1], 0.5))
EXPERIMENTS: Final = (
    Shown(
        name="homepage-ranking",
        owner="search-team",
        traffic=50,
        days=16,
        users_a_day=1500,
        groups=THREE,
        hypothesis="Learning from whole histories brings more clicks.",
        clicks=(0.30, 0.34, 0.31),
        errors=(0.003, 0.002, 0.002),
        ramp=((3, (40, 40, 20)), (7, (20, 60, 20))),
    ),
    Shown(
        name="basket-upsell",
        owner="checkout",
        traffic=10,
        days=5,
        users_a_day=400,
        groups=HALVES,
        hypothesis="Films that go with the basket bring more purchases.",
        clicks=(0.20, 0.20),
        errors=(0.01, 0.06),
    ),
    Shown(
        name="email-digest",
        owner="crm",
        traffic=20,
        days=9,
        users_a_day=500,
        groups=HALVES,
        hypothesis="A fresher list brings people back.",
        clicks=(0.25, 0.28),
        errors=(0.001, 0.001),
        lost=(0.0, 0.25),
    ),
    Shown(
        name="watch-next",
        owner="player",
        traffic=10,
        days=4,
        users_a_day=250,
        groups=HALVES,
        hypothesis="The order of a history matters for what is watched next.",
        clicks=(0.35, 0.36),
        errors=(0.001, 0.001),
    ),
    Shown(
        name="genre-rows",
        owner="search-team",
        traffic=10,
        days=29,
        users_a_day=40,
        groups=HALVES,
        hypothesis="Rows by genre bring more clicks.",
        clicks=(0.30, 0.31),
        errors=(0.001, 0.001),
    ),
)


FIVE: Final = tuple(zip(("control", "histories", "order", "genres", "fresh"), MODELS, (0.4, *(0.15,) * 4), strict=True))
AGES: Final = (("minute-1", 1 / 1440, 60_000), ("day-1", 0.4, 3000), ("day-9", 8.6, 900), ("ended", 28.5, 900))


def _at_every_age() -> Iterator[Shown]:
    for groups in (THREE, FIVE):
        for age, days, users_a_day in AGES:
            yield Shown(
                name=f"{len(groups)}-groups-{age}",
                owner="search-team" if len(groups) == 3 else "crm",
                hypothesis="Learning from whole histories, and from their order, brings more clicks.",
                traffic=12,
                days=days,
                users_a_day=users_a_day * len(groups) // 3,
                groups=groups,
                clicks=(0.30, 0.34, 0.31, 0.29, 0.32)[: len(groups)],
                errors=(0.003, 0.002, 0.002, 0.004, 0.002)[: len(groups)],
                ramp=() if age == "ended" else ((4, tuple(round(100 * part) for _, _, part in reversed(groups))),),
                winner=groups[1][0] if age == "ended" else None,
            )


EVERY_AGE: Final = tuple(_at_every_age())
"""Experiments of three groups and of five: in their first minute and first day, on day 9, and after their end."""


def file_text(now: datetime, experiments: Sequence[Shown] = EXPERIMENTS) -> str:
    """The experiments file that belongs to a log."""
    models = "".join(f"  {version}: {{target: '127.0.0.1:{place}'}}\n" for place, version in enumerate(MODELS, 1))
    text = f"version: 1\ndefault: {MODELS[0]}\nmodels:\n{models}"
    ended = [one for one in experiments if one.winner is not None]
    if ended:
        text += "concluded:\n"
    for one in ended:
        text += f"  - {{experiment: {one.name}, winner: {one.winner}, at: '{_seconds(now - timedelta(hours=5))}'}}\n"
    text += "experiments:\n"
    for one in experiments:
        if one.winner is not None:
            continue
        last = one.ramp[-1][1] if one.ramp else tuple(round(100 * part) for _, _, part in one.groups)
        groups = "".join(
            f"      - {{name: {name}, model: {model}, weight: {part}}}\n"
            for (name, model, _), part in zip(one.groups, last, strict=True)
        )
        text += (
            f"  - name: {one.name}\n    owner: {one.owner}\n    hypothesis: {one.hypothesis}\n"
            f"    traffic: {one.traffic}\n    groups:\n{groups}"
            "    metrics: {primary: ctr, secondary: [conversion_rate, revenue_per_user],"
            " guardrails: [{name: error_rate, points: 0.01}, {name: response_time_p95, margin: 0.10}]}\n"
            "    plan: {effect: 0.10}\n"
        )
        if one.ramp:
            rows = [(now - timedelta(days=one.days), tuple(round(100 * part) for _, _, part in one.groups))]
            rows += [(now + timedelta(days=later), shares) for later, shares in one.ramp]
            text += "    ramp:\n" + "".join(_row(at, one, shares) for at, shares in rows)
    return text


def _row(at: datetime, one: Shown, shares: Sequence[int]) -> str:
    weights = ", ".join(f"{name}: {part}" for (name, _, _), part in zip(one.groups, shares, strict=True))
    return f"      - {{at: '{_seconds(at)}', {weights}}}\n"


def _seconds(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def log_lines(now: datetime, experiments: Sequence[Shown] = EXPERIMENTS, seed: int = 7) -> Iterator[str]:
    """The lines of all experiments, in no order."""
    for one in experiments:
        for line in _allocation(one, now), *_people(one, now, random.Random(f"{seed}/{one.name}")):
            yield json.dumps(line) + "\n"


def _allocation(one: Shown, now: datetime) -> dict[str, Any]:
    return {
        "schema": 1,
        "event": "allocation",
        "ts": text_time(now - timedelta(days=one.days)),
        "router": "router-1",
        "config_revision": "3f9a0c52d1e7",
        "experiment": one.name,
        "salt": one.name,
        "allocation": hashlib.sha256(one.name.encode()).hexdigest()[:12],
        "traffic": one.traffic,
        "weights": {name: 100 * share for name, _, share in one.groups},
        "moved": None,
    }


def _people(one: Shown, now: datetime, draw: random.Random) -> Iterator[dict[str, Any]]:
    """Users who come on some day of the experiment, and again on some of those after it."""
    allocation = _allocation(one, now)["allocation"]
    begin, count = now - timedelta(days=one.days), round(one.days * one.users_a_day)
    for number in range(count):
        index = draw.choices(range(len(one.groups)), [share for _, _, share in one.groups])[0]
        if draw.random() < one.lost[index]:
            continue
        came = begin + timedelta(days=one.days) * (number / count)
        country = draw.choices(COUNTRIES, (4, 3, 2, 1))[0]
        for visit in range(1 + min(int(-math.log(1 - draw.random())), 6)):
            at = came + timedelta(hours=20 * visit * draw.random(), seconds=visit)
            if at < now:
                person = f"{one.name}-{number}"
                yield from _visit(one, index, person, f"{person}-{visit}", country, at, allocation, draw)


def _visit(
    one: Shown, index: int, user: str, request: str, country: str, at: datetime, allocation: str, draw: random.Random
) -> Iterator[dict[str, Any]]:
    """A call, and what the user did with the list."""
    group, model, share = one.groups[index]
    failed, fell_back = draw.random() < one.errors[index], index > 0 and draw.random() < 0.0004
    items = _list(model, draw)
    yield {
        "schema": 1,
        "event": "exposure",
        "ts": text_time(at),
        "request_id": request,
        "user_id": user,
        "layer": "default",
        "experiment": one.name,
        "group": group,
        "bucket": 100 * index,
        "reason": "allocated",
        "allocation": allocation,
        "propensity": share,
        "model_version": model,
        "served_version": None if failed else MODELS[0] if fell_back else model,
        "fallback": "timeout" if fell_back and not failed else None,
        "attempts": 1,
        "status": "UNAVAILABLE" if failed else "OK",
        "latency_ms": round(math.exp(draw.gauss(1.6, 0.4)), 3),
        "items": [] if failed else items,
        "history_length": 12,
        "attributes": {"country": country},
        "config_revision": "3f9a0c52d1e7",
        "synthetic": False,
        "trace_id": None,
        "client": None,
        "router": "router-1",
    }
    # The new ranking does most for those who have many films to choose from: a difference between countries to find.
    lift = 1.1 if country == "DE" and index == 1 else 1.0
    if failed or draw.random() >= one.clicks[index] * lift:
        return
    kinds = ["click", *(["conversion"] if draw.random() < 0.3 else []), *(["purchase"] if draw.random() < 0.1 else [])]
    for kind in kinds:
        bought = kind == "purchase"
        yield {
            "schema": 1,
            "event": "outcome",
            "ts": text_time(at),
            "received_ts": text_time(at),
            "outcome_id": f"{request}-{kind}",
            "request_id": request,
            "user_id": user,
            "type": kind,
            "item_id": items[0],
            "value": round(draw.uniform(4, 20), 2) if bought else None,
            "currency": "EUR" if bought else None,
        }


def _list(model: str, draw: random.Random) -> list[int]:
    """Ten films. Each version has favourites of its own, and the newer ones recommend more different films."""
    place, items = MODELS.index(model), dict[int, None]()
    while len(items) < 10:
        items[1 + (int(FILMS * draw.random() ** max(4 - place, 1)) + 37 * place) % FILMS] = None
    return list(items)
