"""docs/python-api.md: what Python programs may import, with signatures and docstrings, read from the sources."""

import ast
import inspect
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.process import ROOT


@dataclass(frozen=True, slots=True)
class PublicModule:
    """One module of the page, or a package whose names are defined in its modules.

    Attributes:
        path: A file, or the folder of a package.
        needs: What stands after `abfleet` where it is installed: `[extra]` or the rest of another distribution's name.
        names: What of it is public; of `Class.method` that method alone, and no field.
    """

    name: str
    path: str
    needs: str
    names: tuple[str, ...]


PUBLIC = (
    PublicModule(
        "abfleet_client",
        "protos/abfleet_client",
        "-client",
        (
            "Recommender",
            "AsyncRecommender",
            "Recommendation",
            "Inference",
            "Tensor",
            "Outcome",
            "OutcomeTally",
            "SendingPolicy",
            "ClientCredentials",
            "CurrentToken",
            "ClientError",
            "InvalidArgument",
            "CallFailed",
            "OutcomesLost",
        ),
    ),
    PublicModule(
        "abfleet_experiments.file.load",
        "experiments/abfleet_experiments/file/load.py",
        "[experiments]",
        ("load", "load_text"),
    ),
    PublicModule(
        "abfleet_experiments.file.errors",
        "experiments/abfleet_experiments/file/errors.py",
        "[experiments]",
        ("ConfigErrors", "ConfigError"),
    ),
    PublicModule(
        "abfleet_experiments.assign",
        "experiments/abfleet_experiments/assign.py",
        "[experiments]",
        ("Assigner.assign", "Arm"),
    ),
    PublicModule(
        "abfleet_analysis.analyse", "experiments/abfleet_analysis/analyse.py", "[analysis]", ("analyse", "report_on")
    ),
    PublicModule(
        "abfleet_analysis.reading.open_log",
        "experiments/abfleet_analysis/reading/open_log.py",
        "[analysis]",
        ("log_in",),
    ),
    PublicModule(
        "abfleet_analysis.report.report",
        "experiments/abfleet_analysis/report/report.py",
        "[analysis]",
        ("Report.as_dict",),
    ),
)
WIDTH = 100
Function = ast.FunctionDef | ast.AsyncFunctionDef
HEAD = """\
# Python

<!-- Made from the code by `./run reference`; do not edit. -->

What Python programs may import; [versioning](versioning.md) says what is promised of it. Everything else is the inside
of the product and may change in any version. The messages and stubs of `abfleet_protos` are generated from
[protos/](../protos), which is their reference.

| module | install | what |
|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows, sections = [], []
    for module in PUBLIC:
        trees = [ast.parse(path.read_text(encoding="utf-8")) for path in _files(ROOT / module.path)]
        first = (ast.get_docstring(trees[0]) or "").split("\n\n")[0]
        install = f"abfleet{module.needs}"
        anchor = re.sub(r"[^\w\- ]", "", module.name)
        rows.append(f"| [`{module.name}`](#{anchor}) | `{install}` | {' '.join(first.split())} |")
        sections.append("\n".join(_module(module, trees)))
    return HEAD + "\n".join([*rows, "", *sections])


def _files(path: Path) -> list[Path]:
    """The module, or those of a package, its `__init__` first."""
    return sorted(path.glob("*.py")) if path.is_dir() else [path]


def _module(module: PublicModule, trees: Sequence[ast.Module]) -> Iterator[str]:
    yield f"## {module.name}\n\n{_prose(ast.get_docstring(trees[0]))}\n"
    found = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef | Function)}
    for name in module.names:
        name, _, method = name.partition(".")
        node = found[name]
        if isinstance(node, ast.ClassDef):
            yield from _class(node, only=method)
        else:
            yield _function(node, "###")


def _class(node: ast.ClassDef, *, only: str) -> Iterator[str]:
    init = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    shown = f"class {node.name}{bases}" if bases or init is None else _signature(init, f"class {node.name}")
    yield f"### {node.name}\n\n```python\n{shown}\n```\n\n{_prose(ast.get_docstring(node))}\n"
    if init is not None and ast.get_docstring(init):
        yield f"{_prose(ast.get_docstring(init))}\n"
    rows = [] if only else [*_fields(node.body), *_fields(init.body if init else ())]
    if rows:
        yield "\n".join(["| field | type | default | what |", "|---|---|---|---|", *rows, ""])
    for one in node.body:
        if isinstance(one, Function) and not one.name.startswith("_") and only in ("", one.name):
            yield _function(one, "####", of=node.name)


def _fields(body: Sequence[ast.stmt]) -> Iterator[str]:
    """A row for each field that is declared, and for each attribute that a constructor documents."""
    for one, after in zip(body, [*body, None][1:], strict=True):
        text = _docstring_of(after)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and not one.target.id.startswith("_"):
            default = f"`{_cell(_default(one.value))}`" if one.value is not None and _default(one.value) else ""
            kind = f"`{_cell(ast.unparse(one.annotation))}`"
            yield f"| `{one.target.id}` | {kind} | {default} | {_cell(_prose(text))} |"
        elif isinstance(one, ast.Assign) and isinstance(one.targets[0], ast.Attribute) and text:
            yield f"| `{one.targets[0].attr}` |  |  | {_cell(_prose(text))} |"


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, heading: str, *, of: str = "") -> str:
    name = f"{of}.{node.name}" if of else node.name
    is_property = any(ast.unparse(one) == "property" for one in node.decorator_list)
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    shown = _signature(node, f"{word} {node.name}")
    if is_property and node.returns:
        shown = f"{node.name}: {ast.unparse(node.returns)}"
    return f"{heading} {name}\n\n```python\n{shown}\n```\n\n{_prose(ast.get_docstring(node))}\n"


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, begin: str) -> str:
    """In one line, or where that is long a line for each parameter. Without `self`."""
    every = node.args
    plain = [*every.posonlyargs, *every.args]
    missing = len(plain) - len(every.defaults)
    parts = [
        _parameter(one, every.defaults[index - missing] if index >= missing else None)
        for index, one in enumerate(plain)
        if one.arg != "self"
    ]
    if every.kwonlyargs:
        parts.append("*")
    parts += [_parameter(one, default) for one, default in zip(every.kwonlyargs, every.kw_defaults, strict=True)]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and not begin.startswith("class") else ""
    line = f"{begin}({', '.join(parts)}){returns}"
    return line if len(line) <= WIDTH else f"{begin}(\n{''.join(f'    {part},{chr(10)}' for part in parts)}){returns}"


def _parameter(one: ast.arg, default: ast.expr | None) -> str:
    kind = f": {ast.unparse(one.annotation)}" if one.annotation else ""
    return f"{one.arg}{kind}" + (f" = {ast.unparse(default)}" if default is not None else "")


def _default(value: ast.expr) -> str:
    """A default as it reads: a factory by what it makes."""
    text = ast.unparse(value)
    made = re.fullmatch(r"field\(default_factory=(\w+)\)", text)
    if made:
        return {"dict": "{}", "list": "[]"}.get(made[1], f"{made[1]}()")
    return text


def _docstring_of(after: ast.stmt | None) -> str | None:
    """The text in the statement after a field."""
    if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
        return inspect.cleandoc(after.value.value)
    return None


def _prose(text: str | None) -> str:
    """A docstring as Markdown: attributes and parameters as a list."""
    lines: list[str] = []
    in_list = False
    for line in re.sub(r"(Attributes|Args):\n", "\n", text or "").splitlines():
        item = re.match(r" *([a-z_]+(?:, [a-z_]+)*): (.*)", line)
        in_list = bool(item) or (in_list and bool(line.strip()))
        if item:
            lines.append(f"- {', '.join(f'`{name}`' for name in item[1].split(', '))}: {item[2]}")
        else:
            lines.append(f"  {line.strip()}" if in_list else line)
    return "\n".join(lines).strip()


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
