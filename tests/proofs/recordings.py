"""The recording of a terminal in the README: `./run prove recordings` writes docs/pictures/terminal.svg anew.

A test compares the committed one with what the commands print now.
"""

import sys
import tempfile
from pathlib import Path

from tests.support.process import ROOT
from tests.support.recording import picture, prepare

PICTURE = ROOT / "docs" / "pictures" / "terminal.svg"


def main() -> int:
    """Runs the commands and writes the picture."""
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
        prepare(Path(name))
        PICTURE.write_text(picture(Path(name)), encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)}: {PICTURE.stat().st_size / 1000:.0f} KB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
