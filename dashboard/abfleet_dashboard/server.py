"""HTTP: routes, the cache of pages, and refusals."""

import asyncio
import json
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qs, quote

import structlog
from abfleet_analysis.shadow.words import document
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from abfleet_dashboard import access, csv_tables, pages, verdict_api
from abfleet_dashboard.situation import Situation
from abfleet_dashboard.views.filter_view import asked

log = structlog.get_logger("abfleet.dashboard")

HTML: Final = "text/html; charset=utf-8"
JSON: Final = "application/json"
CSV: Final = "text/csv; charset=utf-8"
KINDS: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
OPEN: Final = ("/healthz", "/static/")
"""Served without a token, because nothing here comes from a log."""
MOST_KEPT: Final = 256
"""Pages; an experiment has two."""
SAFE: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class PageContent(Protocol):
    """The interface through which pages get what they show."""

    def situation(self) -> Situation:
        """A snapshot of all that a page shows."""

    def version(self) -> str:
        """Changes whenever a page could change, except by the passing of time."""

    def visited(self) -> None:
        """Called for every page, so that the content is kept fresh."""

    def shadow_visited(self) -> None:
        """Called where the comparison of shadow calls is wanted, so that one is made."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an answer, and their entity tag."""

    content: bytes
    tag: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRules:
    """Who may see it. `may_see` is None where whoever reaches the port may; `hosts` are names, beside addresses."""

    hosts: Collection[str]
    may_see: Callable[[str], bool] | None


