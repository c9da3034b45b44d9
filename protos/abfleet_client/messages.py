"""Arguments to messages and metadata, and messages to answers. Knows no connection.

Checks what would not fit a message. The router checks the rest, and its words reach the caller.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import index
from time import time_ns
from typing import Any

from abfleet_protos import inference_pb2, recommender_pb2

from abfleet_client.answers import Inference, Outcome, Recommendation
from abfleet_client.errors import InvalidArgument, not_allowed
from abfleet_client.tensor import Tensor

Metadata = tuple[tuple[str, str | bytes], ...]
Inputs = Mapping[str, Any]
"""Name to Tensor or numpy array."""
MOST_ITEMS = 100
ITEMS_ALLOWED = "a sequence of whole numbers of 64 bits, or one of texts"


def make_id() -> str:
    """A new unique id, of a call or of an outcome."""
    return uuid.uuid4().hex


def recommend_request(
    user_id: str, items: Sequence[int] | Sequence[str], limit: int, attributes: Mapping[str, str], request_id: str
) -> recommender_pb2.RecommendRequest:
    """Raises InvalidArgument."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MOST_ITEMS:
        raise not_allowed("limit", limit, f"1 to {MOST_ITEMS}")
    message = recommender_pb2.RecommendRequest(
        user_id=_text("user_id", user_id), limit=limit, request_id=_text("request_id", request_id)
    )
    if isinstance(items, str | bytes):
        raise not_allowed("items", items, ITEMS_ALLOWED)
    numbers_or_names: list[Any] = list(items)
    by_name = bool(numbers_or_names) and isinstance(numbers_or_names[0], str)
    try:
        if by_name:
            message.items.extend(numbers_or_names)
        else:
            message.item_ids.extend(_number(item) for item in numbers_or_names)
    except (TypeError, ValueError):
        raise not_allowed("items", items, ITEMS_ALLOWED) from None
    for name, value in attributes.items():
        message.attributes[_text("attributes", name)] = _text(f"attributes[{name!r}]", value)
    return message


def recommendation(answer: recommender_pb2.RecommendResponse) -> Recommendation:
    """The message as a value."""
    return Recommendation(
        items=tuple(answer.item_ids) or tuple(answer.items),
        scores=tuple(answer.scores),
        request_id=answer.request_id,
        model_version=answer.model_version,
        experiment=answer.experiment,
        group=answer.group,
    )


def infer_request(
    inputs: Inputs, outputs: Sequence[str], model: str, version: str, attributes: Mapping[str, str], request_id: str
) -> Any:
    """A ModelInferRequest. Raises InvalidArgument."""
    message: Any = inference_pb2.ModelInferRequest(
        model_name=_text("model", model), model_version=_text("version", version), id=_text("request_id", request_id)
    )
    for name, value in inputs.items():
        tensor = _tensor(name, value)
        message.inputs.add(name=_text("inputs", name), datatype=tensor.datatype, shape=tensor.shape)
        message.raw_input_contents.append(tensor.raw)
    for name in outputs:
        message.outputs.add(name=_text("outputs", name))
    for name, text in attributes.items():
        message.parameters[_text("attributes", name)].string_param = _text(f"attributes[{name!r}]", text)
    return message


def inference(answer: Any) -> Inference:
    """A ModelInferResponse as a value."""
    outputs = {
        output.name: Tensor(output.datatype, tuple(output.shape), raw)
        for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
    }
    return Inference(outputs=outputs, request_id=answer.id, model_version=answer.model_version)


def call_metadata(*, token: str, synthetic: bool, user_id: str = "", traceparent: str = "") -> Metadata:
    """What goes beside a message. `user_id`: for calls whose message has no place for it."""
    found: list[tuple[str, str | bytes]] = []
    if token:
        found.append(("authorization", f"Bearer {token}"))
    if synthetic:
        found.append(("x-synthetic", "1"))
    if user_id:
        # Printable ASCII is all that metadata of text may hold; spaces at an end would be lost.
        plain = user_id.isascii() and user_id.isprintable() and user_id == user_id.strip()
        found.append(("x-user-id", user_id) if plain else ("x-user-id-bin", user_id.encode()))
    if traceparent:
        found.append(("traceparent", traceparent))
    return tuple(found)


def make_outcome(
    type: str,
    *,
    user_id: str,
    request_id: str,
    item: int | str | None,
    value: float,
    currency: str,
    time: datetime | None,
    outcome_id: str,
) -> Outcome:
    """Raises InvalidArgument."""
    if time is not None and time.tzinfo is None:
        raise not_allowed("time", time.isoformat(), "a time with its offset from UTC")
    if not user_id and not request_id:
        allowed = "a user_id, a request_id or both, so that the outcome belongs to somebody"
        raise not_allowed("user_id", user_id, allowed)
    number, name = 0, ""
    if isinstance(item, str):
        name = item
    elif item is not None:
        try:
            number = _number(item)
        except (TypeError, ValueError):
            raise not_allowed("item", item, "a whole number of 64 bits, or a text") from None
    return Outcome(
        outcome_id=outcome_id,
        type=type,
        request_id=request_id,
        user_id=user_id,
        item_id=number,
        item=name,
        value=value,
        currency=currency,
        time=0 if time is None else round(time.astimezone(UTC).timestamp() * 1e6),
    )


def complete(outcome: Outcome) -> Outcome:
    """The same with an id and a time, so that it can be sent again. Raises InvalidArgument where it fits no message."""
    whole = Outcome(
        outcome_id=_text("outcome_id", outcome.outcome_id) or make_id(),
        type=_text("type", outcome.type),
        request_id=_text("request_id", outcome.request_id),
        user_id=_text("user_id", outcome.user_id),
        item_id=outcome.item_id,
        item=_text("item", outcome.item),
        value=outcome.value,
        currency=_text("currency", outcome.currency),
        time=outcome.time or time_ns() // 1000,
    )
    try:
        outcome_message(whole)
    except (TypeError, ValueError) as error:
        raise InvalidArgument("value, item_id or time", str(error)) from None
    return whole


def outcome_message(outcome: Outcome) -> recommender_pb2.Outcome:
    """The value as a message."""
    return recommender_pb2.Outcome(
        outcome_id=outcome.outcome_id,
        request_id=outcome.request_id,
        user_id=outcome.user_id,
        type=outcome.type,
        item_id=outcome.item_id,
        value=outcome.value,
        currency=outcome.currency,
        time=outcome.time,
        item=outcome.item,
    )


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise not_allowed(field, value, "a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise not_allowed(field, value, "a text that UTF-8 has bytes for") from None
    return value


def _number(value: object) -> int:
    """Whole numbers of any library; neither truth values nor texts."""
    if isinstance(value, bool):
        raise TypeError
    number = index(value)  # type: ignore[arg-type]  # raises TypeError
    if not -(2**63) <= number < 2**63:
        raise ValueError
    return number


def _tensor(name: str, value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "dtype") and hasattr(value, "tobytes"):
        return Tensor.of_array(value)
    allowed = "a Tensor, as from Tensor.of(values, datatype, shape), or an array of numpy"
    raise not_allowed(f"inputs[{name!r}]", value, allowed)
