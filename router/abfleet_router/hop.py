"""The way to one worker: a grpc.aio channel of its own, and what its failures mean. Knows gRPC, nothing of calls."""

import grpc
from abfleet_protos import worker_pb2

from abfleet_router.fallback import Reason
from abfleet_router.lane import HopFailed

SERVICE = worker_pb2.DESCRIPTOR.services_by_name["Worker"].full_name
BATCH_METHOD = f"/{SERVICE}/RecommendBatch"

CHANNEL_OPTIONS = (
    (
        "grpc.use_local_subchannel_pool",
        1,
    ),  # else channels to one address share a connection, and one fault is everyone's
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # the default of 2 minutes keeps a restarted worker idle
    ("grpc.max_receive_message_length", -1),  # batches are bounded by the router itself
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),  # retries are the router's own decision, within its budget
    ("grpc.service_config_disable_resolution", 1),
)

REASONS = {
    grpc.StatusCode.UNAVAILABLE: Reason.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.TIMEOUT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.OVERLOAD,
}


class GrpcHop:
    """Carries batches to one address."""

    def __init__(self, address: str) -> None:
        """`address`: `host:port` or `unix:path`, resolved; nothing is connected before the first use."""
        self.channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
        self._batch = self.channel.unary_unary(BATCH_METHOD, request_serializer=None, response_deserializer=None)

    async def send(self, message: bytes, timeout_seconds: float) -> bytes:
        """Sends a RecommendBatchRequest and returns the bytes of its answer. Raises HopFailed."""
        try:
            answer: bytes = await self._batch(message, timeout=timeout_seconds)
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise HopFailed(
                REASONS.get(code, Reason.MODEL_ERROR),
                f"{code.name}: {error.details()}",
                connection_broke=code is grpc.StatusCode.UNAVAILABLE,
            ) from None
        return answer

    async def close(self) -> None:
        """Closes the connection."""
        await self.channel.close(None)
