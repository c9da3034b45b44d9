"""What the trail knows: where a rollback leads, whatever has happened before it."""

from typing import Any

from abfleet_models.trail import ReleaseEvent, before
from hypothesis import given, settings
from hypothesis import strategies as st

VERSIONS = st.sampled_from(["v1", "v2", "v3", "v4"])
steps = st.lists(st.one_of(st.none(), VERSIONS), max_size=30)
"""A version: a promotion to it. None: a rollback."""


def event(what: str, version: str, was: str, alias: str = "production") -> dict[str, Any]:
    return ReleaseEvent(
        at="2026-11-23T12:00:00Z", event=what, version=version, sha256="", alias=alias, was=was
    ).to_dict()


@settings(deadline=None)
@given(steps=steps, noise=st.booleans())
def test_rollbacks_undo_promotions_one_by_one(steps: list[str | None], noise: bool) -> None:
    """After any promotions and rollbacks, a rollback leads to what a stack of the promotions says, and nothing else in
    the log changes that: other aliases, and versions that were added."""
    current, stack, log = "v1", list[str](), list[dict[str, Any]]()
    for step in steps:
        if noise:
            log += [event("promoted", "v4", current, "staging"), {"event": "added", "version": "v9"}]
        if step is not None and step != current:
            log.append(event("promoted", step, current))
            stack.append(current)
            current = step
        elif step is None:
            target = before(log, "production", current)
            assert target == (stack[-1] if stack else None)
            if target is not None:
                log.append(event("rolled_back", target, current))
                current = stack.pop()


def test_a_link_moved_by_hand_goes_back_to_where_the_trail_has_it() -> None:
    """`ln -sfn` leaves no line: a rollback undoes that first, and is then on the trail again."""
    log = [event("promoted", "v2", "v1")]
    assert before(log, "production", "v3") == "v2"
    assert before([*log, event("rolled_back", "v2", "v3")], "production", "v2") is None
    assert before([], "production", "v3") is None
