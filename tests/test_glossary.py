"""docs/glossary.md against the code: each thing that has a name there exists, and each that exists has a line."""

import ast
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
from abfleet_analysis.decision.metrics import BUILT_IN
from abfleet_analysis.decision.verdicts import Verdict
from abfleet_log.outcome import BUILT_IN_TYPES
from abfleet_log.schema import EVENTS, FALLBACKS, REASONS
from abfleet_router.metrics import RouterMetrics
from abfleet_transport.rpc_metrics import RpcMetrics
from abfleet_worker.metrics import FollowerCounters, WorkerMetrics

from tests.dashboard.made import in_its_first_day, made_interleaving, made_report

ROOT = Path(__file__).parents[1]
PRODUCT = ("abfleet", "dashboard", "experiments", "models", "protos/abfleet_client", "router", "transport", "worker")
PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (?P<term>[^|]+?) \| (?P<meaning>[^|]+?) \|$", re.MULTILINE)
FAMILY = re.compile(r"(?:abfleet|grpc)_[a-z0-9_]+")


def sections() -> dict[str, dict[str, str]]:
    """Heading to term and meaning; a term in backticks is without them."""
    found = {}
    for part in PAGE.split("\n## ")[1:]:
        heading, _, body = part.partition("\n")
        table = body.partition("\n|---|---|\n")[2]
        found[heading] = {row["term"].strip("`"): row["meaning"] for row in ROW.finditer(table)}
    return found


SECTIONS = sections()


@cache
def trees() -> tuple[tuple[Path, ast.Module], ...]:
    """The modules of the product, without generated code."""
    paths = [path for room in PRODUCT for path in sorted((ROOT / room).rglob("*.py"))]
    return tuple((path, ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


def keys_of(value: object, data: frozenset[str], path: str = "") -> Iterator[str]:
    """Every key of a document, as `groups[].name`; keys that are among `data` are names of groups, not of ours."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in data:
                yield f"{path}.{key}".lstrip(".")
                yield from keys_of(inner, data, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from keys_of(inner, data, f"{path}[]")


def report_keys() -> set[str]:
    """Every key of the JSON report with details; those of an experiment without the list that it is in."""
    made = made_report()
    experiments = (in_its_first_day(made.experiments[0]), *made.experiments, made_interleaving())
    report = dataclasses.replace(made, experiments=experiments)
    groups = frozenset(group for one in experiments for group in one.gathered.evidence.groups)
    found = set(keys_of(report.as_dict(detailed=True), groups))
    return {key.removeprefix("experiments[].") for key in found}


def prometheus_families() -> set[str]:
    """The families of all processes: named where they are made, or by collectors that compose the names."""
    found = set()
    for _, tree in trees():
        imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        if not any(name.endswith("MetricFamily") for name in imported):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str) and FAMILY.fullmatch(first.value):
                    found.add(first.value)
    collectors = (
        RouterMetrics(),
        RpcMetrics(("/Recommender/Recommend",)),
        WorkerMetrics(lambda: ("v1", "0" * 64), FollowerCounters()),
    )
    found |= {family.name for collector in collectors for family in collector.collect()}
    return found


def family_of(name: str) -> str:
    """The family of a name as Prometheus shows it."""
    return {"abfleet_config_info": "abfleet_config"}.get(name, name.removesuffix("_total"))


@pytest.mark.parametrize(
    ("section", "exists"),
    [
        ("Verdicts", lambda: {str(verdict) for verdict in Verdict}),
        ("Built-in metrics", lambda: set(BUILT_IN)),
        ("Events of the decision log", lambda: set(EVENTS)),
        ("Fields of the decision log", lambda: {field.name for event in EVENTS.values() for field in event.fields}),
        ("Reasons", lambda: set(REASONS)),
        ("Fallbacks", lambda: set(FALLBACKS)),
        ("Outcome types", lambda: set(BUILT_IN_TYPES)),
        ("Keys of the report", report_keys),
    ],
)
def test_a_section_has_what_there_is_and_nothing_else(section: str, exists: Callable[[], set[str]]) -> None:
    """Verdicts, metrics, events, fields, reasons, fallbacks, outcome types and report keys: each has one line."""
    assert set(SECTIONS[section]) == exists()


def test_every_prometheus_metric_has_a_line() -> None:
    """Each family of router and worker is explained, under the name that Prometheus shows; no other is."""
    assert {family_of(name) for name in SECTIONS["Prometheus metrics"]} == prometheus_families()


def test_names_in_the_code_are_classes() -> None:
    """Each name under that heading is the name of exactly one class of the product."""
    defined = [node.name for _, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert {name: defined.count(name) for name in SECTIONS["Names in the code"] if defined.count(name) != 1} == {}


def test_no_class_name_stands_for_two_things() -> None:
    """No class name is defined twice in the product, private ones and those inside classes or functions included."""
    where: dict[str, list[str]] = {}
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {name: paths for name, paths in where.items() if len(paths) > 1} == {}


def test_each_meaning_is_a_sentence() -> None:
    """Each line says something: it begins with a capital letter or a number and ends with a full stop."""
    for section, rows in SECTIONS.items():
        for term, meaning in rows.items():
            assert re.fullmatch(r"([A-Z0-9`]|gRPC|z ).* .*\.", meaning), f"{section}: {term}"


def test_terms_are_in_order() -> None:
    """What is looked up by its name is in the order of the alphabet."""
    for section in ("Experiments", "Routing", "Statistics", "Names in the code"):
        terms = [re.sub(r"[^a-z]", "", term.lower()) for term in SECTIONS[section]]
        assert terms == sorted(terms), section
