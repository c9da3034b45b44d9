"""What a person does with a list: examines it from the top down, clicks, sometimes converts, sometimes buys. Pure.

A person examines position k with probability 1/k^0.6 (position bias of that form: Craswell et al., WSDM 2008, compare
models of it), clicks what is examined with one probability if it would be watched next and another if not, and goes on
from there. An effect multiplies the probability of a click, so that the true relative lift of clicks is the effect.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

POSITION_BIAS = 0.6
CLICK_LIKED, CLICK_OTHER = 0.35, 0.02
CONVERT, BUY = 0.15, 0.4
"""Of clicks, and of conversions."""
PRICE_LOG_MEAN, PRICE_LOG_SIGMA = 2.3, 0.8
"""Of a lognormal price: median 10."""
MAX_DELAY_SECONDS = 10.0
MAX_EFFECT = 1 / CLICK_LIKED - 1
"""Beyond it a probability would pass 1."""
CURRENCY = "EUR"


@dataclass(frozen=True, slots=True)
class Act:
    """Something that a person does `delay_seconds` after the answer."""

    type: str
    item: int | str
    delay_seconds: float
    value: float = 0.0
    currency: str = ""


def acts(
    items: Sequence[int | str],
    likes: Callable[[int | str], bool],
    draw: random.Random,
    *,
    effect: float = 0.0,
    mean_delay_seconds: float = 2.0,
) -> list[Act]:
    """What follows a list, in order of position. `effect`: relative change of the probability of a click."""
    done = []
    for position, item in enumerate(items, 1):
        examined = position**-POSITION_BIAS
        clicks = examined * (CLICK_LIKED if likes(item) else CLICK_OTHER) * (1 + effect)
        # Each position draws the same number of times whatever happens, so that an effect changes nothing but clicks.
        click, convert, buy = draw.random(), draw.random(), draw.random()
        delays = [draw.expovariate(1.0) * mean_delay_seconds for _ in range(3)]
        price = round(draw.lognormvariate(PRICE_LOG_MEAN, PRICE_LOG_SIGMA), 2)
        if click >= clicks:
            continue
        at = min(delays[0], MAX_DELAY_SECONDS)
        done.append(Act("click", item, at))
        if convert < CONVERT:
            at = min(at + delays[1], MAX_DELAY_SECONDS)
            done.append(Act("conversion", item, at))
            if buy < BUY:
                at = min(at + delays[2], MAX_DELAY_SECONDS)
                done.append(Act("purchase", item, at, price, CURRENCY))
    return done
