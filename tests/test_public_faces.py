"""What each package and folder shows to others is what its `__init__` names, and naming it costs an import nothing.

The client is a library: its `__init__` names classes, which are loaded when they are asked for."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.import_graph import ROOT, Module, modules

HEAVY = ("duckdb", "pyarrow", "ibis", "numpy", "scipy", "pandas", "onnxruntime", "onnx", "opentelemetry")


@cache
def product() -> dict[str, Module]:
    """Every module of the product by name."""
    return modules()


@cache
def named(package: str) -> frozenset[str]:
    """What the `__init__` of a package or folder lists in `__all__`."""
    for node in ast.parse((ROOT / product()[package].path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == ["__all__"]:
            return frozenset(ast.literal_eval(node.value))
    return frozenset()


LIBRARY = "abfleet_client"


def is_package(name: str) -> bool:
    return name in product() and product()[name].path.name == "__init__.py"


def folder_of(name: str) -> str:
    """The package's own folder that a module stands in: `package.folder`, or the package."""
    parts = name.split(".")
    inside = 2 if len(parts) > 2 or (len(parts) == 2 and is_package(name)) else 1
    return ".".join(parts[:inside])


def faces_crossed(importer: str, imported: str) -> Iterator[tuple[str, str]]:
    """The faces that an import goes through: a package or folder, and the name that it must show."""
    parts = imported.split(".")
    if importer.split(".")[0] != parts[0] and len(parts) > 1:
        yield parts[0], parts[1]
    if len(parts) > 2 and folder_of(importer) != folder_of(imported):
        yield ".".join(parts[:2]), parts[2]


def test_others_import_only_what_is_public() -> None:
    """An import from another package, or from another folder of the same one, ends at a name of that `__init__`."""
    hidden = {
        f"{module.path}: {imported}"
        for module in product().values()
        for imported in module.imports
        if not imported.startswith("abfleet_protos")  # generated, all of it a contract
        for face, name in faces_crossed(module.name, imported)
        if name not in named(face)
    }
    assert hidden == set()


def test_what_is_public_exists() -> None:
    """Each name in an `__all__` is a module or a folder there."""
    wrong = {
        f"{name}: {one}"
        for name in product()
        if is_package(name) and name != LIBRARY
        for one in named(name)
        if f"{name}.{one}" not in product()
    }
    assert wrong == set()


def test_every_name_of_the_client_is_there() -> None:
    """Each of its `__all__` can be imported and is what a type checker sees; no other is."""
    client = importlib.import_module(LIBRARY)
    assert set(client.__all__) == set(client._MODULES)
    assert all(getattr(client, name) is not None for name in client.__all__)
    (types,) = [node for node in ast.parse(Path(client.__file__ or "").read_text()).body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in types.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {name: f"{LIBRARY}.{module}" for name, module in client._MODULES.items()}
    with pytest.raises(AttributeError, match="Recommenders"):
        _ = client.Recommenders


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a statement leaves imported in a process of its own."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


@pytest.mark.parametrize("package", sorted({name.partition(".")[0] for name in modules()} - {"abfleet_protos"}))
def test_a_package_itself_is_light(package: str) -> None:
    """Importing a package, and nothing in it, imports nothing but Python's own library."""
    ours = {name.partition(".")[0] for name in product()}
    third = loaded_by(f"import {package}") - loaded_by("pass") - set(sys.stdlib_module_names) - ours
    assert third == set()


def test_the_router_loads_no_analysis_and_no_exporter() -> None:
    """A router without tracing has nothing of a database, of numbers in arrays or of OpenTelemetry in memory."""
    assert loaded_by("import abfleet_router.app").isdisjoint(HEAVY)


def test_the_worker_loads_no_analysis() -> None:
    """A worker has ONNX Runtime and numpy, and nothing of the analysis."""
    unwanted = set(HEAVY) - {"numpy", "onnxruntime"}
    assert loaded_by("import abfleet_worker.app").isdisjoint(unwanted)
