"""Whether a treatment answers nothing while control does, call by call. No statistics: a rule, and its figures."""

from dataclasses import dataclass, field
from typing import Final

from abfleet_analysis.decision.evidence import ABSENT_CALLS
from abfleet_analysis.decision.excluded_time import ExcludedTime
from abfleet_statistics.outages import GAP_US


@dataclass(slots=True)
class Silence:
    """The calls of a group since its last answer. Changed only by AnswerWatch.

    Attributes:
        since: Its last answer, or where that counts no more, the first call after it; None before there is any.
        calls: Those that it has not answered since then.
    """

    since: int | None = None
    calls: int = 0


@dataclass(slots=True)
class AnswerWatch:
    """Who answers. Changed only by `answered` and `failed`.

    A treatment is absent once it has answered none of 30 calls for a given time, while control answers now and has
    been answering all that time: when both were out, and control is back first, a treatment's time begins anew.
    """

    exclude: ExcludedTime
    absent_us: int
    _silences: dict[int, Silence] = field(default_factory=dict)
    _control_at: int | None = None
    _control_fails: bool = False

    def answered(self, group: int, at: int) -> None:
        """A group's own version has answered; control is 0."""
        if group:
            silence = self._silences.get(group)
            if silence is None:
                silence = self._silences[group] = Silence()
            silence.since, silence.calls = at, 0
            return
        if self._control_fails and self._control_at is not None and at - self._control_at > GAP_US:
            for silence in self._silences.values():
                silence.since, silence.calls = None, 0
        self._control_at, self._control_fails = at, False

    def failed(self, group: int, at: int) -> bool:
        """A group's version has not answered; whether it is absent by that."""
        if not group:
            self._control_fails = True
            return False
        silence = self._silences.setdefault(group, Silence())
        if silence.since is None:
            silence.since = at
        silence.calls += 1
        return self._is_absent(silence, at)

    def begin(self, group: int) -> None:
        """A treatment begins anew."""
        self._silences.pop(group, None)

    def silence(self, group: int) -> Silence:
        """The calls of a treatment since its last answer."""
        return self._silences.get(group, _NONE)

    def _is_absent(self, silence: Silence, at: int) -> bool:
        since, control = silence.since, self._control_at
        if not self.absent_us or since is None or control is None or silence.calls < ABSENT_CALLS:
            return False
        answers = control > since and (not self._control_fails or at - control <= GAP_US)
        return answers and int(self.exclude.between(since, at)) >= self.absent_us  # type: ignore[arg-type]


_NONE: Final = Silence()
