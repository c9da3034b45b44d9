"""Which outcome ids came lately, and what each was used for: two dicts of bounded size."""


class SeenIds:
    """Remembers at least the last `window` ids and at most twice as many.

    Two dicts take turns: when the young one is full the old one is forgotten. An id costs one lookup in each, and no
    order has to be kept. Changed only by Feedback.
    """

    __slots__ = ("_old", "_window", "_young")

    def __init__(self, window: int) -> None:
        self._window = window
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}

    def get(self, one: str) -> int | None:
        """The number that stands for what the id was used for; None for an id that is not remembered."""
        return self._young.get(one, self._old.get(one))

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, one: str, content: int) -> None:
        """Remembers an id; when the young dict is full, the old one is forgotten first."""
        if len(self._young) >= self._window:
            self._old, self._young = self._young, {}
        self._young[one] = content

    def discard(self, one: str) -> None:
        """Forgets an id, so that it counts as new when it comes again."""
        self._young.pop(one, None)
        self._old.pop(one, None)
