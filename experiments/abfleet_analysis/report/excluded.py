"""What excluded windows leave out of an experiment, and what would be concluded with it. Values and sentences."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from abfleet_experiments.config import time_text
from abfleet_process.counting import counted

from abfleet_analysis.decision.verdicts import Decision, Verdict
from abfleet_analysis.evidence.exclusion import WindowCalls
from abfleet_analysis.evidence.gather_evidence import GatheredEvidence

WARNING = (
    "a window that was chosen after a look voids the error rates of the verdict; the history keeps the earlier "
    "verdicts, above all a roll back"
)


@dataclass(frozen=True, slots=True)
class Excluded:
    """The windows of an experiment.

    Attributes:
        windows: In order of time. users: Who have no call outside of them.
        decision: The one that everything leads to; None where every window is before or after all calls.
    """

    windows: tuple[WindowCalls, ...]
    users: int = 0
    decision: Decision | None = None

    @property
    def calls(self) -> int:
        """How many are left out."""
        return sum(sum(window.calls.values()) for window in self.windows)


def excluded_sentences(excluded: Excluded, decision: Decision, gathered: GatheredEvidence) -> Iterator[str]:
    """What is left out, why, and what the verdict is with it; without a full stop."""
    first = gathered.allocations[0].begin if gathered.allocations else None
    for window in excluded.windows:
        yield _left_out(window, first, gathered.looks.times[-1])
    if excluded.decision is None:
        return
    if excluded.users:
        yield f"only in excluded windows: all calls of {counted(excluded.users, 'user')}"
    whole = excluded.decision
    same = (whole.verdict, whole.group, whole.version) == (decision.verdict, decision.group, decision.version)
    said = _said(whole.verdict, whole.group or whole.version)
    yield (
        f"with the excluded calls the verdict would be the same: {said}"
        if same
        else f"with the excluded calls the verdict would be: {said}"
        + "".join(f"; {reason}" for reason in whole.reasons[:1])
    )
    yield from _e_values(whole, decision)
    yield from _rolled_back(whole, decision, gathered)
    yield WARNING


def _left_out(window: WindowCalls, first: datetime | None, as_of: datetime) -> str:
    span = window.window
    calls, users = sum(window.calls.values()), sum(window.users.values())
    text = f"excluded {time_text(span.begin)} to {time_text(span.end)} ({span.why}): "
    if calls:
        groups = ", ".join(f"{name} {n:,} of {counted(window.users[name], 'user')}" for name, n in window.calls.items())
        return text + f"{counted(calls, 'call')} of {counted(users, 'user')}; by group: {groups}"
    if span.begin > as_of:
        return text + "nothing yet, because the window begins after the time of this report"
    if first is not None and span.end <= first:
        return text + f"nothing, because the window ended before the first call at {time_text(first)}"
    return text + "nothing, because no call in it counts"


def _e_values(whole: Decision, decision: Decision) -> Iterator[str]:
    """Guardrails' E with and without, where they differ."""
    now = {(group.group, one.rule.name): one.e_value for group in decision.groups for one in group.metrics}
    for group in whole.groups:
        for one in group.metrics:
            kept = now.get((group.group, one.rule.name), np.nan)
            if np.isfinite([kept, one.e_value]).all() and abs(np.log(max(kept, 1e-9) / max(one.e_value, 1e-9))) > 0.1:
                name = f"{one.rule.name} of {group.group}"
                yield f"{name}: E = {kept:.2g} without the excluded calls, {one.e_value:.2g} with them"


def _rolled_back(whole: Decision, decision: Decision, gathered: GatheredEvidence) -> Iterator[str]:
    """The first look of each group at which everything known then led to a roll back that now is not said."""
    said: set[str | None] = set()
    for look, (verdict, group) in enumerate(whole.history):
        now = decision.history[look] if look < len(decision.history) else None
        if verdict is Verdict.ROLL_BACK and group not in said and now != (verdict, group):
            said.add(group)
            at = time_text(gathered.looks.times[look]) if look < len(gathered.looks.times) else "then"
            yield f"at look {look + 1}, {at}, the verdict with the excluded calls was: {_said(verdict, group)}"


def _said(verdict: Verdict, group: str | None) -> str:
    whom = (Verdict.ROLL_BACK, Verdict.CHECK_FIRST, Verdict.SHIP, Verdict.PREFER)
    about = group if verdict in whom else None
    return " ".join([str(verdict).replace("_", " "), *([about] if about else [])])
