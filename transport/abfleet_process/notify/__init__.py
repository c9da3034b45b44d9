"""Messages to people and programs: who receives them, and getting each of them delivered."""

__all__ = [
    "outbox",
    "receivers",
]
