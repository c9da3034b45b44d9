"""docs/autopilot.md: the examples for Argo Rollouts and Flagger ask what the dashboard answers, in the form they take.

`./run prove rollouts` holds them against the projects' own schemas; here is the part of these that the examples use, in
words of our own.
"""

import re
from typing import Any

import pytest
from abfleet_dashboard import verdict_api
from abfleet_dashboard.verdict_api import verdict_of
from abfleet_process.notify.receivers import UrlReceiver

from tests.dashboard.test_verdict_api import NAME, ask, situation
from tests.proofs.rollouts import PAGE, spoilt
from tests.support.structural_schema import mistakes, objects_in

TEXT = {"type": "string"}
WHOLE = {"type": "integer"}
COUNT = {"x-kubernetes-int-or-string": True}


def an_object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def a_list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


PAIR = an_object("key", "value", key=TEXT, value=TEXT)
SECRET = an_object("key", "name", key=TEXT, name=TEXT)
WEB = an_object("url", url=TEXT, headers=a_list(PAIR), jsonPath=TEXT)
METRIC = an_object(
    *("name", "provider"),
    name=TEXT,
    interval=TEXT,
    failureLimit=COUNT,
    successCondition=TEXT,
    provider=an_object(web=WEB),
)
ARGUMENT = an_object("name", name=TEXT, value=TEXT, valueFrom=an_object(secretKeyRef=SECRET))
WEBHOOK = an_object(
    *("name", "url"),
    name=TEXT,
    url={**TEXT, "pattern": "^https?://"},
    timeout=TEXT,
    metadata={"type": "object"},
    type={
        **TEXT,
        "enum": ["confirm-rollout", "pre-rollout", "rollout", "confirm-promotion", "post-rollout", "rollback"],
    },
)
TARGET = an_object("kind", "name", apiVersion=TEXT, kind=TEXT, name=TEXT)
ANALYSIS = an_object(interval=TEXT, threshold=WHOLE, maxWeight=WHOLE, stepWeight=WHOLE, webhooks=a_list(WEBHOOK))
SCHEMAS = {
    "AnalysisTemplate": an_object("metrics", args=a_list(ARGUMENT), metrics=a_list(METRIC)),
    "Canary": an_object(
        *("targetRef", "service", "analysis"),
        targetRef=TARGET,
        service=an_object("port", port=WHOLE),
        analysis=ANALYSIS,
    ),
}
EXAMPLES = {one["kind"]: one for one in objects_in(PAGE)}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_examples_have_the_keys_that_controllers_read(kind: str) -> None:
    """And a misspelt one, wherever it stands, is found."""
    example = EXAMPLES[kind]
    assert list(mistakes(example["spec"], SCHEMAS[kind])) == []
    for what, changed in spoilt(example):
        assert list(mistakes(changed["spec"], SCHEMAS[kind])), what


def test_argo_reads_what_the_dashboard_tells() -> None:
    """The address is a route, the token is in the header that the dashboard takes, each argument that is used is
    declared, and the path leads to the member by which it goes on."""
    spec = EXAMPLES["AnalysisTemplate"]["spec"]
    (metric,) = spec["metrics"]
    web = metric["provider"]["web"]
    declared = {one["name"] for one in spec["args"]}
    assert set(re.findall(r"{{args\.(\w+)}}", str(spec))) == declared
    path = "/" + web["url"].split("/", 3)[3].replace("{{args.experiment}}", NAME)
    header = {one["key"]: one["value"].replace("{{args.token}}", "t") for one in web["headers"]}
    assert header == {"Authorization": "Bearer t"}
    told = ask(situation(), path, token="t")
    assert told.status == 401
    told = ask(situation(), path, token="t", given=header["Authorization"].removeprefix("Bearer "))
    member = re.fullmatch(r"{\$\.(\w+)}", web["jsonPath"])
    assert member is not None
    assert told.document[member[1]] is True
    assert metric["successCondition"] == "result == true"
    assert verdict_of(situation("errors"), NAME).document[member[1]] is False


def test_flagger_asks_where_a_post_is_answered() -> None:
    """With the token in the address: Flagger sends no header of one's own. 200 goes on, 409 does not."""
    (webhook,) = EXAMPLES["Canary"]["spec"]["analysis"]["webhooks"]
    assert UrlReceiver(webhook["url"], None)
    path, _, query = ("/" + webhook["url"].split("/", 3)[3]).partition("?")
    assert verdict_api.takes_post(path)
    token = query.removeprefix("token=")
    assert ask(situation(), path, "POST", token=token, query=query).status == 200
    assert ask(situation("errors"), path, "POST", token=token, query=query).status == 409
