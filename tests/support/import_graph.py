"""Who imports whom in the product, file by file: circles, imports upwards, crowded folders, and each package's size.

`python -m tests.support.import_graph` prints all four, and `--quiet` only what is wrong. It exits with 1 where there is
something wrong: a circle that is not in ALLOWED, an entry of ALLOWED that closes no circle any more, an import from a
lower package to a higher one. import-linter sees no circle between the files of one folder, so this does. Every import
counts, those for type checking alone and those inside functions too. Knows the sources as text; imports none of them.
"""

import argparse
import ast
import sys
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

LAYERS: Final = (
    ("abfleet",),
    ("abfleet_router", "abfleet_worker", "abfleet_dashboard", "abfleet_autopilot"),
    ("abfleet_analysis",),
    ("abfleet_log", "abfleet_statistics", "abfleet_transport"),
    ("abfleet_client", "abfleet_experiments", "abfleet_models"),
    ("abfleet_process", "abfleet_protos"),
)
"""Packages from top to bottom. A package imports what is below it, and none of those beside it."""

ALLOWED: Final[frozenset[tuple[str, str]]] = frozenset()
"""Imports that close a circle and may do so until they are gone: who imports, and what."""

MOST_FILES: Final = 15
"""Python files in a folder, beside `__init__` and `__main__`."""
UNCOUNTED_FOLDERS: Final = frozenset({"abfleet/commands"})
"""One file a command: as many as there are commands."""
UNCOUNTED_FILES: Final = frozenset({"__init__.py", "__main__.py"})
GENERATED: Final = "_pb2"

Edge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Module:
    """One file of the product.

    Attributes:
        name: As it is imported; of `__init__.py` that is the package.
        path: From the top of the repository.
        imports: The modules of the product that it imports.
    """

    name: str
    path: Path
    lines: int
    imports: frozenset[str]

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]


def modules(root: Path = ROOT) -> dict[str, Module]:
    """Every module of every package in the wheels, by name."""
    packages = [
        folder / name
        for folder in (root, root / "protos")
        for name in tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"][
            "targets"
        ]["wheel"]["packages"]
    ]
    paths = {
        name_of(path.relative_to(package.parent)): path
        for package in packages
        for path in sorted(package.rglob("*.py"))
        if GENERATED not in path.name
    }
    found = {}
    for name, path in paths.items():
        text = path.read_text(encoding="utf-8")
        imports = frozenset(imported(ast.parse(text), name, path.name == "__init__.py", paths)) - {name}
        found[name] = Module(name, path.relative_to(root), len(text.splitlines()), imports)
    return found


def name_of(path: Path) -> str:
    """The dotted name of a file, whose path begins with its package."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, name: str, is_package: bool, known: Mapping[str, object]) -> Iterator[str]:
    """The known modules that a module imports, anywhere in its text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (found for alias in node.names if (found := nearest(alias.name, known)) is not None)
        elif isinstance(node, ast.ImportFrom):
            of = absolute(node, name, is_package)
            for alias in node.names:
                # What is imported is a module of its own, or something that one defines.
                if (found := nearest(f"{of}.{alias.name}", known)) is not None:
                    yield found


def absolute(node: ast.ImportFrom, name: str, is_package: bool) -> str:
    """The module that a statement imports from, its leading dots resolved."""
    if not node.level:
        return node.module or ""
    above = name.split(".")[: len(name.split(".")) - node.level + is_package]
    return ".".join([*above, *([node.module] if node.module else [])])


