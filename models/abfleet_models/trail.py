"""What a release does, as registry.json keeps it: events, and what can be read from them. Pure: opens no file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

PROMOTED, ROLLED_BACK, ARCHIVED, RESTORED, ADDED = "promoted", "rolled_back", "archived", "restored", "added"
LINK_EVENTS = frozenset({PROMOTED, ROLLED_BACK})
EVENTS = frozenset({*LINK_EVENTS, ARCHIVED, RESTORED, ADDED})
MAX_REASON = 500
"""Characters; the trail is read by people and is in the way of every reader of registry.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseEvent:
    """One event of the trail: what was done to which version or alias, when, by whom and why."""

    at: str
    """UTC, whole seconds, as in 2026-11-23T12:00:00Z."""
    event: str
    version: str
    sha256: str
    alias: str | None = None
    """Of a promotion or a rollback: what was moved."""
    was: str | None = None
    """The version that the alias led to before; None where there was no such alias."""
    by: str | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As registry.json has it: members that are None are left out."""
        members = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in members.items() if value is not None}

    @classmethod
    def from_dict(cls, members: Mapping[str, Any]) -> "ReleaseEvent":
        """The inverse of `to_dict`; raises TypeError for members that are missing or that it does not know."""
        return cls(**members)


def stamp(now: datetime) -> str:
    """An instant as the trail writes it: UTC, whole seconds."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def before(log: Sequence[Mapping[str, Any]], alias: str, current: str) -> str | None:
    """The version that a rollback points `alias` to, None where the trail knows none.

    Promotions are a stack: each rollback takes one off, so that a second rollback goes back further. Where somebody has
    moved the link by hand since the last event, it is the version that the trail says it should lead to.
    """
    stack: list[str | None] = []
    led_to: str | None = None
    for event in log:
        if event.get("alias") != alias or event.get("event") not in LINK_EVENTS:
            continue
        if event["event"] == PROMOTED:
            stack.append(event.get("was"))
        elif stack:
            stack.pop()
        led_to = event.get("version")
    if led_to is not None and led_to != current:
        return led_to
    return stack[-1] if stack else None
