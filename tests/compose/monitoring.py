"""Reads rules and dashboards for the tests: which queries there are. Knows files, asks nobody."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).resolve().parents[2] / "compose"
RULES = COMPOSE / "prometheus" / "rules" / "abfleet.rules.yml"
RULE_TESTS = tuple(sorted((COMPOSE / "prometheus" / "tests").glob("*.test.yml")))
DASHBOARDS = tuple(sorted((COMPOSE / "grafana" / "dashboards").glob("*.json")))
# What an alert compares, without the comparison: `a > 1 and on () b == 0` has the operands `a` and `b`.
BETWEEN_OPERANDS = re.compile(
    r"\s+(?:==|>|<)\s+[\d.]+(?:\s+and(?:\s+on\s*\([^)]*\))?\s+|\s*$)",
)
STAND_INS = {"$__rate_interval": "1m", "$experiment": ".+"}
"""What Grafana puts in the place of its variables; with `All` chosen, `$experiment` is the variable's allValue."""


def rules() -> list[dict[str, Any]]:
    """Every rule, recording and alerting."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """The alerting rules."""
    return [rule for rule in rules() if "alert" in rule]


def operands(expression: str) -> list[str]:
    """What an alert looks at: each of these has data whether it fires or not."""
    return [part for part in BETWEEN_OPERANDS.split(expression.strip()) if part]


def panels() -> list[tuple[str, dict[str, Any]]]:
    """(uid of the dashboard, panel) for every panel."""
    documents = [json.loads(path.read_text()) for path in DASHBOARDS]
    return [(document["uid"], panel) for document in documents for panel in document["panels"]]


def panel_queries() -> list[tuple[str, str]]:
    """(where it stands, the query as Grafana would send it) for every target of every panel."""
    found = []
    for uid, panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            for variable, value in STAND_INS.items():
                query = query.replace(variable, value)
            found.append((f"{uid}: {panel['title']} {target['refId']}", query))
    return found


def rule_queries() -> list[tuple[str, str]]:
    """(name, query) for every recording rule, and for every operand of every alert."""
    found = [(rule["record"], rule["expr"]) for rule in rules() if "record" in rule]
    return found + [(rule["alert"], part) for rule in alerts() for part in operands(rule["expr"])]
