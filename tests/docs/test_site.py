"""The site of the documentation: its navigation is what docs/README.md lists, and its pages can be read."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.support.process import ROOT

BUILDER = ROOT / ".cache" / "docs" / "bin" / "mkdocs"
SECONDS = 120


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml without what its tags name."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """docs/site/hooks.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_navigation_is_the_index(hooks: ModuleType) -> None:
    """The groups are the headings of docs/README.md, every page is in one of them, and there is no other list."""
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    groups = {
        title: pages for group in hooks.navigation(index) if isinstance(group, dict) for title, pages in group.items()
    }
    assert list(groups) == ["Overview", *re.findall(r"^## (.+)$", index, re.MULTILINE), "Development"]
    assert list(groups)[1:6] == ["Start", "Experiments", "Models", "Run", "Reference"]
    listed = [page for pages in groups.values() if isinstance(pages, list) for one in pages for page in one.values()]
    there = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted([*set(there) - {"README.md"}, "changelog.md", "contributing.md"])
    assert "nav:" not in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "written", "read"),
    [
        ("docs/tour.md", "see [models](models.md#a)", "see [models](models.md#a)"),
        ("docs/tour.md", "the [README](../README.md#b)", "the [README](overview.md#b)"),
        ("docs/guides/clients.md", "[README](../../README.md)", "[README](../overview.md)"),
        ("docs/guides/clients.md", "[proto](../../protos/recommender.proto)", "proto"),
        ("README.md", "[a tour](docs/tour.md), [`models`](models)", "[a tour](tour.md), `models`"),
        ("README.md", "![picture](docs/pictures/terminal.svg)", "![picture](pictures/terminal.svg)"),
        ("README.md", '<img src="docs/pictures/terminal.svg">', '<img src="pictures/terminal.svg">'),
        ("docs/cli.md", "| `a\\|b` | c |", "| `a|b` | c |"),
        ("docs/tour.md", "Words:\n- one\n- two\n", "Words:\n\n- one\n- two\n"),
        ("docs/tour.md", "```\n[x](../README.md)\n- a\n```\n", "```\n[x](../README.md)\n- a\n```\n"),
    ],
)
def test_a_page_is_read_as_on_github(hooks: ModuleType, page: str, written: str, read: str) -> None:
    """Links lead to the site's pages or are none, pipes in code are pipes, lists are lists, and code stays as it is."""
    assert hooks.in_site(written, page) == read


def test_the_builder_is_told_to_be_strict() -> None:
    """Each kind of broken link is a warning, `./run docs` makes a warning an error, and fonts are not fetched."""
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)
    assert set(settings["validation"].values()) == {"warn"}
    assert settings["theme"]["font"] is False
    assert (ROOT / "run").read_text().count("/bin/mkdocs build --strict") == 1


@pytest.mark.system
def test_the_site_is_built(tmp_path: Path) -> None:
    """Every page and every link, with what `./run docs` installs; it can be searched, and asks no other host."""
    if not BUILDER.exists():
        pytest.skip("the builder of the site is not here: ./run docs fetches it")
    done = subprocess.run(
        [BUILDER, "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sample ratio" in (tmp_path / "search" / "search_index.json").read_text(encoding="utf-8").lower()
    html = (tmp_path / "overview.html").read_text(encoding="utf-8")
    assert re.findall(r'<(?:script|link)[^>]+(?:src|href)="https?://', html) == []
    assert (tmp_path / "pictures" / "terminal.svg").exists()
