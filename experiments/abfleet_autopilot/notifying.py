"""Notifies receivers of each act that is done, in a thread of its own: whatever a receiver does, no act waits for it.

What there is to tell is read from the actions' files, so that a restart forgets nothing. Of several autopilots over one
folder the one that holds the state file notifies; another takes over when that one ends.
"""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import structlog
from abfleet_experiments.config import time_text
from abfleet_log.tools.actions import RecordedAction, action_files, read_actions
from abfleet_process.file_state import FileStates, file_states
from abfleet_process.notify.outbox import InUse, Outbox, out_message
from abfleet_process.notify.receivers import NotifyError, Receiver

from abfleet_autopilot.lines import moment

POLL_SECONDS: Final = 1.0
IN_USE_SECONDS: Final = 10.0
"""Between two tries to take a state file that another autopilot holds."""
TRIES: Final = 3
"""Attempts to deliver before a run ends that is made once; the next run sends what is still pending then."""


def message(act: RecordedAction) -> dict[str, Any]:
    """The JSON document that receivers get; docs/notifications.md describes its keys."""
    return {
        "schema": 1,
        "event": "action",
        "id": act.id,
        "as_of": time_text(moment(act.as_of_us)),
        "experiment": act.experiment,
        "action": act.action,
        "group": act.group,
        "traffic": act.traffic,
        "outcome": act.outcome,
        "before": dict(act.before),
        "after": dict(act.after),
        "reasons": list(act.reasons),
        "figures": dict(act.figures),
        "take_over": " ".join(act.way_back()) or None,
        "by": act.by,
    }


class ActNotifier:
    """What was told, and the thread that tells the rest.

    Attributes:
        pending: Messages that a receiver has not accepted yet. failures: Attempts to deliver that failed.
    """

    def __init__(self, folder: Path, state: Path, receivers: Sequence[Receiver]) -> None:
        self.pending = 0
        self.failures = 0
        self._folder = folder
        self._path = state
        self._receivers = receivers
        self._outbox: Outbox | None = None
        self._seen: FileStates | None = None
        self._problem = ""
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._log = structlog.get_logger("abfleet.autopilot")

    def open(self) -> None:
        """Takes the state file, unless another autopilot has it. What was done before the first time is not told.

        Raises NotifyError for a state file that is none, or that cannot be written.
        """
        try:
            self._outbox = Outbox(self._path, self._receivers).__enter__()
        except InUse:
            return
        if self._outbox.told is None:
            self._outbox.put({act.id: act.outcome for act in self._done()}, [])
        self.pending = self._outbox.pending

    def start(self) -> None:
        """Begins to notify. The thread ends with the process: a receiver that hangs does not hold it up."""
        self._thread = threading.Thread(target=self._run, name="notify", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something was done."""
        self._wake.set()

    def close(self) -> None:
        """Tells no more. What is under way may still be delivered; if that is not kept, it is told again."""
        self._stopping = True
        self._wake.set()
        if self._thread is None:
            self._let_go()

    def deliver(self) -> int:
        """Delivers what there is to tell, with a few attempts; gives what is still pending. Raises NotifyError."""
        if self._outbox is None:
            self.open()
        for _ in range(TRIES):
            self.step(time.monotonic())
            due = None if self._outbox is None else self._outbox.next_due()
            if due is None:
                break
            time.sleep(max(0.0, due - time.monotonic()))
        return self.pending

    def step(self, now: float) -> None:
        """Takes what is new and sends what is due. Raises NotifyError and OSError.

        now: Seconds of a monotonic clock.
        """
        outbox = self._outbox
        if outbox is None:
            return
        seen = file_states(action_files(self._folder))
        if seen != self._seen:
            told = outbox.told or {}
            done = self._done()
            news = [act for act in done if act.id not in told]
            if news:
                outbox.put({act.id: act.outcome for act in done}, [out_message(message(act)) for act in news])
            self._seen = seen
        problems = outbox.send(now)
        self.failures += len(problems)
        self.pending = outbox.pending
        for problem in problems:
            self._log.warning("a notification could not be delivered", problem=problem)

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            wait = POLL_SECONDS
            try:
                if self._outbox is None:
                    self.open()
                    wait = POLL_SECONDS if self._outbox is not None else IN_USE_SECONDS
                self.step(time.monotonic())
                self._problem = ""
            except (NotifyError, OSError) as error:
                self.failures += 1
                wait = IN_USE_SECONDS
                if str(error) != self._problem:
                    self._log.error("acts cannot be notified of now; it is tried again", error=str(error))
                self._problem = str(error)
            self._wake.wait(wait)
            self._wake.clear()
        self._let_go()

    def _let_go(self) -> None:
        if self._outbox is not None:
            self._outbox.__exit__(None, None, None)

    def _done(self) -> list[RecordedAction]:
        return [act for act in read_actions(self._folder) if act.outcome]
