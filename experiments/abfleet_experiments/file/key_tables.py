"""The tables of keys in docs/configuration.md, made from the keys. `<!-- keys: NAME -->` stands above each.

`python -m abfleet_experiments.file.key_tables docs/configuration.md` writes them anew.
"""

import re
import sys
from pathlib import Path
from typing import Final

from abfleet_process.declarations.keys import table

from abfleet_experiments.file import keys

_TABLE: Final = re.compile(r"(<!-- keys: (\w+) -->\n)(?:\|.*\n)*")
_SECTIONS: Final = {one.name: one for one in (keys.FILE, *keys.DEFINITIONS)}


def with_tables(page: str) -> str:
    """The page with each of its tables as the keys have it. KeyError for a name that no section has."""
    return _TABLE.sub(lambda match: match[1] + _table(match[2]), page)


def _table(name: str) -> str:
    return table("" if name == keys.FILE.name else f"{name}.", _SECTIONS[name].keys)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        path = Path(argument)
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
