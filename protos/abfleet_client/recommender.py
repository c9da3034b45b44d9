"""The client for threads. Knows how a call is made; what goes into it and comes out is in messages.py."""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from time import sleep
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from abfleet_protos import inference_pb2, recommender_pb2

from abfleet_client import messages
from abfleet_client.access import ClientCredentials, CurrentToken
from abfleet_client.answers import Inference, Outcome, OutcomeTally, Recommendation
from abfleet_client.attempts import CallAttempts
from abfleet_client.channel import open_channel
from abfleet_client.errors import OutcomesLost
from abfleet_client.sending import OutcomeListener, OutcomeSender, SendingPolicy

Answer = TypeVar("Answer")
TIMEOUT_SECONDS = 5.0
RECOMMEND, INFER = "/Recommender/Recommend", "/inference.GRPCInferenceService/ModelInfer"
NO_CREDENTIALS, DEFAULT_SENDING = ClientCredentials(), SendingPolicy()


class Recommender:
    """A router as a service calls it: one for a process, from any thread. Close it, or use it in `with`."""

    def __init__(
        self,
        address: str,
        *,
        timeout: float = TIMEOUT_SECONDS,
        credentials: ClientCredentials = NO_CREDENTIALS,
        synthetic: bool = False,
        sending: SendingPolicy = DEFAULT_SENDING,
        on_rejected: Callable[[Outcome, str], None] | None = None,
        on_lost: Callable[[Sequence[Outcome], str], None] | None = None,
    ) -> None:
        """Connects with the first call.

        Args:
            address: HOST:PORT of a router, or another target of gRPC.
            timeout: Seconds until a call that names no other fails; it is sent again within them.
            synthetic: Marks calls and outcomes, so that analysis leaves them out.
            on_rejected, on_lost: Called with outcomes that are not in the log and why, on the thread that sends them.
        """
        self._address = address
        self._timeout = timeout
        self._credentials = credentials
        self._synthetic = synthetic
        self._opening = threading.Lock()
        self._opened: tuple[grpc.Channel, CurrentToken, Any, Any] | None = None
        self._outcomes = OutcomeSender(
            lambda: self._open()[0],
            lambda: self._metadata(),
            sending,
            OutcomeListener(on_rejected=on_rejected, on_lost=on_lost),
        )

    def __enter__(self) -> Self:
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except OutcomesLost:
            if error is None:
                raise

    def recommend(
        self,
        *,
        user_id: str = "",
        items: Sequence[int] | Sequence[str] = (),
        limit: int = 10,
        attributes: Mapping[str, str] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
        traceparent: str = "",
    ) -> Recommendation:
        """Asks for items for one user.

        Args:
            user_id: Decides the group; without one the default version serves, and no experiment counts the call.
            items: What the user has seen, oldest first: numbers, or names where the version's items have names.
            limit: How many items to return, 1 to 100.
            attributes: What audiences may ask for.
            request_id: Of this call, the same whenever it is sent again; by default a new one.
            timeout: Seconds, instead of the client's own.
            traceparent: W3C trace context of the caller's span.

        Raises InvalidArgument, CallFailed.
        """
        request_id = request_id or messages.make_id()
        message = messages.recommend_request(user_id, items, limit, attributes or {}, request_id)
        metadata = self._metadata(traceparent=traceparent)
        return messages.recommendation(self._call(self._open()[2], message, metadata, request_id, timeout))

    def infer(
        self,
        inputs: messages.Inputs,
        *,
        user_id: str = "",
        outputs: Sequence[str] = (),
        attributes: Mapping[str, str] | None = None,
        model: str = "recommender",
        version: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
        traceparent: str = "",
    ) -> Inference:
        """Runs the model over the Open Inference Protocol.

        Args:
            inputs: Name to Tensor or numpy array.
            outputs: Those to answer with; none: all.
            model: The name that the experiments file has for it.
            version: Which one; empty: the one that the user is assigned to.

        The others are as for `recommend`. Raises InvalidArgument, CallFailed.
        """
        request_id = request_id or messages.make_id()
        message = messages.infer_request(inputs, outputs, model, version, attributes or {}, request_id)
        metadata = self._metadata(user_id=user_id, traceparent=traceparent)
        return messages.inference(self._call(self._open()[3], message, metadata, request_id, timeout))

    def record(
        self,
        type: str,
        *,
        user_id: str = "",
        request_id: str = "",
        item: int | str | None = None,
        value: float = 0.0,
        currency: str = "",
        time: datetime | None = None,
        outcome_id: str = "",
    ) -> str:
        """Takes what a user did, to send it soon; gives its outcome id.

        It is sent in the background, and again under the same id until it is in the log.

        Args:
            type: `impression`, `click`, `conversion`, `purchase`, or another type that a metric reads.
            request_id: Of the answer that it follows; without one it joins the user's by time.
            item: By its number or its name, as the answer has it.
            value, currency: An amount; a currency is an ISO 4217 code.
            time: When it happened; by default now.
            outcome_id: One of your own, so that it counts once however often it is recorded; by default a new one.

        Raises InvalidArgument; OutcomesLost when the buffer is full for the client's timeout.
        """
        outcome = messages.make_outcome(
            type,
            user_id=user_id,
            request_id=request_id,
            item=item,
            value=value,
            currency=currency,
            time=time,
            outcome_id=outcome_id,
        )
        return self.record_outcome(outcome)

    def record_outcome(self, outcome: Outcome) -> str:
        """The same for one that is a value already."""
        self._open()
        whole = messages.complete(outcome)
        self._outcomes.put(whole, self._timeout)
        return whole.outcome_id

    @property
    def outcomes(self) -> OutcomeTally:
        """What has become of the outcomes so far."""
        return self._outcomes.tally

    def flush(self, timeout: float | None = None) -> None:
        """Returns when all outcomes so far are in the log, or rejected. Raises OutcomesLost, TimeoutError."""
        self._outcomes.flush(timeout)

    def close(self, timeout: float | None = None) -> None:
        """Sends the outcomes that wait, for `timeout` seconds or as long as the policy has it. Raises OutcomesLost."""
        try:
            self._outcomes.close(timeout)
        finally:
            with self._opening:
                if self._opened is not None:
                    self._opened[0].close()

    def _open(self) -> tuple[grpc.Channel, CurrentToken, Any, Any]:
        """The channel, the token to show, and the two methods."""
        with self._opening:
            if self._opened is None:
                token = CurrentToken(self._credentials)
                channel = open_channel(self._address, self._credentials)
                self._opened = (channel, token, *methods_of(channel))
            return self._opened

    def _metadata(self, **more: str) -> messages.Metadata:
        return messages.call_metadata(token=self._open()[1].get(), synthetic=self._synthetic, **more)

    def _call(
        self, method: Any, message: Any, metadata: messages.Metadata, request_id: str, timeout: float | None
    ) -> Any:
        attempts = CallAttempts(self._timeout if timeout is None else timeout)
        while True:
            try:
                return method(
                    message,
                    timeout=attempts.left_seconds(),
                    metadata=metadata,
                    wait_for_ready=attempts.waits_for_connection,
                )
            except grpc.RpcError as error:
                wait = attempts.wait_seconds(error, request_id, self._address)
            sleep(wait)


def methods_of(channel: Any) -> tuple[Any, Any]:
    """Recommend and ModelInfer on a channel, of threads or of an event loop."""
    return (
        channel.unary_unary(
            RECOMMEND,
            request_serializer=recommender_pb2.RecommendRequest.SerializeToString,
            response_deserializer=recommender_pb2.RecommendResponse.FromString,
        ),
        channel.unary_unary(
            INFER,
            request_serializer=inference_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=inference_pb2.ModelInferResponse.FromString,
        ),
    )
