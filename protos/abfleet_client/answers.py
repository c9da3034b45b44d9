"""What comes back from a router, and what is told to it, as values. Knows no message and no connection."""

from collections.abc import Mapping
from dataclasses import dataclass

from abfleet_client.tensor import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """The answer to `recommend`.

    Attributes:
        items: Best first; numbers, or names where the version's items have names.
        scores: One for each item, higher is better; comparable inside one answer only.
        request_id: What outcomes name, so that they belong to this list.
        model_version: The version that served; "" where the list is interleaved from those of two.
        experiment, group: Where the user is assigned to; empty where there is none.
    """

    items: tuple[int, ...] | tuple[str, ...]
    scores: tuple[float, ...]
    request_id: str
    model_version: str
    experiment: str
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inference:
    """The answer to `infer`.

    Attributes:
        outputs: By name, in the order in which they came.
        request_id: What outcomes name, so that they belong to this call.
        model_version: The version that served.
    """

    outputs: Mapping[str, Tensor]
    request_id: str
    model_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Something that a user did.

    Attributes:
        outcome_id: Makes a repeat harmless; empty: it gets one.
        type: `impression`, `click`, `conversion`, `purchase`, or another that a metric of the experiments file reads.
        request_id: The answer it belongs to; empty: it joins the user's by time.
        item_id, item: The item by its number or by its name, as the answer has it; 0 and empty: none.
        value, currency: An amount; a currency is an ISO 4217 code.
        time: When it happened, in microseconds since the epoch, UTC; 0: when it is recorded.
    """

    outcome_id: str = ""
    type: str
    request_id: str = ""
    user_id: str = ""
    item_id: int = 0
    item: str = ""
    value: float = 0.0
    currency: str = ""
    time: int = 0


@dataclass(slots=True)
class OutcomeTally:
    """Counts of outcomes by result, and of calls that were sent again; changed only by the thread that sends."""

    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    lost: int = 0
    retries: int = 0
