"""Flags before environment before defaults: how every server process gets its settings. It defines none of them."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abfleet_process import standard_output
from abfleet_process.addresses import variable

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
SHOWN_CHARACTERS = 64
EXIT_USAGE = 2

Read = Callable[[str], Any]
"""Turns text into a value; raises ValueError with what is allowed."""


class SettingsError(Exception):
    """A flag or variable with a value that is not allowed; the message names it, the value and what is allowed."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise SettingsError(message)


@dataclass(frozen=True, slots=True)
class DeclaredFlag:
    """A flag as help shows it.

    Attributes:
        metavar: Empty for a switch.
        default: As text.
        group: The heading that it stands under.
    """

    name: str
    metavar: str
    default: str
    text: str
    group: str


class Flags:
    """A command line whose every flag `--a-b` may be given as the variable `ABFLEET_A_B`; the flag wins."""

    def __init__(
        self, program: str, description: str, example: str, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.description, self.example = description, example
        self.declared: list[DeclaredFlag] = []
        """In the order of help; added to by `add` and `switch`."""
        self._parser = _Parser(
            prog=program,
            description=description,
            epilog=f"example:\n  {example}\nEvery flag --a-b may also be given as ABFLEET_A_B; the flag wins.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._environment = environment
        self._title = "Options"
        self._group: argparse._ArgumentGroup | argparse.ArgumentParser = self._parser

    def group(self, title: str) -> None:
        """The heading of the flags that are added from here on."""
        self._title, self._group = title, self._parser.add_argument_group(title)

    def add(self, name: str, read: Read, default: str, metavar: str, text: str) -> None:
        """A flag with a value; the default goes through the same check as the value."""
        self.declared.append(DeclaredFlag(name, metavar, default, text, self._title))
        self._group.add_argument(
            f"--{name}",
            type=_named(name, read),
            default=self._environment.get(variable(name), default),
            metavar=metavar,
            help=f"{text} [{default}]".replace("%", "%%"),
        )

    def choice(self, name: str, allowed: Sequence[str], default: str, text: str) -> None:
        """A flag whose value is one of a few."""
        self.add(name, one_of(allowed), default, "|".join(allowed), text)

    def switch(self, name: str, text: str) -> None:
        """A flag that is on or off: `--name`, `--no-name`, or a variable that says so."""
        value = self._environment.get(variable(name), "off").lower()
        if value not in (*TRUE, *FALSE):
            raise SettingsError(f"{variable(name)}: {value[:SHOWN_CHARACTERS]!r} is not allowed; allowed: on and off")
        self.declared.append(DeclaredFlag(name, "", "off", text, self._title))
        self._group.add_argument(
            f"--{name}", action=argparse.BooleanOptionalAction, default=value in TRUE, help=f"{text} [off]"
        )

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Reads the command line. Raises SettingsError; `--help` raises SystemExit(0) as argparse does."""
        standard_output.prepare()
        return self._parser.parse_args(arguments)


def _named(name: str, read: Read) -> Read:
    """Makes an error name flag, value and what is allowed, whether the value came from the flag or the environment."""

    def read_named(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            shown = text[:SHOWN_CHARACTERS]
            raise SettingsError(f"--{name} ({variable(name)}): {shown!r} is not allowed; {error}") from error

    return read_named


def text(value: str) -> str:
    """Reads a text with at least one character that is no blank."""
    if not value.strip():
        raise ValueError("allowed: any text that is not empty")
    return value


def one_of(allowed: Sequence[str]) -> Read:
    """Reads one of the allowed words, as it stands there."""

    def read(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"allowed: {', '.join(allowed)}")
        return value

    return read


def address(value: str) -> str:
    """Reads an address to listen on: `HOST:PORT`, where port 0 is any free one, or `unix:PATH`."""
    host, separator, port = value.rpartition(":")
    if value.startswith("unix:") and len(value) > len("unix:"):
        return value
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError("allowed: HOST:PORT with a port from 0 to 65535, or unix:PATH")
    return value


def port_or_off(value: str) -> int | None:
    """A port, 0 for any free one; None for `off`."""
    if value == "off":
        return None
    if not value.isdecimal() or int(value) > 65535:
        raise ValueError("allowed: 0 to 65535, or off")
    return int(value)


def whole(low: int, high: int) -> Read:
    """A whole number in a range, ends included."""

    def read(value: str) -> int:
        if not value.isdecimal() or not low <= int(value) <= high:
            raise ValueError(f"allowed: whole numbers from {low} to {high}")
        return int(value)

    return read


def optional_whole(low: int, high: int) -> Read:
    """A whole number in a range, ends included; None for `off`."""
    number = whole(low, high)

    def read(value: str) -> int | None:
        if value == "off":
            return None
        try:
            return int(number(value))
        except ValueError as error:
            raise ValueError(f"{error}, or off") from error

    return read


def real(low: float, high: float) -> Read:
    """A number in a range, ends included."""

    def read(value: str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"allowed: numbers from {low:g} to {high:g}")
        return number

    return read
