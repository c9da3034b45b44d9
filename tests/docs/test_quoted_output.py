"""Output that pages show is what the commands print."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from abfleet.cli import app
from abfleet.up.closing_words import what_came, what_next
from abfleet.up.settings import UpSettings
from tests.support.process import ROOT

SHIPPED = "experiments/recommender.yaml"


def block(page: str, beginning: str) -> str:
    """The one block of a page that begins so."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (found,) = (
        body
        for body in re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        if body.startswith(beginning)
    )
    return str(found)


def test_mistakes_in_a_file(tmp_path: Path) -> None:
    """Configuration shows two mistakes in the file that ships, as `validate` lists them."""
    wrong = (ROOT / SHIPPED).read_text(encoding="utf-8").replace("    salt:", "    sallt:")
    file = tmp_path / "wrong.yaml"
    file.write_text(wrong.replace("experiment, model: v1.3.0-beta", "experiment, model: v1.3"), encoding="utf-8")
    result = CliRunner().invoke(app, ["validate", str(file)])
    assert result.stderr.replace(str(file), SHIPPED) == block("configuration.md", SHIPPED)


def test_an_edit_that_moves_users(tmp_path: Path) -> None:
    """Experiments shows whom its canary moves, as `plan` says it."""
    after = block("experiments.md", "version: 1")
    (tmp_path / "after.yaml").write_text(after, encoding="utf-8")
    (tmp_path / "before.yaml").write_text(after.replace("traffic: 2 ", "traffic: 0 "), encoding="utf-8")
    result = CliRunner().invoke(app, ["plan", str(tmp_path / "before.yaml"), str(tmp_path / "after.yaml")])
    assert block("experiments.md", "  moved:") in result.stdout


def test_begin_and_end_of_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations shows what `up` suggests when it is ready, and what it served."""
    monkeypatch.delenv(
        "ABFLEET_PROGRAM", raising=False
    )  # as installed; `./run test` has set it to how a clone spells it
    addresses = {"ready": "127.0.0.1:50051", "admin": "127.0.0.1:50052"}
    suggested, first = what_next(UpSettings(), addresses, "127.0.0.1:8080")[:2]
    assert f"{suggested}\n{first}\n" in block("operations.md", "checking ")
    served = {"calls": 1234, "failed": 2, "fallbacks": 3, "outcomes": 310, "lines": 1549, "lost": 0}
    assert "\n".join(what_came(served, 303, UpSettings())) + "\n" == block("operations.md", "served ")
