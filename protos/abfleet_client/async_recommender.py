"""The client for an event loop: the same calls as coroutines. A thread sends its outcomes, as those of Recommender."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self

import grpc

from abfleet_client import messages
from abfleet_client.access import ClientCredentials, CurrentToken
from abfleet_client.answers import Inference, Outcome, OutcomeTally, Recommendation
from abfleet_client.attempts import CallAttempts
from abfleet_client.channel import open_async_channel, open_channel
from abfleet_client.errors import OutcomesLost
from abfleet_client.recommender import DEFAULT_SENDING, NO_CREDENTIALS, TIMEOUT_SECONDS, methods_of
from abfleet_client.sending import OutcomeListener, OutcomeSender, SendingPolicy


class AsyncRecommender:
    """A router as a service calls it: one for an event loop. Use it in `async with`. Changed only on the loop."""

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
        """As Recommender; `on_rejected` and `on_lost` are called on the loop."""
        self._address = address
        self._timeout = timeout
        self._credentials = credentials
        self._synthetic = synthetic
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: grpc.aio.Channel | None = None
        self._outcome_channel: grpc.Channel | None = None
        self._token: CurrentToken | None = None
        self._methods: tuple[Any, Any] = (None, None)
        self._outcomes = OutcomeSender(
            self._open_outcome_channel,
            self._metadata,
            sending,
            OutcomeListener(
                on_rejected=None if on_rejected is None else partial(self._on_loop, on_rejected),
                on_lost=None if on_lost is None else partial(self._on_loop, on_lost),
            ),
        )

    async def __aenter__(self) -> Self:
        self._token = CurrentToken(self._credentials)
        self._channel = open_async_channel(self._address, self._credentials)
        self._loop = asyncio.get_running_loop()
        self._methods = methods_of(self._channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except OutcomesLost:
            if error is None:
                raise

    async def recommend(
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
        """As Recommender.recommend."""
        request_id = request_id or messages.make_id()
        message = messages.recommend_request(user_id, items, limit, attributes or {}, request_id)
        metadata = self._metadata(traceparent=traceparent)
        return messages.recommendation(await self._call(0, message, metadata, request_id, timeout))

    async def infer(
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
        """As Recommender.infer."""
        request_id = request_id or messages.make_id()
        message = messages.infer_request(inputs, outputs, model, version, attributes or {}, request_id)
        metadata = self._metadata(user_id=user_id, traceparent=traceparent)
        return messages.inference(await self._call(1, message, metadata, request_id, timeout))

    async def record(
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
        """As Recommender.record. Waits only while the buffer is full."""
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
        return await self.record_outcome(outcome)

    async def record_outcome(self, outcome: Outcome) -> str:
        """As Recommender.record_outcome."""
        self._opened()
        whole = messages.complete(outcome)
        if not self._outcomes.offer(whole):
            await asyncio.to_thread(self._outcomes.put, whole, self._timeout)
        return whole.outcome_id

    @property
    def outcomes(self) -> OutcomeTally:
        """What has become of the outcomes so far."""
        return self._outcomes.tally

    async def flush(self, timeout: float | None = None) -> None:
        """As Recommender.flush."""
        await asyncio.to_thread(self._outcomes.flush, timeout)

    async def close(self, timeout: float | None = None) -> None:
        """As Recommender.close."""
        try:
            await asyncio.to_thread(self._outcomes.close, timeout)
        finally:
            if self._outcome_channel is not None:
                self._outcome_channel.close()
            if self._channel is not None:
                await self._channel.close(None)

    def _opened(self) -> CurrentToken:
        if self._token is None:
            raise RuntimeError("an AsyncRecommender is used in `async with`")
        return self._token

    def _open_outcome_channel(self) -> grpc.Channel:
        self._outcome_channel = open_channel(self._address, self._credentials)
        return self._outcome_channel

    def _on_loop(self, listener: Callable[..., None], *what: object) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(listener, *what)

    def _metadata(self, **more: str) -> messages.Metadata:
        return messages.call_metadata(token=self._opened().get(), synthetic=self._synthetic, **more)

    async def _call(
        self, method: int, message: Any, metadata: messages.Metadata, request_id: str, timeout: float | None
    ) -> Any:
        attempts = CallAttempts(self._timeout if timeout is None else timeout)
        while True:
            try:
                return await self._methods[method](
                    message,
                    timeout=attempts.left_seconds(),
                    metadata=metadata,
                    wait_for_ready=attempts.waits_for_connection,
                )
            except grpc.aio.AioRpcError as error:
                wait = attempts.wait_seconds(error, request_id, self._address)
            await asyncio.sleep(wait)
