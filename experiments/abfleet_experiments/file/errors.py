"""What is wrong with a configuration, and where in its file."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from abfleet_process.declarations.nodes import Findings

MAX_ERRORS: Final = 100
"""More would hide the first; a file of another kind altogether would give one for each line."""


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


def config_errors(file: str, findings: Findings) -> list[ConfigError]:
    """The mistakes found in a file, and instead of those past the hundredth one that says how many there are."""
    errors = [
        ConfigError(file, found.line, found.column, found.key_path, found.message) for found in findings.in_order()
    ]
    if len(errors) <= MAX_ERRORS:
        return errors
    last = errors[MAX_ERRORS]
    more = f"and {len(errors) - MAX_ERRORS} more mistakes"
    return [*errors[:MAX_ERRORS], ConfigError(file, last.line, last.column, "", more)]
