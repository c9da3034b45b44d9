"""What is wrong with a configuration, and where in its file."""

from collections.abc import Iterable
from dataclasses import dataclass

VALUE_MAX_CHARACTERS = 64


@dataclass(frozen=True, slots=True, order=True)
class ConfigError:
    """One mistake.

    Attributes:
        file: Name of the file as it was given.
        line, column: Where, counted from 1.
        key_path: Which key, as in `experiments[0].groups[1].weight`; empty for the file as a whole.
        message: What is there and what is allowed.
    """

    file: str
    line: int
    column: int
    key_path: str
    message: str

    def __str__(self) -> str:
        key = f"{self.key_path}: " if self.key_path else ""
        return f"{self.file}:{self.line}:{self.column}: {key}{self.message}"


class ConfigErrors(ValueError):
    """Every mistake of a configuration, in the order of the files."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(str(error) for error in self.errors))


def shown(value: object) -> str:
    """A value for a message: in backticks, on one line, cut to 64 characters."""
    text = "".join(
        character if character.isprintable() else "�" for character in str(value)[: VALUE_MAX_CHARACTERS + 1]
    )
    return f"`{text[:VALUE_MAX_CHARACTERS]}…`" if len(text) > VALUE_MAX_CHARACTERS else f"`{text}`"
