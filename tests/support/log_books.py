"""What a folder of decision logs holds: every line of every file, plain or compressed, torn or whole."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard


@dataclass(slots=True)
class Books:
    """All lines of a folder."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    torn: int = 0
    """Last lines without an end."""
    unreadable: int = 0
    """Ended lines that are no JSON."""

    def exposed(self) -> Counter[str]:
        """How often each request id is in an exposure."""
        return Counter(line["request_id"] for line in self.lines if line["event"] == "exposure")


def read_books(folder: Path) -> Books:
    """Reads a folder that nobody writes at this moment."""
    books = Books()
    for path in sorted(folder.glob("decisions-*")):
        content = path.read_bytes()
        if path.suffix == ".zst":
            with zstandard.ZstdDecompressor().stream_reader(content) as reader:
                content = reader.read()
        *ended, rest = content.split(b"\n")
        books.torn += bool(rest)
        for line in ended:
            try:
                books.lines.append(json.loads(line))
            except ValueError:
                books.unreadable += 1
    return books
