"""Which outcome ids came lately: a set of bounded size."""


class SeenIds:
    """Remembers at least the last `window` ids and at most twice as many.

    Two sets take turns: when the young one is full the old one is forgotten. An id costs one lookup in each, and no
    order has to be kept. Changed only by Feedback.
    """

    __slots__ = ("_old", "_window", "_young")

    def __init__(self, window: int) -> None:
        self._window = window
        self._young: set[str] = set()
        self._old: set[str] = set()

    def __contains__(self, one: str) -> bool:
        return one in self._young or one in self._old

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, one: str) -> None:
        """Remembers an id; when the young set is full, the old one is forgotten first."""
        if len(self._young) >= self._window:
            self._old, self._young = self._young, set()
        self._young.add(one)

    def discard(self, one: str) -> None:
        """Forgets an id, so that it counts as new when it comes again."""
        self._young.discard(one)
        self._old.discard(one)
