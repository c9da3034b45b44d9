"""From a call to a routed call: read, checked, assigned by the snapshot in force."""

import os
from collections.abc import Callable
from itertools import count

from abfleet_process.tracing import traceparent
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_transport.call import Call

from abfleet_router.calls import infer_request
from abfleet_router.calls.call_trace import CallTrace
from abfleet_router.calls.infer_request import InferHead
from abfleet_router.calls.request import check_attributes, check_user_id, parse, user_id_from_metadata
from abfleet_router.calls.routed_call import InferCall, RoutedCall
from abfleet_router.calls.spans import CallTracer
from abfleet_router.configuration.snapshot import Snapshot
from abfleet_router.errors import InvalidRequest

PLAIN_CHARACTERS = 64
"""So many characters have at most 256 bytes."""


class Admission:
    """Makes routed calls; its only state is the number of the next request that has no id of its own."""

    def __init__(
        self,
        default_deadline_seconds: float,
        tracer: CallTracer | None = None,
        client_of: Callable[[Call], str | None] | None = None,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`tracer`: None where this router makes no spans; `client_of`: None where no caller can say who it is."""
        self.client_of = client_of
        self._default_deadline_seconds = default_deadline_seconds
        self._tracer = tracer
        # Random once for each process and counted from there: as good as a UUID for each call, at a tenth of the cost.
        self._prefix = entropy(8).hex()
        self._numbers = count(1)

    def admit(self, call: Call, snapshot: Snapshot) -> RoutedCall:
        """The call with its arm. Raises InvalidRequest."""
        metadata = dict(call.metadata)  # of a repeated key the last counts
        kind = RoutedCall
        request: RecommendRequest | InferHead
        if call.method:  # ModelInfer
            request = infer_request.read(call.payload, metadata, snapshot)
            kind, snapshot = InferCall, request.snapshot
        else:
            request = parse(call.payload)
        deadline = call.deadline
        routed = kind(call, snapshot, call.arrived + self._default_deadline_seconds if deadline is None else deadline)
        user_id = request.user_id
        if not user_id:
            user_id = user_id_from_metadata(metadata)
        elif len(user_id) > PLAIN_CHARACTERS or not user_id.isprintable():
            check_user_id(user_id)  # else it is short, and printable characters are no control characters
        routed.user_id = user_id
        if "x-synthetic" in metadata:
            routed.synthetic = metadata["x-synthetic"] == "1"
        if "traceparent" in metadata:
            self._join(routed, traceparent.parse(metadata["traceparent"]))
        elif self._tracer is not None:
            self._join(routed, None)
        if self.client_of is not None:
            routed.client = self.client_of(call)
        if request.attributes:
            routed.attributes = check_attributes(request.attributes)
        ids, names = request.item_ids, request.items
        if names and ids:
            raise InvalidRequest(
                "items", names[0], "names in items, or numbers in item_ids, but not both in one request"
            )
        routed.history_length = len(ids or names)
        routed.request_id = request.request_id or f"{self._prefix}-{next(self._numbers):x}"
        routed.arm, routed.bucket = snapshot.assigner.assign(user_id, routed.attributes)
        call.owner = routed
        return routed

    def _join(self, routed: RoutedCall, parent: traceparent.TraceContext | None) -> None:
        """The call becomes part of its caller's trace, or of one of its own; the trace's id goes into the log."""
        if self._tracer is not None:
            routed.trace = self._tracer.begin(parent)
        elif parent is not None:
            routed.trace = CallTrace(parent)
        if routed.trace is not None:
            routed.trace_id = routed.trace.context.trace_id
