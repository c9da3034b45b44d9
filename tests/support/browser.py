"""Chromium with Playwright for tests of pages: what a page complains of is kept, and axe-core reads it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

from tests.support.node_tools import MODULES

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
AXE = MODULES / "axe-core" / "axe.min.js"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
WAIT_MS = 90_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; skips where there is none."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here: its package is chromium on Debian and Ubuntu")
    with sync_playwright() as playwright:
        # --no-sandbox: tests may run as root, and open nothing but our own pages.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Browser, **context: Any) -> Iterator[tuple[Page, list[str]]]:
    """A page in a context of its own, and everything that it or the browser complains of."""
    with browser.new_context(**({"viewport": WIDE} | context)) as made:
        page = made.new_page()
        page.set_default_timeout(WAIT_MS)
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.extend(_failure(request)))
        yield page, complaints


def _failure(request: Request) -> list[str]:
    """A request that failed; not one of the page's own that ended because the page was left while it ran."""
    left = request.resource_type == "fetch" and request.failure == "net::ERR_ABORTED"
    return [] if left else [f"{request.url}: {request.failure}"]


def shows(page: Page, text: str, place: str = "main") -> None:
    """Waits until the element with that id has the text. It is looked for ten times a second, not with every frame."""
    page.wait_for_function(
        "([place, text]) => document.getElementById(place).innerText.includes(text)", arg=[place, text], polling=100
    )


def violations(page: Page) -> list[str]:
    """What axe-core finds: rule, element and why; skips where it was not fetched."""
    if not AXE.exists():
        pytest.skip("axe-core is not here: it comes with ./run node-tools, which needs npm")
    page.evaluate(AXE.read_text())
    # Its own run inside the page; every rule of WCAG 2.2 A and AA and its best practices.
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']} ({one['impact']}): {node['target']}: {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


def overflow_px(page: Page) -> int:
    """By how much the page is wider than what one sees."""
    wider: int = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return wider
