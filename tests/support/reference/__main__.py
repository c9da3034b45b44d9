"""`./run reference` writes the pages; `--into FOLDER` writes them there."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tests.support.process import ROOT
from tests.support.reference import cli_page, python_page

PAGES = {"cli.md": cli_page.page, "python-api.md": python_page.page}
"""What each page is made by."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes each page."""
    parser = argparse.ArgumentParser(prog="./run reference", description=__doc__)
    parser.add_argument("--into", type=Path, default=ROOT / "docs")
    folder = parser.parse_args(arguments).into
    for name, made in PAGES.items():
        (folder / name).write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main()
