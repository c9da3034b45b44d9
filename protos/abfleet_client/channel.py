"""Channels to a router: how they connect, connect again and retry. Knows no message."""

import json

import grpc

from abfleet_client.access import ClientCredentials
from abfleet_client.errors import not_allowed

SERVICE_CONFIG = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "Recommender"}, {"service": "inference.GRPCInferenceService"}],
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
"""gRPC service config (https://grpc.io/docs/guides/service-config/): UNAVAILABLE alone is sent again."""
CHANNEL_OPTIONS: tuple[tuple[str, str | int], ...] = (
    ("grpc.service_config", SERVICE_CONFIG),
    ("grpc.enable_retries", 1),
    # After a router has gone, its port is tried again within so many milliseconds; gRPC's own are 1 s to 2 minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Answers of ModelInfer; the router has a limit for what comes in.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
)


def open_channel(address: str, credentials: ClientCredentials) -> grpc.Channel:
    """For threads; connects with the first call. Raises InvalidArgument."""
    shown = credentials.channel_credentials()
    if shown is None:
        return grpc.insecure_channel(_target(address), options=_options(credentials))
    return grpc.secure_channel(_target(address), shown, options=_options(credentials))


def open_async_channel(address: str, credentials: ClientCredentials) -> grpc.aio.Channel:
    """For the event loop that runs; connects with the first call. Raises InvalidArgument."""
    shown = credentials.channel_credentials()
    if shown is None:
        return grpc.aio.insecure_channel(_target(address), options=_options(credentials))
    return grpc.aio.secure_channel(_target(address), shown, options=_options(credentials))


def _options(credentials: ClientCredentials) -> list[tuple[str, str | int]]:
    name = credentials.server_name
    return [*CHANNEL_OPTIONS, *([("grpc.ssl_target_name_override", name)] if name else [])]


def _target(address: str) -> str:
    if not isinstance(address, str) or not address:
        raise not_allowed("address", address, "HOST:PORT of a router, or another target of gRPC")
    return address
