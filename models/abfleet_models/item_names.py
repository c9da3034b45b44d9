"""Names of items: items.txt, whose line n is the name of item n. Pure."""

import re
from collections.abc import Iterable

from abfleet_models.errors import IntegrityError, shown

ITEMS_FILE = "items.txt"
MAX_NAME_BYTES = 256
"""Of UTF-8: what an outcome may name, and a request id or a user id are no longer."""
NAME_ALLOWED = f"1 to {MAX_NAME_BYTES} bytes of UTF-8 without control characters"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def is_item_name(text: str) -> bool:
    """Whether it may be the name of an item."""
    return bool(text) and len(text.encode()) <= MAX_NAME_BYTES and _CONTROL.search(text) is None


def read_names(content: bytes) -> tuple[str, ...]:
    """The names of items 1, 2, 3 and so on. Raises IntegrityError for a line that is empty, there twice, or no name.

    Such a line would name an item that cannot be told.
    """
    try:
        lines = content.decode().removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{ITEMS_FILE}: is not UTF-8: {error}") from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = line.removesuffix("\r")
        if not name:
            raise IntegrityError(f"{ITEMS_FILE}: line {number} is empty; each line is the name of an item")
        if not is_item_name(name):
            raise IntegrityError(f"{ITEMS_FILE}: line {number} has {shown(name)}; allowed: {NAME_ALLOWED}")
        if name in names:
            raise IntegrityError(
                f"{ITEMS_FILE}: line {number} repeats {shown(name)} of line {names[name]}; names must be unique"
            )
        names[name] = number
    return tuple(names)


def written(names: Iterable[str]) -> bytes:
    """items.txt with these names."""
    return "".join(f"{name}\n" for name in names).encode()
