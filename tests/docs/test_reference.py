"""docs/cli.md and docs/python-api.md are made from the code, and the versions of the repository agree."""

import re
import tomllib

import pytest
import typer

from abfleet.cli import app
from tests.support.process import ROOT
from tests.support.reference.__main__ import PAGES

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_the_code_gives(name: str) -> None:
    """Byte for byte; where it differs: `./run reference`."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == PAGES[name]()


def test_every_command_has_a_section() -> None:
    """Those of families too; each option with a value says what it is for."""
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    sections = set(re.findall(r"^### abfleet (.+)$", page, re.MULTILINE))
    names = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(names) <= sections
    assert {f"{name} {inner}" for name, one in names.items() for inner in getattr(one, "commands", ())} <= sections
    assert not re.search(r"^\| `--.*\|  \|$", page, re.MULTILINE)


def test_the_version_is_one() -> None:
    """The client, images, manifests and the newest section of the CHANGELOG have the version of pyproject.toml."""
    client = tomllib.loads((ROOT / "protos" / "pyproject.toml").read_text())["project"]["version"]
    assert client == VERSION
    files = [*(ROOT / "compose").glob("*.Dockerfile"), *(ROOT / "compose" / "kubernetes").rglob("kustomization.yaml")]
    found = {
        (path.name, version)
        for path in files
        for version in re.findall(r'(?:image\.version="|newTag: )([\d.]+)', path.read_text(encoding="utf-8"))
    }
    assert len(found) > 3
    assert {version for _, version in found} == {VERSION}
    assert (
        re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0] == VERSION
    )


def test_files_have_the_versions_that_the_policy_names() -> None:
    """docs/versioning.md: the file's, the log's and the registry's."""
    page = (ROOT / "docs" / "versioning.md").read_text(encoding="utf-8")
    assert "`version: 1` in the file" in page
    assert re.search(r"^version: 1$", (ROOT / "experiments" / "recommender.yaml").read_text(), re.MULTILINE)
    assert '`"schema": 1` in each line' in page
    assert '"const": 1' in (ROOT / "docs" / "decision-log.schema.json").read_text()
    for package in re.findall(r"`(abfleet\.\w+\.v1)`", page):
        assert any(f"package {package};" in path.read_text() for path in (ROOT / "protos").glob("*.proto")), package
    for path in re.findall(r"^\| `(\w+)` of the admin port", page, re.MULTILINE):
        assert re.search(rf" {path} = \d+ \[deprecated = true\]", (ROOT / "protos" / "admin.proto").read_text())