def nearest(name: str, known: Mapping[str, object]) -> str | None:
    """The longest beginning of a dotted name that is a known module."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


# --- circles ---------------------------------------------------------------------------------------------------------


def circles(edges: Mapping[str, frozenset[str]]) -> list[list[str]]:
    """For each module of a circle that no other one found names already, the shortest way from it back to itself."""
    found: list[list[str]] = []
    covered: set[str] = set()
    for start in sorted(edges):
        if start not in covered and (way := way_back(start, edges)) is not None:
            found.append(way)
            covered |= set(way)
    return found


def way_back(start: str, edges: Mapping[str, frozenset[str]]) -> list[str] | None:
    """The shortest way along imports from a module to itself, without its end; None where there is none."""
    came_from: dict[str, str] = {}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        for there in sorted(edges.get(here, ())):
            if there == start:
                way = [here]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if there not in came_from:
                came_from[there] = here
                waiting.append(there)
    return None


def reaches(start: str, goal: str, edges: Mapping[str, frozenset[str]]) -> bool:
    """Whether a way along imports leads from one module to another."""
    seen, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        if here == goal:
            return True
        waiting += edges.get(here, frozenset()) - seen
        seen |= edges.get(here, frozenset())
    return False


def without(edges: Mapping[str, frozenset[str]], left_out: frozenset[Edge]) -> dict[str, frozenset[str]]:
    """The graph without some of its imports."""
    return {name: frozenset(to for to in found if (name, to) not in left_out) for name, found in edges.items()}


def stale(edges: Mapping[str, frozenset[str]], allowed: frozenset[Edge]) -> list[Edge]:
    """Allowed imports that are gone, or close no circle with what is left."""
    return sorted(
        (importer, to)
        for importer, to in allowed
        if to not in edges.get(importer, ()) or not reaches(to, importer, edges)
    )


# --- the other questions ---------------------------------------------------------------------------------------------


def upwards(found: Mapping[str, Module], layers: Sequence[Sequence[str]] = LAYERS) -> list[Edge]:
    """Imports of a higher package, or of one on the same line."""
    depth = {package: number for number, packages in enumerate(layers) for package in packages}
    wrong = []
    for module in found.values():
        for other in sorted(module.imports):
            package = found[other].package
            if package != module.package and depth.get(package, -1) <= depth.get(module.package, -1):
                wrong.append((module.name, other))
    return sorted(wrong)


def crowded(found: Mapping[str, Module]) -> list[tuple[str, int]]:
    """Folders with too many files, and how many they have."""
    counts: dict[str, int] = {}
    for module in found.values():
        if module.path.name not in UNCOUNTED_FILES:
            folder = module.path.parent.as_posix()
            counts[folder] = counts.get(folder, 0) + 1
    return sorted((name, n) for name, n in counts.items() if n > MOST_FILES and name not in UNCOUNTED_FOLDERS)


def shares(found: Mapping[str, Module]) -> list[tuple[str, int, float]]:
    """Each package with its lines and its part of all of them, the largest first."""
    lines: dict[str, int] = {}
    for module in found.values():
        lines[module.package] = lines.get(module.package, 0) + module.lines
    total = sum(lines.values())
    return sorted(((name, n, n / total) for name, n in lines.items()), key=lambda one: -one[1])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.import_graph", description="Who imports whom.")
    parser.add_argument("--quiet", action="store_true", help="print only what is wrong")
    parser.add_argument("--root", type=Path, default=ROOT, help="the top of another checkout")
    options = parser.parse_args(arguments)
    found = modules(options.root)
    edges = {name: module.imports for name, module in found.items()}
    wrong = [f"circle: {' -> '.join([*way, way[0]])}" for way in circles(without(edges, ALLOWED))]
    wrong += [f"allowed, but closes no circle any more: {one} -> {other}" for one, other in stale(edges, ALLOWED)]
    wrong += [f"upwards: {one} -> {other}" for one, other in upwards(found)]
    for line in wrong:
        print(line)
    if not options.quiet:
        tolerated = sorted(ALLOWED - set(stale(edges, ALLOWED)))
        print(f"circles: {len(circles(without(edges, ALLOWED)))}, and {len(tolerated)} imports that may close one:")
        for one, other in tolerated:
            print(f"  {one} -> {other}")
        print(f"imports upwards: {len(upwards(found))}")
        print(f"folders of more than {MOST_FILES} files: {len(crowded(found))}")
        for folder, count in crowded(found):
            print(f"  {folder}: {count}")
        print(f"lines: {sum(module.lines for module in found.values())}")
        for package, count, share in shares(found):
            print(f"  {package}: {count}, {share:.1%}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
