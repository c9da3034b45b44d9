"""A typed client of a router, for services: recommendations, the Open Inference Protocol, and outcomes.

Its names are loaded when they are first asked for, so that importing the package alone loads no gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from abfleet_client.access import ClientCredentials, CurrentToken
    from abfleet_client.answers import Inference, Outcome, OutcomeTally, Recommendation
    from abfleet_client.async_recommender import AsyncRecommender
    from abfleet_client.channel import CHANNEL_OPTIONS, SERVICE_CONFIG
    from abfleet_client.errors import CallFailed, ClientError, InvalidArgument, OutcomesLost
    from abfleet_client.recommender import Recommender
    from abfleet_client.sending import SendingPolicy
    from abfleet_client.tensor import Tensor

__all__ = [
    "CHANNEL_OPTIONS",
    "SERVICE_CONFIG",
    "AsyncRecommender",
    "CallFailed",
    "ClientCredentials",
    "ClientError",
    "CurrentToken",
    "Inference",
    "InvalidArgument",
    "Outcome",
    "OutcomeTally",
    "OutcomesLost",
    "Recommendation",
    "Recommender",
    "SendingPolicy",
    "Tensor",
]
_MODULES = {
    "CHANNEL_OPTIONS": "channel",
    "SERVICE_CONFIG": "channel",
    "AsyncRecommender": "async_recommender",
    "CallFailed": "errors",
    "ClientCredentials": "access",
    "ClientError": "errors",
    "CurrentToken": "access",
    "Inference": "answers",
    "InvalidArgument": "errors",
    "Outcome": "answers",
    "OutcomeTally": "answers",
    "OutcomesLost": "errors",
    "Recommendation": "answers",
    "Recommender": "recommender",
    "SendingPolicy": "sending",
    "Tensor": "tensor",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
