"""The inbox: everything that waits is taken together, what was withdrawn is not answered."""

import threading
from collections.abc import Sequence

from abfleet_transport.call import Call
from abfleet_worker.inbox import Inbox

from tests.worker.calls import FakeCall, batched

PATIENCE_SECONDS = 30


class Slow:
    """Answers calls, but holds the first group until it is let go."""

    def __init__(self) -> None:
        self.groups: list[list[Call]] = []
        self.left: list[Call] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def answer(self, calls: Sequence[Call]) -> None:
        self.groups.append(list(calls))
        self.begun.set()
        assert self.go_on.wait(PATIENCE_SECONDS)

    def gone(self, call: Call) -> None:
        self.left.append(call)


def test_what_gathers_during_an_inference_is_taken_at_once() -> None:
    """Calls that arrive while a group is answered are one group afterwards, without those that were withdrawn; a call
    that is being answered cannot be withdrawn any more."""
    slow = Slow()
    inbox = Inbox(slow)
    inbox.start()
    first, second, third, fourth = (batched([]) for _ in range(4))
    inbox.put([first])
    assert slow.begun.wait(PATIENCE_SECONDS)
    inbox.put([second])
    inbox.put([third, fourth])
    inbox.withdraw(third)
    inbox.withdraw(first)
    slow.go_on.set()
    inbox.close()
    assert slow.groups == [[first], [second, fourth]]
    assert slow.left == [third]


def test_closing_answers_what_waits_and_ends_the_thread() -> None:
    """No call is forgotten at close, and no thread is left."""
    slow = Slow()
    slow.go_on.set()
    inbox = Inbox(slow)
    calls: list[Call] = [FakeCall(0, b""), FakeCall(0, b"")]
    inbox.put(calls)
    inbox.start()
    inbox.close()
    assert [call for group in slow.groups for call in group] == calls
    assert "inference" not in {thread.name for thread in threading.enumerate()}
