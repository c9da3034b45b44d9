"""Answers that wait until their lines are written: the policy `refuse`.

The line of a call is appended before its answer is sent, and the answer goes out when the line is in the kernel. All
answers that come back during one write wait for the next one together. A call whose line cannot be written gets
UNAVAILABLE: no decision without a line.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from abfleet_transport.call import Code

from abfleet_router.calls.call_records import AnsweredCall, CallRecords


class WaitsForLines(Protocol):
    """The decision log, as far as it is needed here."""

    def append_all(self, lines: Sequence[bytes], written: Callable[[bool], None], /) -> None:
        """Adds lines and calls back on the loop once they are written, or are known not to be."""


class HeldAnswers:
    """Changed only on the event loop; what it holds is in the callbacks that it has given away."""

    def __init__(self, decision_log: WaitsForLines, records: CallRecords) -> None:
        self._log = decision_log
        self._records = records

    def hold(
        self,
        served: Sequence[AnsweredCall],
        replies: Sequence[bytes],
        version: str,
        worker_seconds: float,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        """Logs calls that version `version` answered together, and answers them with `replies` once that is written.

        `answered`: called once they are.
        """

        def written(ok: bool) -> None:
            if ok:
                for (routed, _), reply in zip(served, replies, strict=True):
                    routed.call.reply(reply)
                self._records.count_served(served, version, worker_seconds)
                answered()
                return
            for routed, _ in served:
                routed.call.fail(
                    Code.UNAVAILABLE,
                    "the decision log cannot be written, and unlogged calls are refused; try again later",
                )
                self._records.unlogged(routed)

        self._log.append_all(self._records.lines_of(served, version), written)
