"""What a compiled wheel is made of. That it does what the sources do is `./run prove compiled`."""

import ast
import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.compiled import MODULES, PROJECT, ROOT, name_of

SECONDS = 300
LIBRARY = {"Exception", "Generic", "Protocol", "NamedTuple", "Enum", "IntEnum"}
"""Bases that mypyc has for its own."""
TREES = {module: ast.parse((ROOT / module).read_text()) for module in MODULES}
OURS = {node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
SMALL = "transport/abfleet_transport/histogram.py"
HEADERS = "import sysconfig, pathlib; print((pathlib.Path(sysconfig.get_path('include')) / 'Python.h').is_file())"
TRY = """
import hatch_build, sys
from pathlib import Path
print(hatch_build.compile_modules([sys.argv[2]], ["transport"], Path(sys.argv[1])))
"""
USE = """
from abfleet_transport.histogram import Histogram
found = Histogram([1.0, 2.0])
found.observe_all([0.5, 1.0, 3.0])
print(found.counts, found.total, type(Histogram.observe).__name__)
"""


@pytest.mark.parametrize("module", MODULES)
def test_a_module_that_is_compiled_keeps_to_the_rules(module: str) -> None:
    """It is part of the wheel and loads; it has no coroutine, and no class of a base that mypyc does not know."""
    assert any(module.startswith(f"{package}/") for package in PROJECT["packages"])
    importlib.import_module(name_of(module))
    for node in ast.walk(TREES[module]):
        assert not isinstance(node, (ast.AsyncFunctionDef, ast.Await)), f"line {node.lineno}"
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).partition("[")[0] for base in node.bases}
            assert bases <= OURS | LIBRARY, node.name


def test_no_other_module_subclasses_a_compiled_class() -> None:
    """Python's classes cannot: the module would not load. Protocols are no classes of mypyc's own."""
    compiled = {
        f"{name_of(module)}.{node.name}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not any("Protocol" in ast.unparse(base) for base in node.bases)
    }
    for file in (file for package in PROJECT["packages"] for file in (ROOT / package).rglob("*.py")):
        if file.relative_to(ROOT).as_posix() in TREES:
            continue
        tree = ast.parse(file.read_text())
        names = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        bases = [base for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for base in node.bases]
        assert not {names.get(ast.unparse(base).partition("[")[0]) for base in bases} & compiled, file


def test_the_list_is_in_order() -> None:
    """One line a module, sorted: a merge of two changes keeps it so."""
    assert list(MODULES) == sorted(set(MODULES))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ABFLEET_COMPILE": "yes"}, "ABFLEET_COMPILE: 'yes'; allowed: 0, 1"),
        (
            {"ABFLEET_COMPILE": "1", "CC": "no-such-compiler -x"},
            "'no-such-compiler -x' is not a program; install a C compiler",
        ),
    ],
)
def test_what_cannot_be_built_says_why(variables: dict[str, str], said: str, tmp_path: Path) -> None:
    """Before anything is compiled."""
    done = _hatchling(tmp_path, **variables)
    assert done.returncode != 0
    assert said in done.stderr
    assert list(tmp_path.glob("*.whl")) == []


def test_without_the_variable_no_compiler_is_needed(tmp_path: Path) -> None:
    """The wheel is for every machine, and holds the sources alone."""
    done = _hatchling(tmp_path, CC="no-such-compiler")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith((".so", ".pyd", ".c"))]


def test_a_module_is_compiled(tmp_path: Path) -> None:
    """It does what its source does, from a file beside it."""
    if shutil.which("cc") is None or _python("-c", HEADERS).stdout.strip() != "True":
        pytest.skip("no C compiler here, or no headers of Python")
    done = _python("-c", TRY, tmp_path, SMALL)
    assert done.returncode == 0, done.stderr
    library = Path(done.stdout.splitlines()[-1])
    assert [path.name.partition(".")[0] for path in library.glob("abfleet_transport/*")] == ["histogram"]
    package = library / "abfleet_transport"
    (package / "__init__.py").touch()
    used = _python("-c", USE, PYTHONPATH=str(library), cwd=tmp_path)
    assert used.stdout == "[2, 0, 1] 4.5 method_descriptor\n", used.stderr


def _hatchling(dist: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return _python("-m", "hatchling", "build", "--target", "wheel", "--directory", dist, **variables)


def _python(*words: str | Path, cwd: Path = ROOT, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "ABFLEET_COMPILE"} | variables,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
