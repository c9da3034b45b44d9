"""Reads a JSON object field by field, checks types and bounds, and collects every mistake."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from abfleet_models.errors import ManifestError

MAX_JSON_BYTES = 4 * 1024 * 1024
"""Far above any real metadata (a few kilobytes with its golden answer); keeps a hostile file from filling memory."""


def shown(value: object) -> str:
    """`value` as an error quotes it: on one line, cut to 64 characters; of a long list or object only what it is."""
    text = repr(value)
    if len(text) <= 64:
        return text
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    return text[:61] + "..."


class Fields:
    """One JSON object being read. Mutable: `problems` grows, and is shared with the objects nested in this one.

    A reading that fails notes a problem and returns a harmless value, so that a file's mistakes are reported together;
    the caller ends with `finish`, and builds its value only after that.
    """

    def __init__(self, data: Mapping[str, Any], *, path: str = "", problems: list[str] | None = None) -> None:
        self._data = data
        self._path = path
        self._read: set[str] = set()
        self.problems: list[str] = [] if problems is None else problems

    def problem(self, key: str, message: str) -> None:
        """Adds a mistake at `key`, with the path of the object before it."""
        self.problems.append(f"{self._path}{key}: {message}")

    def value(self, key: str, *, optional: bool = False) -> Any:
        """The raw value, None where it is missing."""
        self._read.add(key)
        if key not in self._data and not optional:
            self.problem(key, "is missing")
        return self._data.get(key)

    def text(self, key: str, *, default: str | None = None, max_length: int = 2_000) -> str:
        """A string of at most `max_length` characters; not empty unless there is a default."""
        value = self.value(key, optional=default is not None)
        if key not in self._data:
            return default or ""
        if not isinstance(value, str) or len(value) > max_length or (default is None and not value):
            self.problem(key, f"{shown(value)} is not a text of {int(default is None)} to {max_length} characters")
            return ""
        return value

    def integer(self, key: str, *, low: int, high: int) -> int:
        """An integer in low..high; `low - 1` where it is not one, for checks that depend on it."""
        value = self.value(key)
        if _is_int(value) and low <= value <= high:
            return value
        if key in self._data:
            self.problem(key, f"{shown(value)} is not an integer from {low} to {high}")
        return low - 1

    def number(self, key: str, *, low: float, high: float, default: float | None = None) -> float:
        """A finite number in low..high; the default, else `low`, where it is missing; `low` where it is wrong."""
        value = self.value(key, optional=default is not None)
        if key not in self._data:
            return low if default is None else default
        if not (_is_number(value) and low <= value <= high):
            self.problem(key, f"{shown(value)} is not a number from {low:g} to {high:g}")
            return low
        return float(value)

    def digest(self, key: str, *, optional: bool = False) -> str:
        """A sha256 as 64 lower-case hex digits; empty where it is missing or none."""
        value = self.value(key, optional=optional)
        if key in self._data and not is_sha256(value):
            self.problem(key, f"{shown(value)} is not a sha256 of 64 lower-case hex digits")
        return value if isinstance(value, str) else ""

    def one_of(self, key: str, allowed: Sequence[object], *, optional: bool = False) -> Any:
        """The value, which must be one of `allowed`; None where it is not."""
        value = self.value(key, optional=optional)
        if key not in self._data:
            return None
        if isinstance(value, bool) or value not in allowed:
            self.problem(key, f"{shown(value)} is not {' or '.join(repr(item) for item in allowed)}")
            return None
        return value

    def switch(self, key: str, *, default: bool) -> bool:
        """True or false."""
        value = self.value(key, optional=True)
        if key in self._data and not isinstance(value, bool):
            self.problem(key, f"{shown(value)} is not true or false")
        return value if isinstance(value, bool) else default

    def integers(self, key: str, *, low: int, high: int, most: int) -> tuple[int, ...]:
        """A list of at most `most` integers in low..high; empty where it is none."""
        value = self.value(key)
        if key not in self._data:
            return ()
        if not isinstance(value, list) or len(value) > most:
            self.problem(key, f"{shown(value)} is not a list of at most {most} integers")
            return ()
        for place, item in enumerate(value):
            if not (_is_int(item) and low <= item <= high):
                self.problem(f"{key}[{place}]", f"{shown(item)} is not an integer from {low} to {high}")
                return ()
        return tuple(value)

    def nested(self, key: str, *, optional: bool = False) -> "Fields":
        """The object at `key`, an empty one where it is missing or no object."""
        value = self.value(key, optional=optional)
        if key in self._data and not isinstance(value, dict):
            self.problem(key, f"{shown(value)} is not an object")
        found = isinstance(value, dict)
        # A missing object is one mistake: what would be in it is then not reported as missing too.
        problems = self.problems if found else []
        return Fields(value if found else {}, path=f"{self._path}{key}.", problems=problems)

    def objects(self, key: str, *, optional: bool = False) -> list["Fields"]:
        """The list of objects at `key`."""
        value = self.value(key, optional=optional)
        if value is None and optional:
            return []
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            if key in self._data:
                self.problem(key, f"{shown(value)} is not a list of objects")
            return []
        return [
            Fields(item, path=f"{self._path}{key}[{place}].", problems=self.problems)
            for place, item in enumerate(value)
        ]

    def table(self, key: str, *, rows: int = 0, whole: bool) -> tuple[tuple[Any, ...], ...]:
        """A rectangular list of lists of numbers (`whole`: of int64), of `rows` lists where that is not 0."""
        value = self.value(key)
        if key not in self._data:
            return ()
        wrong = _wrong_cell(value, whole=whole)
        if wrong is not None:
            self.problem(f"{key}{wrong[0]}", wrong[1])
            return ()
        if rows and len(value) != rows:
            self.problem(key, f"has {len(value)} rows, the history has {rows}")
        return tuple(tuple(row) for row in value)

    def keys(self) -> list[str]:
        """The object's keys, for objects whose keys are data; they count as read."""
        self._read.update(self._data)
        return list(self._data)

    def no_others(self) -> None:
        """Notes every key that nothing has read."""
        for key in self._data:
            if key not in self._read:
                self.problem(shown(key)[1:-1], f"unknown key; allowed are {', '.join(sorted(self._read))}")

    def finish(self, source: str) -> None:
        """Raises ManifestError when there were mistakes."""
        if self.problems:
            raise ManifestError(source, self.problems)