class Site:
    """The routes. What it keeps is changed only here, on the event loop."""

    def __init__(self, shows: PageContent) -> None:
        self._shows = shows
        self._kept: OrderedDict[str, tuple[object, Body]] = OrderedDict()
        self._static = {path.name: _file(path) for path in sorted(pages.STATIC.iterdir()) if path.suffix in KINDS}
        self.router = Router(
            [
                Route("/", self._overview),
                Route("/experiments/{name:path}", self._experiment),
                Route("/fleet", self._fleet),
                Route("/shadow", self._shadow),
                Route("/api/shadow.json", self._shadow_json),
                Route("/csv/{table}.csv", self._csv),
                Route("/csv/{name:path}/{table}.csv", self._csv),
                Route("/glossary", self._glossary),
                Route("/report/{name:path}.html", self._report),
                Route("/api/report.json", self._report_json),
                Route(verdict_api.PATH, self._verdict, methods=["GET", "POST"]),
                Route("/api/version", self._version),
                Route("/static/{name:path}", self._file),
                Route("/healthz", self._health),
            ],
            redirect_slashes=False,
            default=self._nothing,
        )

    async def _overview(self, request: Request) -> Response:
        chosen = asked(request.query_params)
        return await self._page(request, f"/?{chosen.query}", lambda now: pages.overview_page(now, chosen))

    async def _fleet(self, request: Request) -> Response:
        return await self._page(request, "/fleet", pages.fleet_page)

    async def _shadow(self, request: Request) -> Response:
        self._shows.shadow_visited()
        return await self._page(request, "/shadow", pages.shadow_page)

    async def _shadow_json(self, request: Request) -> Response:
        self._shows.shadow_visited()

        def made(now: Situation) -> str:
            if now.shadow.report is None:
                raise KeyError
            return json.dumps(document(now.shadow.report), ensure_ascii=False)

        try:
            return await self._page(request, "/api/shadow.json", made, kind=JSON)
        except KeyError:
            return _answer(request, _body(b'{"error": "there is no comparison yet"}'), kind=JSON, status=503)

    async def _glossary(self, request: Request) -> Response:
        return await self._page(request, "/glossary", pages.glossary_page)

    async def _experiment(self, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            return await self._page(request, f"/experiments/{name}", lambda now: pages.experiment_page(now, name))
        except KeyError:
            return self._missing(request, "No such experiment", f"There is no experiment {name[:64]!r}.")

    async def _report(self, request: Request) -> Response:
        name = request.path_params["name"]

        def made(now: Situation) -> str:
            if now.report is None:
                raise KeyError(name)
            return pages.report_file(now.report, config=now.config, only=name)

        try:
            response = await self._page(request, f"/report/{name}", made)
        except KeyError:
            return self._missing(request, "No such report", f"There is no report of {name[:64]!r}, or none yet.")
        response.headers["content-disposition"] = f'attachment; filename="{_file_name(name)}.html"'
        return response

    async def _report_json(self, request: Request) -> Response:
        def made(now: Situation) -> str:
            if now.report is None:
                raise KeyError
            return json.dumps(now.report.as_dict(), ensure_ascii=False)

        try:
            return await self._page(request, "/api/report.json", made, kind=JSON)
        except KeyError:
            return _answer(request, _body(b'{"error": "there is no report yet"}'), kind=JSON, status=503)

    async def _csv(self, request: Request) -> Response:
        name, table = request.path_params.get("name"), request.path_params["table"]

        def made(now: Situation) -> str:
            if name is None and table.startswith("shadow-"):
                if now.shadow.report is None:
                    raise KeyError(table)
                return csv_tables.shadow_table(now.shadow.report, table.removeprefix("shadow-"))
            if name is None and table.startswith("fleet-"):
                return csv_tables.fleet_table(now.routers, table.removeprefix("fleet-"))
            if now.report is None or (name is None and table != "experiments"):
                raise KeyError(table)
            if name is None:
                return csv_tables.overview_table(now.report)
            return csv_tables.experiment_table(now.report, name, table)

        try:
            response = await self._page(request, f"/csv/{name or ''}/{table}", made, kind=CSV)
        except KeyError:
            return self._missing(request, "No such table", f"There is no table {table[:64]!r} here, or none yet.")
        response.headers["content-disposition"] = f'attachment; filename="{_file_name(name or "abfleet")}-{table}.csv"'
        return response

    async def _verdict(self, request: Request) -> Response:
        self._shows.visited()
        found = verdict_api.verdict_of(self._shows.situation(), request.path_params["name"])
        body = _body(json.dumps(found.document, ensure_ascii=False).encode())
        return _answer(request, body, kind=JSON, status=found.status_of(request.method))

    async def _version(self, request: Request) -> Response:
        self._shows.visited()
        return _answer(request, _body(json.dumps({"version": self._shows.version()}).encode()), kind=JSON)

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        body = self._static.get(name)
        if body is None:
            return self._missing(request, "No such file", f"There is no file {name[:64]!r}.")
        return _answer(request, body, kind=KINDS[Path(name).suffix])

    async def _health(self, request: Request) -> Response:
        return _answer(request, _body(b'{"status": "ok"}'), kind=JSON)

    async def _nothing(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = request.url.path[:64]
        response = self._missing(request, "No such page", f"There is nothing at {path!r}.")
        await response(scope, receive, send)

    def _missing(self, request: Request, title: str, sentence: str) -> Response:
        text = pages.message_page(title, [sentence])
        return _answer(request, _body(text.encode()), kind=HTML, status=404)

    async def _page(
        self, request: Request, key: str, make: Callable[[Situation], str], *, kind: str = HTML
    ) -> Response:
        """A page, made at most once for each version and each few seconds. Raises what `make` does."""
        self._shows.visited()
        now = self._shows.situation()
        version = (self._shows.version(), int(now.now.timestamp() / max(now.refresh_s, 1.0)))
        kept = self._kept.get(key)
        if kept is None or kept[0] != version:
            body = _body((await asyncio.to_thread(make, now)).encode())
            self._kept[key] = (version, body)
        else:
            body = kept[1]
        self._kept.move_to_end(key)
        if len(self._kept) > MOST_KEPT:
            self._kept.popitem(last=False)
        return _answer(request, body, kind=kind)


class RequestGuard:
    """Around the routes: method, host and token of each request, and the headers of each answer."""

    def __init__(self, inner: ASGIApp, rules: AccessRules) -> None:
        self._inner = inner
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; whatever goes wrong inside is an answer with status 500."""
        if scope["type"] != "http":
            return
        begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                message["headers"] = [*message["headers"], *access.HEADERS]
            await send(message)

        request = Request(scope, receive)
        try:
            response = self._instead(request) or self._inner
            await response(scope, receive, send_with_headers)
        except Exception:
            log.exception("a page could not be made", path=request.url.path[:200])
            if not begun:
                sentences = ["The page could not be made. What went wrong is in the dashboard's own log."]
                await _message(500, "Something went wrong", sentences)(scope, receive, send_with_headers)

    def _instead(self, request: Request) -> Response | None:
        """The answer instead of a page, such as a refusal; None where the page is to be shown."""
        headers, path = request.headers, request.scope["path"]
        asked = request.method == "POST" and verdict_api.takes_post(path)
        refused = None if asked else access.refused_method(request.method)
        refused = refused or access.refused_host(headers.get("host"), self._rules.hosts)
        if refused is None and not path.startswith(OPEN):
            given = parse_qs(request.url.query).get("token", [""])[0]
            entering = given and not verdict_api.takes_post(path)  # a controller keeps no cookie
            if entering and access.refused_token(given, self._rules.may_see) is None:
                return self._entered(path, given, secure=request.url.scheme == "https")
            token = access.token_of(headers.get("authorization"), headers.get("cookie"))
            refused = access.refused_token(given or token, self._rules.may_see)
        if refused is None:
            return None
        sentences = [refused.reason]
        if refused.status == 401:
            sentences.append("Open this address once with ?token=TOKEN at its end; the browser then keeps the token.")
        response = _message(refused.status, refused.title, sentences)
        if refused.status == 401:
            response.headers["www-authenticate"] = "Bearer"
        if refused.status == 405:
            response.headers["allow"] = ", ".join(access.METHODS)
        return response

    def _entered(self, path: str, token: str, *, secure: bool) -> Response:
        """Redirects to the page without the token in its address, never to another site."""
        response = RedirectResponse("/" + quote(path.lstrip("/\\")), status_code=303)
        response.headers["cache-control"] = "no-store"
        if self._rules.may_see is not None:
            response.headers["set-cookie"] = access.cookie_header(token, secure=secure)
        return response


def _message(status: int, title: str, sentences: list[str]) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(pages.message_page(title, sentences), status_code=status, media_type=HTML, headers=headers)


def _body(content: bytes) -> Body:
    return Body(content, access.etag(content))


def _file_name(name: str) -> str:
    return "".join(letter if letter in SAFE else "_" for letter in name)[:80]


def _file(path: Path) -> Body:
    return _body(path.read_bytes())


def _answer(request: Request, body: Body, *, kind: str, status: int = 200) -> Response:
    """The answer, or 304 where the caller has these bytes; callers must revalidate each time."""
    headers: dict[str, Any] = {"cache-control": "private, no-cache", "etag": body.tag}
    if status == 200 and access.unchanged(request.headers.get("if-none-match"), body.tag):
        return Response(status_code=304, headers=headers)
    return Response(body.content, status_code=status, media_type=kind, headers=headers)
