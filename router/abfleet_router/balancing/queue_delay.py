"""Whether new calls would wait too long.

A bound on the number of waiting calls alone is a bound on memory: 4,096 calls are a moment for one fleet and ten
seconds for another. What callers feel is the wait, and it can be computed before it is over: the batches before a call,
times what a batch takes. Asked for every call that arrives, refused ones included, its mean follows the queues without
delay, which a measured wait would not; and it is one number for all, so that shedding cannot favour a group.

A mean over calls stands still while none come. So it holds only while calls wait: where none does, in any queue, the
queues that it was learned from are gone, and it is no more than what this call itself would wait, and never too long.
"""

MAX_WAIT_SECONDS = 0.25
"""Half of the default attempt timeout: what is taken in is answered before its attempt is given up."""
SMOOTHING = 1 / 64
"""Weight of the newest call: one slow queue among many is a small part of the mean, a burst of a few calls too."""


class ExpectedWait:
    """The mean over the calls that arrive; changed only by `is_too_long`."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def is_too_long(self, seconds: float, waiting: int = 1) -> bool:
        """A call has arrived that would wait so long: whether to refuse it. `waiting`: calls in all queues already."""
        if waiting:
            self.seconds += SMOOTHING * (seconds - self.seconds)
        elif seconds < self.seconds or self.seconds > MAX_WAIT_SECONDS:
            self.seconds = min(seconds, MAX_WAIT_SECONDS)
        return self.seconds > MAX_WAIT_SECONDS
