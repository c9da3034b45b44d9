"""How calls come in and answers go out: the Call port, its two transports, health, reflection and RPC metrics.

Router and worker are both gRPC servers; this room holds what they share as such, and knows nothing of routing,
experiments or models.
"""

__all__ = [
    "call",
    "client",
    "end_of_turn",
    "grpcio",
    "health",
    "histogram",
    "http2",
    "keepalive",
    "machine",
    "oip",
    "plan",
    "reflection",
    "rpc_metrics",
    "server",
    "transports",
]
