"""Our router without the decision log of calls: no line is encoded, gathered or written. For `log_share` alone.

    python -m tests.benchmarks.unlogged_router FLAGS

Takes the flags of `abfleet_router`. The rest is the router that ships: its methods are replaced before it starts.
"""

import sys
from collections.abc import Sequence

from abfleet_log.writer.decision_log import DecisionLog
from abfleet_router.app import main
from abfleet_router.calls.call_records import AnsweredCall, CallRecords


def _no_lines(self: CallRecords, calls: Sequence[AnsweredCall], served: str) -> list[bytes]:
    return []


def _take_no_line(self: DecisionLog, line: object) -> None:
    return None


if __name__ == "__main__":
    CallRecords.lines_of = _no_lines  # type: ignore[method-assign]
    DecisionLog.append = _take_no_line  # type: ignore[method-assign]
    DecisionLog.extend = _take_no_line  # type: ignore[method-assign]
    sys.exit(main())
