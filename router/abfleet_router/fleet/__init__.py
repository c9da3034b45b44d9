"""The workers as the router sees them: pools of replicas, their queues, connections, health and load."""

__all__ = [
    "batch_message",
    "batch_queue",
    "ejection",
    "failure",
    "fleet",
    "pool",
    "queue_delay",
    "replica",
    "worker_link",
]
