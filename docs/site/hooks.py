"""What the site's builder asks of this repository: navigation, pages from outside docs, Markdown that it can read.

MkDocs calls the functions `on_…` (https://www.mkdocs.org/dev-guide/plugins/#events). Nothing else here needs MkDocs.
"""

import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
INDEX = "README.md"
OUTSIDE = {"README.md": "overview.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages of the repository's root, by the name that they have in the site."""
LINK = re.compile(r"(?P<mark>!?)\[(?P<text>(?:[^\]`]|`[^`]*`)*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)


def navigation(index: str) -> list[Any]:
    """Groups of pages as docs/README.md lists them: its headings, and the links under each."""
    found: list[Any] = [INDEX, {"Overview": OUTSIDE["README.md"]}]
    for part in index.split("\n## ")[1:]:
        title, _, body = part.partition("\n")
        pages = [
            {match["text"][:1].upper() + match["text"][1:].replace("`", ""): match["target"]}
            for match in LINK.finditer(body)
            if match["target"].endswith(".md") and not match["target"].startswith("..")
        ]
        found.append({title: pages})
    changes, contributing = OUTSIDE["CHANGELOG.md"], OUTSIDE["CONTRIBUTING.md"]
    return [*found, {"Development": [{"Changelog": changes}, {"Contributing": contributing}]}]


def in_site(markdown: str, page: str) -> str:
    """The Markdown of a page, whose path is from the repository's root, as the site's builder reads it.

    Links to pages lead to where these are in the site; what the site does not have is named without a link. A pipe in
    the code of a table has no backslash, and a list needs an empty line before it.
    """
    pieces, end = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [_prose(markdown[end : fence.start()], page), fence[0]]
        end = fence.end()
    return "".join([*pieces, _prose(markdown[end:], page)])


def _prose(text: str, page: str) -> str:
    text = LINK.sub(lambda link: _link(link, page), text)
    text = re.sub(r"`[^`\n]*`", lambda code: code[0].replace("\\|", "|"), text)
    text = re.sub(r'src="docs/', 'src="', text)
    return re.sub(r"^(?![-*|#\s]|\d+\. )(.+\n)(?=(?:- |1\. ))", r"\1\n", text, flags=re.MULTILINE)


def _link(link: re.Match[str], page: str) -> str:
    target, _, anchor = link["target"].partition("#")
    if not target or re.match(r"[a-z]+:", target):
        return link[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    here = OUTSIDE.get(page, page.removeprefix("docs/"))
    there = OUTSIDE.get(path, path.removeprefix("docs/"))
    if path not in OUTSIDE and not (path.startswith("docs/") and (ROOT / path).is_file()):
        return f"{link['text']}"
    leads = posixpath.relpath(there, posixpath.dirname(here) or ".")
    return f"{link['mark']}[{link['text']}]({leads}{'#' if anchor else ''}{anchor})"


def on_config(config: Any) -> Any:
    """Sets the navigation."""
    config.nav = navigation((ROOT / "docs" / INDEX).read_text(encoding="utf-8"))
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages of the root."""
    from mkdocs.structure.files import File

    for path, name in OUTSIDE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Makes the page readable for the site's builder."""
    names = {name: path for path, name in OUTSIDE.items()}
    path = page.file.src_uri
    return in_site(markdown, names.get(path, f"docs/{path}".replace(os.sep, "/")))
