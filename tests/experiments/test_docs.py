"""The documentation: its files load, and its commands run in the order in which they stand."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from abfleet_experiments.file.load import load_text
from typer.testing import CliRunner

from abfleet.commands import experiments

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def _blocks(page: str, kind: str) -> list[str]:
    return [body for language, body in BLOCK.findall((DOCS / page).read_text(encoding="utf-8")) if language == kind]


def test_the_walk_can_be_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of docs/experiments.md succeeds on its own file, one after the other, up to the conclusion."""
    app = typer.Typer()
    experiments.register(app)
    (file_text,) = (block for block in _blocks("experiments.md", "yaml") if block.startswith("version: 1"))
    file = tmp_path / "experiments" / "recommender.yaml"
    file.parent.mkdir()
    file.write_text(file_text, encoding="utf-8")
    shutil.copy(file, tmp_path / "old.yaml")
    monkeypatch.chdir(tmp_path)
    ran = []
    for line in "".join(_blocks("experiments.md", "console")).splitlines():
        *before, command = line.removeprefix("$ ").split(" | ")
        assert command.startswith("abfleet ")
        stdin = before[0].removeprefix("echo ") if before else ""
        result = CliRunner().invoke(app, shlex.split(command)[1:], input=stdin)
        assert result.exit_code == 0, f"{line}: {result.output}"
        ran.append(command.split()[1])
    assert {"validate", "plan", "explain", "assign", "halt", "resume", "ramp", "conclude"} <= set(ran)
    assert load_text(file.read_text(encoding="utf-8")).default == "v1.3.0-beta"


def test_fragments_fit_into_the_file() -> None:
    """What the walk shows of an experiment's keys is accepted where it belongs."""
    whole, *parts, concluded = _blocks("experiments.md", "yaml")
    load_text(whole.replace("name: homepage-ranking", "name: another") + concluded)
    for part in parts:
        text = whole.replace("traffic: 2 ", "traffic: 100 ").replace("    metrics:\n", part + "    metrics:\n")
        assert load_text(text).experiments[0].name == "homepage-ranking"


def test_the_fleet_file_of_the_reference_loads() -> None:
    """The example in docs/configuration.md replaces a target."""
    (fleet,) = (block for block in _blocks("configuration.md", "yaml") if block.startswith("version: 1"))
    (whole, *_) = _blocks("experiments.md", "yaml")
    assert load_text(whole, fleet_text=fleet).models["v1.2.3"].target == ("10.0.0.5:50061", "10.0.0.6:50061")
