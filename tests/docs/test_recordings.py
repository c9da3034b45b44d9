"""docs/pictures/terminal.svg is what the commands in it print."""

from pathlib import Path

from tests.support.process import ROOT
from tests.support.recording import picture, prepare


def test_the_recording_is_what_the_commands_print(tmp_path: Path) -> None:
    """Where it differs: `./run prove recordings` records it anew, and a person looks at it."""
    prepare(tmp_path)
    assert picture(tmp_path) == (ROOT / "docs" / "pictures" / "terminal.svg").read_text(encoding="utf-8")
