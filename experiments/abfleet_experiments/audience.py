"""Whether a request's attributes meet the conditions of an audience."""

import re
from collections.abc import Callable, Mapping
from typing import Final

from abfleet_experiments.config import Condition, InRange, OneOf, Presence

Attributes = Mapping[str, str]
Test = Callable[[Attributes], bool]

_NUMBER: Final = re.compile(r"[-+]?[0-9]{1,30}(\.[0-9]{1,30})?", re.ASCII)


def compiled(audience: tuple[Condition, ...]) -> Test | None:
    """One test for all conditions, which must all hold; None if there are none, so that nobody is asked."""
    tests = [_test(condition) for condition in audience]
    if len(tests) <= 1:
        return tests[0] if tests else None

    def all_hold(attributes: Attributes) -> bool:
        return all(test(attributes) for test in tests)

    return all_hold


def describe(condition: Condition) -> str:
    """A condition as a sentence, for people."""
    match condition:
        case OneOf(attribute, values):
            return f"{attribute} is {' or '.join(values)}"
        case InRange(attribute, minimum, maximum):
            low = "" if minimum is None else f" at least {minimum:g}"
            high = "" if maximum is None else f" at most {maximum:g}"
            return f"{attribute} is{low}{' and' if low and high else ''}{high}"
        case Presence(attribute, present):
            return f"{attribute} is {'present' if present else 'absent'}"


def _test(condition: Condition) -> Test:
    match condition:
        case OneOf(attribute, values):
            allowed = frozenset(values)
            return lambda attributes: attributes.get(attribute) in allowed
        case Presence(attribute, present):
            return lambda attributes: (attribute in attributes) is present
        case InRange(attribute, minimum, maximum):
            low = float("-inf") if minimum is None else minimum
            high = float("inf") if maximum is None else maximum

            def in_range(attributes: Attributes) -> bool:
                value = attributes.get(attribute, "")
                return _NUMBER.fullmatch(value) is not None and low <= float(value) <= high

            return in_range


def holds(condition: Condition, attributes: Attributes) -> bool:
    """Whether the attributes meet one condition; `compiled` is the same for calls, and faster."""
    return _test(condition)(attributes)
