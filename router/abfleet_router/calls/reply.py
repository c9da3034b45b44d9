"""What a router appends to the answer of a version: messages merge by concatenation, so nothing of it is read."""

from abfleet_router.calls.routed_call import RoutedCall
from abfleet_router.configuration.snapshot import INFER_ID_HEADS, REQUEST_ID_HEADS, infer_suffix, reply_suffix

Ending = tuple[bytes, bytes, bytes]


def recommend_ending(routed: RoutedCall, version: str, *, as_assigned: bool) -> Ending:
    """Of a RecommendResponse; `version` has served."""
    request_id = routed.request_id.encode()
    route = routed.snapshot.routes[routed.arm.index]
    suffix = route.suffix if as_assigned else reply_suffix(routed.arm, version)
    return REQUEST_ID_HEADS[len(request_id)], request_id, suffix


def infer_ending(routed: RoutedCall, version: str, *, as_assigned: bool) -> Ending:
    """Of a ModelInferResponse; `version` has served."""
    request_id = routed.request_id.encode()
    if as_assigned:
        suffix = routed.snapshot.routes[routed.arm.index].infer_suffix
    else:
        suffix = infer_suffix(routed.snapshot.config.name, routed.arm, version)
    return INFER_ID_HEADS[len(request_id)], request_id, suffix
