"""Recommend over the Open Inference Protocol: a request as the tensor `history`, an answer out of two tensors."""

import struct
from math import isfinite

from abfleet_protos.inference_pb2 import ModelInferRequest
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_transport.call import Code

from abfleet_router.calls import infer_answer
from abfleet_router.errors import LIMITS
from abfleet_router.fleet.oip_server import HISTORY, ITEM_IDS, SCORES


class NotRecommended(Exception):
    """An answer that recommends nothing. Its code is FAILED_PRECONDITION where the model has other outputs, and
    INTERNAL where their values are bad."""

    def __init__(self, message: str, code: Code = Code.FAILED_PRECONDITION) -> None:
        super().__init__(message)
        self.code = code


def as_infer(payload: bytes, request_id: str, *, named: bool) -> bytes:
    """A serialised ModelInferRequest for a RecommendRequest that has been checked. `named`: whether the server's items
    have names, which decides for an empty history; the other kind is refused by the server itself."""
    request = RecommendRequest.FromString(payload)
    ids, names = request.item_ids, [name.encode() for name in request.items]
    texts = bool(names) or (named and not ids)
    if texts:
        raw = b"".join(infer_answer.LENGTH.pack(len(name)) + name for name in names)
    else:
        raw = struct.pack(f"<{len(ids)}q", *ids)
    message = ModelInferRequest(id=request_id, raw_input_contents=[raw])
    datatype = infer_answer.TEXTS if texts else "INT64"
    message.inputs.add(name=HISTORY, datatype=datatype, shape=[1, len(names) or len(ids)])
    encoded: bytes = message.SerializeToString()
    return encoded


def recommendation(response: bytes, payload: bytes) -> bytes:
    """The RecommendResponse in the answer to `as_infer`, for the request `payload`. Raises WireError, NotRecommended.

    As in a worker, a list ends at an id 0 or a score -inf, and one with a nan, +inf or an id below 0 is refused.
    """
    limit = RecommendRequest.FromString(payload).limit or LIMITS.default_limit
    found = infer_answer.elements_of(response, (ITEM_IDS, SCORES))
    for name, kinds in ((ITEM_IDS, {*infer_answer.WHOLE, infer_answer.TEXTS}), (SCORES, infer_answer.NUMBERS)):
        if name not in found or found[name].datatype not in kinds:
            raise NotRecommended(f"the model's answer has no numbers in an output `{name}`, which Recommend needs")
    named = found[ITEM_IDS].datatype == infer_answer.TEXTS
    pairs = list(zip(found[ITEM_IDS].elements[:limit], found[SCORES].elements[:limit], strict=False))
    count = next((place for place, (item, score) in enumerate(pairs) if not item or score == float("-inf")), limit)
    answer = RecommendResponse()
    for item, score in pairs[:count]:
        good = named or 0 < item <= infer_answer.LARGEST_WHOLE
        if not (good and isfinite(score)):
            raise NotRecommended(
                f"the model's answer has item {item} with score {score}; an id must be above 0, a score finite",
                Code.INTERNAL,
            )
        if named:
            answer.items.append(item)
        else:
            answer.item_ids.append(item)
        answer.scores.append(score)
    encoded: bytes = answer.SerializeToString()
    return encoded
