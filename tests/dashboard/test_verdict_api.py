"""The verdict for controllers of rollouts: what a GET tells and what a POST is answered."""

import asyncio
import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from abfleet_dashboard.server import AccessRules, RequestGuard, Site
from abfleet_dashboard.situation import Situation
from abfleet_dashboard.verdict_api import verdict_of
from abfleet_experiments.file.load import load_text
from starlette.types import Message

from tests.analysis.log_lines import file_text
from tests.dashboard.made import made_report

NAME = "homepage-ranking"
PATH = f"/api/experiments/{NAME}/verdict"


class Shown:
    """Content that a test makes up."""

    def __init__(self, situation: Situation) -> None:
        self.now = situation

    def situation(self) -> Situation:
        return self.now

    def version(self) -> str:
        return "1"

    def visited(self) -> None: ...

    def shadow_visited(self) -> None: ...


def situation(scenario: str = "planned-effect") -> Situation:
    report = made_report(scenario)
    assert report.as_of is not None
    return Situation(now=report.as_of, report=report, made_at=report.as_of, config=load_text(file_text()))


@dataclass(frozen=True)
class Told:
    """An answer."""

    status: int
    text: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.text)
        return found


def ask(
    now: Situation, path: str = PATH, method: str = "GET", *, token: str | None = None, given: str = "", query: str = ""
) -> Told:
    """One request to the routes and their guard, without a server."""
    rules = AccessRules(hosts=("here",), may_see=None if token is None else lambda one: one == token)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b'{"phase": "Progressing"}', "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"here"), (b"authorization", f"Bearer {given}".encode())]
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": headers,
        "scheme": "http",
    }
    scope |= {"server": ("here", 80), "root_path": "", "http_version": "1.1"}
    asyncio.run(RequestGuard(Site(Shown(now)).router, rules)(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    return Told(sent[0]["status"], body.decode())


def test_a_verdict_that_lets_go_on() -> None:
    """GET has it with its reasons; POST is 200, whatever its body."""
    got = ask(situation())
    document = got.document
    assert (got.status, document["verdict"], document["go_on"], document["stale"]) == (200, "ship", True, False)
    assert document["reasons"]
    assert ask(situation(), method="POST").status == 200


def test_a_verdict_that_does_not() -> None:
    """POST is 409 with the same document; GET stays 200, so that it can be read."""
    now = situation("errors")
    assert ask(now).document["verdict"] == "roll_back"
    told = ask(now, method="POST")
    assert (told.status, told.document["go_on"]) == (409, False)


def test_no_data_is_no_reason_to_go_on() -> None:
    """Without a report, with an old one, or with an analysis that fails; an experiment that is none is unknown."""
    now = situation()
    assert ask(replace(now, report=None)).status == 503
    assert ask(replace(now, report=None), method="POST").status == 409
    old = replace(now, now=now.now + timedelta(hours=1))
    assert ask(old, method="POST").status == 409
    assert ask(old).document["stale"] is True
    assert ask(replace(now, analysis_error="out of memory"), method="POST").status == 409
    assert ask(now, PATH.replace(NAME, "nobody"), "POST").status == 404
    assert verdict_of(now, "test").status == 503  # it is in the file, and has no call yet


def test_it_asks_for_the_dashboards_token() -> None:
    """As every page does; and POST is allowed nowhere else."""
    now = situation()
    assert ask(now, method="POST", token="secret").status == 401
    assert ask(now, method="POST", token="secret", given="secret").status == 200
    assert ask(now, method="POST", token="secret", query="token=secret").status == 200
    assert ask(now, method="POST", token="secret", query="token=wrong").status == 401
    assert ask(now, "/fleet", "POST", token="secret", given="secret").status == 405
