"""The inbox: everything that waits is taken together, what was withdrawn is not answered."""

import threading
from collections.abc import Sequence

from abfleet_transport.call import Call
from abfleet_worker.inbox import FORGET_SECONDS, QUICK_SECONDS, Inbox

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
    inbox.close(10)
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
    inbox.close(10)
    assert [call for group in slow.groups for call in group] == calls
    assert "inference" not in {thread.name for thread in threading.enumerate()}


class Recording:
    """Answers at once, and keeps on which thread; `seconds` is what each group seems to take."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.seconds = 0.0
        self.now = 0.0
        self.answered = threading.Semaphore(0)

    def answer(self, calls: Sequence[Call]) -> None:
        self.threads.append(threading.get_ident())
        self.now += self.seconds
        self.answered.release()

    def gone(self, call: Call) -> None:
        raise AssertionError(call)


def test_a_quick_model_is_asked_on_the_loop_and_a_slow_one_on_its_thread() -> None:
    """Nobody knows how quick it is before its first answer, which the thread gives; then the times of answers decide,
    and a model that becomes slow leaves the loop after some of them."""
    recording = Recording()
    inbox = Inbox(recording, clock=lambda: recording.now)
    inbox.start()
    here = threading.get_ident()

    def put() -> bool:
        """Whether the next group is answered here."""
        inbox.put([batched([])])
        assert recording.answered.acquire(timeout=PATIENCE_SECONDS)
        inbox.settled(PATIENCE_SECONDS)
        return recording.threads[-1] == here

    assert not put()
    assert put()
    recording.seconds = 10 * QUICK_SECONDS
    assert put()  # it has become slow, and nobody knows
    assert not put()
    recording.seconds = 0.0
    assert [put() for _ in range(12)][-1]
    inbox.close(10)


def test_after_a_minute_without_calls_nobody_knows_how_quick_the_model_is() -> None:
    """The next group is answered on the thread, however quick those before were; then its own time decides."""
    recording = Recording()
    inbox = Inbox(recording, clock=lambda: recording.now)
    inbox.start()
    here = threading.get_ident()

    def put() -> bool:
        """Whether the next group is answered here."""
        inbox.put([batched([])])
        assert recording.answered.acquire(timeout=PATIENCE_SECONDS)
        inbox.settled(PATIENCE_SECONDS)
        return recording.threads[-1] == here

    assert [put(), put(), put()] == [False, True, True]
    recording.now += FORGET_SECONDS
    recording.seconds = 100 * QUICK_SECONDS
    assert [put(), put()] == [False, False]
    recording.now += FORGET_SECONDS
    recording.seconds = 0.0
    assert [put(), put()] == [False, True], "what was slow a minute ago counts no more either"
    inbox.close(10)
