"""Numbers with their nouns, for sentences that people read."""

from collections.abc import Sequence


def counted(count: float, one: str, many: str = "") -> str:
    """A number with its noun in the right form: `1 call`, `1,234 calls`. many: The plural, where it is not one + s."""
    number = f"{count:,.0f}"
    return f"{number} {one if number == '1' else many or f'{one}s'}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them: `a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
