"""One module for each family of commands; each has `register(app)`, and imports what is heavy inside its functions."""

__all__ = [
    "analyze",
    "client",
    "experiments",
    "fitting",
    "fleet",
    "log_level",
    "logs",
    "models",
    "power",
    "shadow",
    "simulate",
    "simulate_autopilot",
    "status",
    "tokens",
    "traffic",
]
