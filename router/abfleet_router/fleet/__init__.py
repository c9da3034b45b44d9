"""The workers as the router sees them: pools of replicas, their queues, connections and health."""

__all__ = [
    "batch",
    "batching",
    "connector",
    "failure",
    "fleet",
    "health_watch",
    "http2_client_stream",
    "model_metadata",
    "oip_server",
    "pool",
    "replica",
    "shadow_queue",
    "waiting_calls",
    "worker_link",
]
