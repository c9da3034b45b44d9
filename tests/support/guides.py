"""Somebody who follows docs/guides from a model to a conclusion, by the pages' own blocks and commands.

Blocks of Python and YAML become the files that they are named after; commands run in a shell. What the page calls
`python` is the interpreter that has what a script needs: training libraries, Triton's client, or ours. Ports are free.
"""

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.oip_tools import PYTHON as TRITON
from tests.support.process import ROOT, Process
from tests.support.shell import in_shell

GUIDES = ROOT / "docs" / "guides"
TRAINING = ROOT / ".cache" / "guides" / "bin" / "python"
TORCH = ROOT / ".cache" / "torch" / "bin" / "python"
FIRST = "first-experiment.md"
ADDRESS = "127.0.0.1:50051"
"""That the pages call."""
FREE = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--metrics-port", "0", "--worker-port", "0")
SECONDS = 100
USERS = 2000
"""That the page's scripts call for."""


NAMED = (
    ("item_ids=history(draw)", "items=history(draw)"),
    ("answer.item_ids", "answer.items"),
    ('"item_id"', '"item_name"'),
)
"""What factors.md says to change where items have names."""


@dataclass(frozen=True, slots=True)
class Model:
    """One model of a guide."""

    name: str
    page: str
    script: str
    """That makes it; `inputs.py` is the block after it."""
    is_recommender: bool = False
    names: str = ""
    """The script that gives items names; `inputs.py` is then the block after that. Empty where they have numbers."""
    python: Path = TRAINING

    @property
    def calling(self) -> str:
        """The script that calls it."""
        return "recommend.py" if self.is_recommender else "call.py"

    @property
    def missing(self) -> str:
        """Why it cannot be made here; empty where it can."""
        if not self.python.exists():
            return f"{self.python.parts[-3]} is not here: ./run {self.python.parts[-3]}-tools fetches it"
        if not self.is_recommender and not TRITON.exists():
            return "tritonclient is not here: ./run oip-tools fetches it"
        return ""


MODELS = (
    Model("recommender of factors", "factors.md", "make_factors.py", is_recommender=True),
    Model("items by name", "factors.md", "make_factors.py", is_recommender=True, names="name_items.py"),
    Model("classifier of five features", "scikit-learn.md", "make_classifier.py"),
    Model("ranker of candidates", "scikit-learn.md", "make_ranker.py"),
    Model("two inputs", "scikit-learn.md", "make_two_inputs.py"),
    Model("LightGBM", "gradient-boosting.md", "make_lightgbm.py"),
    Model("PyTorch: recommender", "pytorch.md", "make_recommender.py", is_recommender=True, python=TORCH),
    Model("PyTorch: two towers", "pytorch.md", "make_two_towers.py", python=TORCH),
)


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of a guide, in order."""
    text = (GUIDES / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def files(page: str, first: str = "") -> dict[str, str]:
    """Blocks of Python by the name in their first line; those from `first` on, of one name the first counts."""
    found: dict[str, str] = {}
    for language, text in blocks(page):
        named = re.match(r"# (\S+\.py)\n", text)
        if language == "python" and named and (found or not first or named[1] == first):
            found.setdefault(named[1], text)
    return found


def command(page: str, mark: str) -> str:
    """The one block of commands that has `mark` in it."""
    (found,) = [text for language, text in blocks(page) if language == "sh" and mark in text]
    return found


@dataclass
class Newcomer:
    """Has one model, a folder and a shell."""

    model: Model
    folder: Path
    users: int = USERS
    seconds: float = 0.0
    """Of commands so far, but for what runs until it is stopped."""
    environment: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        tools = self.folder / "tools"
        tools.mkdir()
        shims = {
            "abfleet": f'exec {sys.executable} -m abfleet "$@"\n',
            "python": (
                f'case $1 in make_*) exec {self.model.python} "$@" ;; call.py) exec {TRITON} "$@" ;; esac\n'
                f'exec {sys.executable} "$@"\n'
            ),
        }
        for name, text in shims.items():
            (tools / name).write_text(f"#!/bin/sh\n{text}")
            (tools / name).chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ABFLEET_")}
        self.environment = {**kept, "PATH": f"{tools}:{kept['PATH']}", "COLUMNS": "200"}

    def sh(self, text: str) -> str:
        """What commands print; a failure shows all they said."""
        begun = time.monotonic()
        printed = in_shell(text, self.folder, self.environment, SECONDS)
        self.seconds += time.monotonic() - begun
        return printed

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def make(self) -> None:
        """The guide of the model: old.onnx, new.onnx and inputs.py."""
        for script in filter(None, (self.model.script, self.model.names)):
            found = files(self.model.page, script)
            self.write(script, found[script])
            self.write("inputs.py", found["inputs.py"])
            self.sh(f"python {script}")

    def add(self) -> str:
        """Step 1; what it says."""
        return self.sh(command(FIRST, "models add"))

    def configure(self) -> None:
        """Step 2."""
        (text,) = [text for language, text in blocks(FIRST) if language == "yaml"]
        if self.model.is_recommender:
            assert "primary: conversion_rate" in text
            text = text.replace("primary: conversion_rate", "primary: ctr")
        self.write("experiments.yaml", text)
        self.sh(command(FIRST, "abfleet validate"))

    def serve_and_call(self) -> None:
        """Steps 3 and 4: served as long as it is called."""
        words = command(FIRST, "abfleet up").split()
        assert words[:2] == ["abfleet", "up"]
        begun = time.monotonic()
        process = Process("up", "abfleet", ("up", *FREE, "--dashboard-port", "off", *words[2:]), self.folder)
        try:
            address = process.ready()[1]
            self.seconds += time.monotonic() - begun
            text = files(FIRST)[self.model.calling].replace(ADDRESS, address)
            assert address in text
            for old, new in NAMED if self.model.names else ():
                assert old in text
                text = text.replace(old, new)
            assert f"range({USERS})" in text
            self.write(self.model.calling, text.replace(f"range({USERS})", f"range({self.users})"))
            self.sh(command(FIRST, "python call.py").replace("call.py", self.model.calling))
        finally:
            assert process.stop() == 0
        self.sh(command(FIRST, "import-outcomes"))

    def conclude(self) -> list[str]:
        """Step 5: what the three commands print."""
        text = command(FIRST, "logs tail")
        tail, analyze = text.strip().splitlines()
        return [self.sh(tail), self.sh(analyze), self.sh(command(FIRST, "--as-of"))]


def skip_if_missing(model: Model) -> None:
    """Skips a test, with the reason, where a model cannot be made here."""
    if model.missing:
        pytest.skip(model.missing)
