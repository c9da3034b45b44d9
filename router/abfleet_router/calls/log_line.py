"""Turns what happened into lines of the decision log. Knows the fields and their order, no file and no network.

What all calls of an arm that went the same way share is encoded once, as a form, and only what differs is encoded for a
call and filled in. The schema itself is abfleet_log.schema; a test holds each line against it.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache

import orjson
from abfleet_experiments.bucketing import BUCKETS
from abfleet_log.lines import utc_second
from abfleet_log.schema import SCHEMA
from abfleet_protos.recommender_pb2 import RecommendResponse
from abfleet_transport.call import Code

from abfleet_router.calls.infer_answer import DraftedItems, LoggedItems, LoggedTensors, NamedItems
from abfleet_router.calls.routed_call import RoutedCall
from abfleet_router.fleet.batch import INFER, Hop
from abfleet_router.fleet.failure import FailureReason

OK_TAIL = b',"synthetic":false,"trace_id":null,"client":null}'
NO_ITEMS, NO_ATTRIBUTES = b"[]", b"{}"
AS_ANSWERED = type(RecommendResponse().item_ids)
"""Of the items of most answers."""
BUCKET_TEXTS = tuple(b"%d" % bucket for bucket in range(BUCKETS))

RECOMMEND_ENDING = b',"latency_ms":%.3f,"items":%b,"history_length":%d,"attributes":%b%b'
INFER_ENDING = b',"method":"infer","latency_ms":%.3f,"items":%b,"history_length":null%b,"attributes":%b%b'

EndedCall = tuple[RoutedCall, LoggedItems, str | None, Code, FailureReason | None, float]
"""A call, what is logged of its answer, the version that served (None or "": none did by itself), the status, why the
version that was assigned, and asked last, did not answer (None where a fallback says it by itself), and when the call
ended, on the clock of `Call.arrived`."""


def exposures(
    ended: Iterable[EndedCall], wall_offset: float, hashed: Callable[[str], str] | None = None
) -> list[bytes]:
    """A line for each call; `wall_offset`: seconds from the clock of `Call.arrived` to the epoch.

    With `hashed` a user's id is left out and its hash is there instead. Many at once, because a function call for each
    costs a tenth of a line.
    """
    lines = []
    dumps, second, second_text = orjson.dumps, -1, b""
    way = None
    form = b""
    for routed, answer, served, status, failure, now in ended:
        arrived = routed.call.arrived
        wall_seconds = arrived + wall_offset
        if (whole := int(wall_seconds)) != second:
            second, second_text = whole, utc_second(whole)
        constant = routed.snapshot.routes[routed.arm.index].log_constant
        hop = routed.hop
        if (this_way := (constant, served, routed.fallback, routed.attempts, status, failure, hop)) != way:
            way, form = this_way, _form(*this_way)
        history: int | bytes
        if hop is INFER:
            items, history = tensors(answer)
        elif answer.__class__ is AS_ANSWERED:
            # A slice is a list like any other, and takes a protobuf field a third of the time of `list`.
            items, history = dumps(answer[:]) if answer else NO_ITEMS, routed.history_length
        else:
            items, history = listed(answer), routed.history_length
        user_id, bucket = routed.user_id, routed.bucket
        lines.append(
            form
            % (
                second_text,
                (wall_seconds - whole) * 1e6,
                dumps(routed.request_id),
                dumps(user_id or None) if hashed is None else hashed_user(user_id, hashed),
                b"null" if bucket is None else BUCKET_TEXTS[bucket],
                (now - arrived) * 1000,
                items,
                history,
                dumps(logged(routed)) if routed.attributes else NO_ATTRIBUTES,
                marks(routed) if routed.synthetic or routed.trace_id or routed.client else OK_TAIL,
            )
        )
    return lines


@lru_cache(maxsize=4096)
def _form(
    constant: bytes,
    served: str | None,
    fallback: FailureReason | None,
    attempts: int,
    status: Code,
    failure: FailureReason | None,
    hop: Hop,
) -> bytes:
    """The line of all calls that went the same way; what differs is to be filled in by `%`.

    Where the assigned version has answered there is no member `failure`, so that most lines are no longer for it.
    """
    own = fallback or failure
    members = (
        constant,
        b'"served_version":' + (orjson.dumps(served) if served else b"null"),
        b'"fallback":' + (b"null" if fallback is None else b'"%s"' % fallback.value.encode()),
        b'"attempts":%d' % attempts,
        b'"status":"%s"' % status.name.encode(),
        *([] if own is None else [b'"failure":"%s"' % own.value.encode()]),
    )
    return b"".join(
        (
            b'{"schema":%d,"event":"exposure","ts":"' % SCHEMA,
            b'%b.%06dZ","request_id":%b,"user_id":%b,"bucket":%b,',
            b",".join(members).replace(b"%", b"%%"),
            INFER_ENDING if hop is INFER else RECOMMEND_ENDING,
        )
    )


def listed(answer: LoggedItems) -> bytes:
    """The value of `items` of a list that was made here, is of names, or has no item; and what comes after it."""
    if isinstance(answer, DraftedItems):
        return listed(answer.items) + drafted(answer.teams)
    if isinstance(answer, NamedItems):
        return b"null" + named(answer)
    return orjson.dumps(answer)


def named(items: LoggedItems) -> bytes:
    """The member `item_names`, which comes after `items`."""
    return b',"item_names":%b' % orjson.dumps(tuple(items))


def drafted(teams: str) -> bytes:
    """The member `teams`, which comes after the items."""
    return b',"teams":"%b"' % teams.encode()


def tensors(answer: LoggedItems) -> tuple[bytes, bytes]:
    """The value of `items` with `item_names` where these are names and `teams` where there are two, and the member
    `outputs` where there are any."""
    if not isinstance(answer, LoggedTensors):
        return b"null", b""
    if isinstance(answer.items, NamedItems):
        items = b"null" + named(answer.items)
    else:
        items = b"null" if answer.items is None else orjson.dumps(answer.items)
    if answer.teams is not None:
        items += drafted(answer.teams)
    return items, b',"outputs":%b' % orjson.dumps(answer.outputs) if answer.outputs else b""


def marks(routed: RoutedCall) -> bytes:
    """The last members, where they say anything."""
    return b',"synthetic":%s,"trace_id":%s,"client":%s}' % (
        b"true" if routed.synthetic else b"false",
        orjson.dumps(routed.trace_id),
        orjson.dumps(routed.client),
    )


def hashed_user(user_id: str, hashed: Callable[[str], str]) -> bytes:
    """The value of `user_id` and, where there is a user, the member after it."""
    return b'null,"user_id_hmac":"%s"' % hashed(user_id).encode() if user_id else b"null"


def logged(routed: RoutedCall) -> dict[str, str]:
    """The attributes that the file allows to be logged."""
    allowed = routed.snapshot.log_attributes
    return {key: value for key, value in routed.attributes.items() if key in allowed}
