"""Every block of code and every command on the pages: run by a test or marked as not run, and in any case of today.

A block of commands or of a program that no test runs has a line `<!-- not run: why -->` above it. Whether run or not,
commands name commands and options that exist, Python imports what exists, and YAML and JSON can be read.
"""

import ast
import importlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from abfleet.cli import app
from tests.support.process import ROOT
from tests.support.reference.cli_page import SERVERS

MADE = ("cli.md", "python-api.md")
"""Pages that are made from the code."""
PAGES = sorted(path for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if path.name not in MADE)
BLOCK = re.compile(
    r"(?P<mark><!-- not run: [^\n]+ -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
PROGRAMS = ("sh", "console", "python", "js", "go", "java")
COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?P<program>abfleet|\./run) (?P<words>.+)$")
NOT_RUN = {"docs/dashboard.md": "servers that go on, and a token; tests/dashboard starts them in other ways"}
"""Pages whose blocks no test runs, each with the reason, beside the marks on the pages."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a page; `page` is its path from the root."""

    page: str
    language: str
    text: str
    is_marked: bool

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0][:40] if self.text else ''}"


def blocks() -> Iterator[Block]:
    for path in PAGES:
        for match in BLOCK.finditer(path.read_text(encoding="utf-8")):
            yield Block(path.relative_to(ROOT).as_posix(), match["language"], match["text"], match["mark"] is not None)


BLOCKS = tuple(blocks())