def read_object(path: Path, source: str) -> dict[str, Any]:
    """The JSON object in a file. Raises ManifestError when it cannot be read or is not one object."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ManifestError(source, [f"is larger than {MAX_JSON_BYTES} bytes"])
        content = path.read_bytes()
    except OSError as error:
        raise ManifestError(source, [f"cannot be read: {error.strerror or error}"]) from error
    return parse_object(content, source)


def parse_object(content: bytes, source: str) -> dict[str, Any]:
    """The JSON object in these bytes. Raises ManifestError when it is not one object."""
    try:
        data = json.loads(content.decode("utf-8"))
    except RecursionError as error:
        raise ManifestError(source, ["is nested too deeply"]) from error
    except ValueError as error:  # bad UTF-8 and bad JSON alike
        raise ManifestError(source, [f"is not JSON: {error}"]) from error
    if not isinstance(data, dict):
        raise ManifestError(source, [f"{shown(data)} is not an object"])
    return data


def is_sha256(value: object) -> bool:
    """Whether `value` is a text of 64 lower-case hex digits."""
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _wrong_cell(table: object, *, whole: bool) -> tuple[str, str] | None:
    """Where something is no rectangular list of lists of numbers, and what is wrong there."""
    if not isinstance(table, list) or not table:
        return "", f"{shown(table)} is not a list of equally long lists of numbers"
    kind, what = (_is_int64, "an int64 integer") if whole else (_is_number, "a finite number")
    for place, row in enumerate(table):
        if not isinstance(row, list):
            return f"[{place}]", f"{shown(row)} is not a list of numbers"
        if len(row) != len(table[0]):
            return f"[{place}]", f"has {len(row)} numbers, the first row has {len(table[0])}"
        for column, cell in enumerate(row):
            if not kind(cell):
                return f"[{place}][{column}]", f"{shown(cell)} is not {what}"
    return None


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_int64(value: object) -> bool:
    return _is_int(value) and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return _is_int(value) and abs(value) < 2**1000  # larger ones do not fit a float
