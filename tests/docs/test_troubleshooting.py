"""docs/troubleshooting.md quotes messages of the product: each of them is a text in its sources."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.process import ROOT

PRODUCT = ("abfleet", "dashboard", "experiments", "models", "router", "transport", "worker")
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTED = [
    line for block in re.findall(r"^```text\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


def texts(path: Path) -> Iterator[str]:
    """The texts of a module, docstrings aside, with … in the place of what is filled in."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


@cache
def messages() -> frozenset[str]:
    """Every text of the product."""
    return frozenset(text for room in PRODUCT for path in (ROOT / room).rglob("*.py") for text in texts(path))


def is_written(quoted: str) -> bool:
    """Whether one text has all that is quoted, in this order; … stands for anything."""
    wanted = re.compile(".*".join(re.escape(part) for part in quoted.split("…")), re.DOTALL)
    return any(wanted.search(text) for text in messages())


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_one_of_the_product(quoted: str) -> None:
    """Where it was reworded, the page has to follow."""
    assert is_written(quoted)


def test_another_message_would_be_found() -> None:
    """The search above does not take everything, and the page quotes enough to be of use."""
    assert not is_written("the router is overloaded: nobody knows")
    assert len(QUOTED) > 40
