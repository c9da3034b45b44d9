"""Which ids came lately: a set of bounded size. Knows no outcome and no clock."""


class SeenIds:
    """Remembers at least the last `window` ids and at most twice as many.

    Two sets take turns: when the young one is full the old one is forgotten. An id costs one lookup in each, and no
    order has to be kept. Changed only by whoever owns it.
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
        """It has come."""
        if len(self._young) >= self._window:
            self._old, self._young = self._young, set()
        self._young.add(one)

    def discard(self, one: str) -> None:
        """As if it had not come."""
        self._young.discard(one)
        self._old.discard(one)
