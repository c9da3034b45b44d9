"""Writing the decision log: one thread takes lines from the event loop to files, pipes or standard output."""

__all__ = [
    "decision_log",
    "log_settings",
    "sinks",
]