@cache
def running_tests() -> str:
    """The tests that take blocks of pages and run them."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py") if path != Path(__file__))
    return "\n".join(text for text in sources if "```" in text or "blocks(" in text)


def test_what_is_not_run_is_marked() -> None:
    """A block of commands or of a program is on a page that a test runs, or says why it is not run; so are commands."""
    silent = [
        str(block)
        for block in BLOCKS
        if (block.language in PROGRAMS or COMMAND.search(block.text.partition("\n")[0]))
        and not block.is_marked
        and block.page not in NOT_RUN
        and f'"{Path(block.page).name}"' not in running_tests()
    ]
    assert silent == []


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "python"], ids=str)
def test_python_is_of_today(block: Block) -> None:
    """It compiles, and what it imports of ours is there."""
    tree = compile(block.text, block.page, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("abfleet"):
            module = importlib.import_module(str(node.module))
            missing = [one.name for one in node.names if not hasattr(module, one.name)]
            assert missing == [] or all(importlib.import_module(f"{node.module}.{name}") for name in missing)


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language in ("yaml", "json")], ids=str)
def test_yaml_and_json_can_be_read(block: Block) -> None:
    """By their readers."""
    (yaml.safe_load if block.language == "yaml" else json.loads)(block.text)


# --- commands --------------------------------------------------------------------------------------------------------


@cache
def own_words() -> frozenset[str]:
    """The commands that `./run` itself has."""
    usage = subprocess.run([ROOT / "run"], capture_output=True, text=True, timeout=60, check=True).stdout
    return frozenset(line.split()[0] for line in usage.splitlines() if line.startswith("  "))


@cache
def options(path: tuple[str, ...]) -> frozenset[str] | None:
    """Every option of a command; None where there is no such command, or it is a family of commands."""
    command: Any = typer.main.get_command(app)
    for word in path:
        command = getattr(command, "commands", {}).get(word)
    if command is None or (hasattr(command, "commands") and path):
        return None
    found = {word for one in command.params for word in (*one.opts, *one.secondary_opts)}
    if path and path[-1] in SERVERS:
        for flag in SERVERS[path[-1]]({}).declared:
            found |= {f"--{flag.name}", f"--no-{flag.name}"}
    return frozenset({*found, "--help"})


def commands() -> Iterator[tuple[str, str]]:
    """Page and command, of blocks and of code in sentences."""
    for path in PAGES:
        text, page = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        for block in BLOCK.finditer(text):
            if block["language"] in ("sh", "console", ""):
                for line in block["text"].replace("\\\n", " ").splitlines():
                    for part in re.split(r" \| | && ", line):
                        yield page, part
        for code in re.findall(r"`([^`]+)`", BLOCK.sub("", text)):
            yield page, " ".join(code.split())


def mistake(command: str) -> str:
    """What is wrong with a command that begins with abfleet or ./run; empty where nothing is, or it is no command."""
    match = COMMAND.match(command)
    if match is None:
        return ""
    text = match["words"].partition("$(")[0].replace("…", "")
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # a quote that ends on another line
        words = text.split()
    if not words or (match["program"] == "./run" and words[0] in own_words() - {"up"}) or not words[0].islower():
        return ""
    path: tuple[str, ...] = () if words[0].startswith("-") else tuple(words[:1])
    if options(path) is None and len(words) > 1:
        path = tuple(words[:2])
    known = options(path)
    if known is None:
        return "" if len(words) == 1 and words[0] in ("models", "logs", "token") else "no such command"
    passed = words.index("--") if "--" in words else len(words)
    for given, allowed in ((words[:passed], known), (words[passed + 1 :], options(("router",)) or frozenset())):
        for word in given:
            name = word.partition("=")[0]
            if re.fullmatch(r"--?[a-z][a-z-]*", name) and name not in allowed:
                return f"no such option: {name}"
    return ""


def test_commands_and_options_exist() -> None:
    """In blocks and in sentences, on every page."""
    found = [f"{page}: {command}: {what}" for page, command in commands() if (what := mistake(command))]
    assert found == []


def test_a_mistake_in_a_command_would_be_found() -> None:
    """The search above finds what it is for."""
    assert mistake("abfleet analyze --log logs") == "no such option: --log"
    assert mistake("abfleet models promot v1") == "no such command"
    assert mistake("./run up -- --max-batches 64") == "no such option: --max-batches"
    assert mistake("abfleet up --replicas v1.3.0-beta=2 -- --max-batch 64") == ""
    assert sum(COMMAND.match(command) is not None for _, command in commands()) > 150


def test_variables_exist() -> None:
    """Each `ABFLEET_…` of the pages is read somewhere."""
    sources = [
        *(file for file in (ROOT / "compose").rglob("*") if "__pycache__" not in file.parts),
        ROOT / "run",
        *ROOT.glob("*/abfleet*/**/*.py"),
        *ROOT.glob("abfleet/**/*.py"),
        *(ROOT / "tests" / "benchmarks").glob("*.py"),
    ]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.is_file() and path.suffix != ".onnx")
    command: Any = typer.main.get_command(app)
    known = set(re.findall(r"ABFLEET_[A-Z_]+", text)) | {"ABFLEET_A_B"}
    pending = list(command.commands.values())
    while pending:
        one = pending.pop()
        pending += getattr(one, "commands", {}).values()
        known |= {parameter.envvar for parameter in one.params if parameter.envvar}
    for declared in SERVERS.values():
        known |= {f"ABFLEET_{flag.name.upper().replace('-', '_')}" for flag in declared({}).declared}
    mentioned = {
        name for path in PAGES for name in re.findall(r"ABFLEET_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8"))
    }
    assert mentioned - known == set()


OTHERS = {
    *("--build-arg", "--scale", "--grpc", "--grpc-port"),  # of docker-compose and of other model servers
    *("--a-b", "--max-waiting-"),  # of nothing: any option, the beginning of two
}
"""Options that sentences name and no command of ours has."""


@cache
def options_of_measurements() -> frozenset[str]:
    """What `./run prove NAME` and `./run bench` take, by their sources."""
    sources = (path for folder in ("proofs", "benchmarks") for path in (ROOT / "tests" / folder).glob("*.py"))
    declared = re.compile(r'add_argument\(\s*"(--[a-z][a-z-]*)"')
    return frozenset(name for path in sources for name in declared.findall(path.read_text(encoding="utf-8")))


def test_options_in_sentences_exist() -> None:
    """Code that begins with an option, such as `--log-dir logs`, names one of a command, a proof or a benchmark."""
    known = (OTHERS | options_of_measurements()).union(*(options(path) or () for path in paths()))
    found = []
    for path in PAGES:
        for code in re.findall(r"`(--[a-z][a-z-]*)[^`]*`", BLOCK.sub("", path.read_text(encoding="utf-8"))):
            if code not in known:
                found.append(f"{path.relative_to(ROOT)}: {code}")
    assert found == []


def paths() -> Iterator[tuple[str, ...]]:
    """Every command."""
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        yield (name,)
        for inner in getattr(command, "commands", ()):
            yield (name, inner)
