"""Options that stand together in one dataclass."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from abfleet.commands.option_groups import with_groups


@dataclasses.dataclass(frozen=True)
class Where:
    """A group of options."""

    host: Annotated[str, typer.Option(help="The host.")]
    folder: Annotated[Path, typer.Option("--dir", help="The folder.")] = Path("here")
    derived: str = "not an option"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str, host: str | None = None) -> tuple[str, list[Any]]:
    seen: list[Any] = []
    app = typer.Typer()

    @app.command()
    @with_groups
    def trial(context: typer.Context, where: Where, count: Annotated[int, typer.Option()] = 1) -> None:
        """Tries it."""
        seen.extend((where, count, context.command.name))

    if host is not None:
        monkeypatch.setenv("ABFLEET_HOST", host)
    return CliRunner().invoke(app, arguments).output, seen


def test_each_field_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under its own name, variable and default; the command gets the group whole, and other parameters beside it."""
    assert run(monkeypatch, "--host", "a", "--count", "2") == ("", [Where("a"), 2, "trial"])
    assert run(monkeypatch, "--dir", "there", host="b") == ("", [Where("b", Path("there")), 1, "trial"])


def test_what_is_no_option_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field without one is not on the command line, and one without a default is needed."""
    assert "No such option" in run(monkeypatch, "--host", "a", "--derived", "x")[0]
    assert "Missing option '--host'" in run(monkeypatch)[0]
    output, _ = run(monkeypatch, "--help")
    assert output.index("--host") < output.index("--dir") < output.index("--count")
    assert "Tries it." in output
