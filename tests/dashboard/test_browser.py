"""The dashboard in a real browser: content, keyboard, complaints, accessibility, narrow screens, and what breaks."""

import base64
import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from abfleet_dashboard.pages import STATIC, STYLE, experiment_page, fleet_page, overview_page
from abfleet_dashboard.situation import RouterState, Situation
from abfleet_dashboard.views.experiment_view import experiment_view
from abfleet_dashboard.views.links_view import OutsideLink
from playwright.sync_api import Browser, Locator, Page

from tests.dashboard.made import FILE, in_its_first_day, made_report, made_times, prepared_log, router_status
from tests.support.browser import PHONE, chromium, opened, overflow_px, shows, violations
from tests.support.dashboard import Dashboard, dashboard
from tests.support.fleet import wait_until

pytestmark = pytest.mark.system
PATHS = ("/", "/?owner=nobody", "/experiments/test", "/fleet", "/shadow", "/glossary", "/nothing-here")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Dashboard]:
    """A version that is much better, over ten days."""
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "experiments.yaml").write_text(FILE)
    (folder / "logs").mkdir()
    prepared_log(rates=(0.30, 0.42), a_day=400).write(folder / "logs")
    with dashboard(folder, "--refresh", "0.5") as running:
        running.report()
        yield running


def test_what_a_person_sees(shown: Dashboard, browser: Browser) -> None:
    """From the overview to the experiment and its report, by keyboard alone: the same verdict everywhere."""
    with opened(browser) as (page, complaints):
        page.goto(shown.url)
        assert "ship" in page.inner_text("main").lower()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.getAttribute('href')") == "#main", "first the way past navigation"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"
        by_keyboard_to(page, "/experiments/test")
        page.keyboard.press("Enter")
        page.wait_for_url("**/experiments/test")
        text = page.inner_text("main")
        assert "ship" in text.lower()
        assert "treatment" in text
        by_keyboard_to(page, "/report/test.html")
        with page.expect_download() as download:
            page.keyboard.press("Enter")
        kept = Path(download.value.path()).read_text()
        assert "<script" not in kept
        assert "ship" in kept.lower()
        assert complaints == []


def by_keyboard_to(page: Page, target: str) -> None:
    """Presses Tab until the link to the target has the focus, which can be seen there."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.getAttribute('href')") == target:
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", "one sees where one is"
            return
    raise AssertionError(f"no way to {target} by keyboard")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_faults(shown: Dashboard, browser: Browser, scheme: str) -> None:
    """axe-core finds nothing, the browser complains of nothing, and the policy stops nothing, on each page."""
    with opened(browser, color_scheme=scheme) as (page, complaints):
        for path in PATHS:
            answer = page.goto(shown.url + path)
            assert answer is not None
            page.wait_for_load_state("networkidle")
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            assert violations(page) == [], path
        assert [one for one in complaints if "404 (Not Found)" not in one] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_first_day_and_a_fleet_have_no_faults(browser: Browser, scheme: str) -> None:
    """The same of points before the first look, and of a fleet in trouble; nothing sticks out on a phone."""
    made = made_report()
    report = dataclasses.replace(made, experiments=(in_its_first_day(made.experiments[0]),))
    routers = (RouterState(address="a:1", status=router_status()), RouterState(address="b:1", error="refused"))
    now = Situation(
        now=made_times(28)[-1], report=report, routers=routers, links=(OutsideLink("Grafana", "http://g/"),)
    )
    with opened(browser, color_scheme=scheme, viewport=PHONE) as (page, _):
        for text in (experiment_page(now, "homepage-ranking"), fleet_page(now), overview_page(now)):
            page.set_content(styled(text))
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            assert overflow_px(page) <= 0
            assert violations(page) == []


def styled(text: str) -> str:
    """A page that needs no server for its style."""
    style = (STATIC / STYLE).read_text(encoding="utf-8")
    return re.sub(r"<link rel=.stylesheet[^>]*>", lambda _: f"<style>{style}</style>", text)


def test_words_stay_whole_on_a_phone(browser: Browser) -> None:
    """Those of commands, versions and numbers with their units are on one line; a command's text is what is copied."""
    report = made_report()
    routers = (RouterState(address="a:1", status=router_status()),)
    now = Situation(now=made_times(28)[-1], report=report, routers=routers)
    lines = [one.line for one in experiment_view(report.experiments[0], None, "e").commands]
    with opened(browser, viewport=PHONE) as (page, _):
        for text in (experiment_page(now, "homepage-ranking"), fleet_page(now), overview_page(now)):
            page.set_content(styled(text))
            assert page.evaluate(TORN) == []
        page.set_content(styled(experiment_page(now, "homepage-ranking")))
        assert page.locator(".commands code").all_text_contents() == lines


TORN = r"""() => {
    const torn = [];
    const words = document.createTreeWalker(document.getElementById('main'), NodeFilter.SHOW_TEXT);
    while (words.nextNode()) {
        const node = words.currentNode;
        const found = node.parentElement.closest('code')
            ? /\S+/g : /[^\s]*\d[^\s]*-\w[^\s]*|\d[\d.,]* (%|users?|calls?|errors?)\b|p [=<] \d/g;
        for (const word of node.nodeValue.matchAll(found)) {
            const range = document.createRange();
            range.setStart(node, word.index);
            range.setEnd(node, word.index + word[0].length);
            const tops = new Set([...range.getClientRects()].map((box) => Math.round(box.top)));
            if (tops.size > 1 && !node.parentElement.closest('.unseen')) torn.push(word[0]);
        }
    }
    return torn;
}"""
"""Words on two lines: any of a command, elsewhere those with a number."""


def test_no_text_is_over_another_on_a_phone(browser: Browser) -> None:
    """A sentence in the place of an interval wraps in its column."""
    made = made_report()
    first = made.experiments[0]
    groups = tuple(
        dataclasses.replace(
            group,
            metrics=tuple(
                dataclasses.replace(one, relative_sequential_interval=(math.nan, math.nan)) for one in group.metrics
            ),
        )
        for group in first.decision.groups
    )
    report = dataclasses.replace(
        made,
        experiments=(dataclasses.replace(first, decision=dataclasses.replace(first.decision, groups=groups)),),
    )
    with opened(browser, viewport=PHONE) as (page, _):
        page.set_content(styled(overview_page(Situation(now=made_times(28)[-1], report=report))))
        assert "too few events for an interval" in page.inner_text("table.overview")
        wider = "[...document.querySelectorAll('table.cards td')].filter((one) => one.scrollWidth > one.clientWidth)"
        assert page.evaluate(f"{wider}.map((one) => one.innerText)") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_goes_on_says_so(browser: Browser, scheme: Literal["light", "dark"]) -> None:
    """By a shade at the edge behind which there is more, which is gone at the end."""
    now = Situation(now=made_times(28)[-1], report=made_report())
    with opened(browser, viewport=PHONE, color_scheme=scheme) as (page, _):
        page.set_content(styled(experiment_page(now, "homepage-ranking")))
        table = page.locator(".scroll[aria-label='Groups']")
        table.evaluate("(one) => one.scrollTo(0, 0)")
        paper, left, right = edges(page, table)
        assert left == paper != right
        table.evaluate("(one) => one.scrollTo(one.scrollWidth, 0)")
        paper, left, right = edges(page, table)
        assert left != paper == right


def edges(page: Page, table: Locator) -> list[list[int]]:
    """Colours as they are seen, above the text of the table's head: in its middle, at its left and right edge."""
    picture = base64.b64encode(table.screenshot()).decode()
    found: list[list[int]] = page.evaluate(
        """async (picture) => {
            const image = new Image();
            image.src = `data:image/png;base64,${picture}`;
            await image.decode();
            const canvas = new OffscreenCanvas(image.width, image.height).getContext('2d');
            canvas.drawImage(image, 0, 0);
            return [image.width / 2, 1, image.width - 2].map((x) => [...canvas.getImageData(x, 2, 1, 1).data]);
        }""",
        picture,
    )
    return found


def test_commands_are_copied_and_times_are_the_readers(shown: Dashboard, browser: Browser) -> None:
    """By keyboard; the clipboard has the command as it stands. UTC stays, and the reader's own time is beside it."""
    with opened(browser, timezone_id="Asia/Kolkata", permissions=["clipboard-read", "clipboard-write"]) as (page, _):
        page.goto(f"{shown.url}/experiments/test")
        page.locator(".commands .copy").first.focus()
        page.keyboard.press("Enter")
        shows(page, "Copied.", "live")
        command = page.locator(".commands code").first.inner_text()
        assert page.evaluate("navigator.clipboard.readText()") == command
        time = page.locator("time.instant").first
        text = time.inner_text().replace("\u00a0", " ")
        assert re.fullmatch(r"\d+ Nov 2026, \d\d:\d\d UTC \((\d+ Nov, )?\d\d:\d\d GMT\+5:30\)", text)


def test_a_filter_stays_in_an_open_page(shown: Dashboard, browser: Browser) -> None:
    """Chosen by keyboard; when the page is renewed it still shows what was chosen."""
    with opened(browser) as (page, complaints):
        page.goto(f"{shown.url}/?owner=nobody")
        shows(page, "No experiment matches.")
        with page.expect_response(lambda answer: answer.url.endswith("/?owner=nobody"), timeout=90_000):
            pass  # the page is asked for again, with what was chosen
        assert "No experiment matches." in page.inner_text("main")
        by_keyboard_to(page, "/")
        assert complaints == []


@pytest.mark.parametrize("path", PATHS)
def test_a_phone_needs_no_scrolling_sideways(shown: Dashboard, browser: Browser, path: str) -> None:
    """At 360 pixels nothing sticks out."""
    with opened(browser, viewport=PHONE, is_mobile=True, has_touch=True) as (page, _):
        page.goto(shown.url + path)
        assert overflow_px(page) <= 0


def test_it_works_without_script(shown: Dashboard, browser: Browser) -> None:
    """The same text, and the page asks for itself again."""
    with opened(browser, java_script_enabled=False) as (page, _):
        page.goto(f"{shown.url}/experiments/test")
        assert "treatment" in page.inner_text("main")
        assert page.locator("noscript meta[http-equiv=refresh]").count() == 1


def test_an_open_page_follows_without_losing_its_reader(shown: Dashboard, browser: Browser) -> None:
    """New lines appear by themselves; focus, scroll, and what was folded out or selected stay where they were."""
    folder = shown.process.stderr_path.parent
    with opened(browser, viewport=PHONE) as (page, complaints):
        page.goto(f"{shown.url}/experiments/test")
        page.evaluate("""() => {
            const last = [...document.querySelectorAll('main a[href], main summary')].at(-1);
            last.focus();
            window.focused = last;
            for (const details of document.querySelectorAll('details')) details.open = true;
            window.scrollTo(0, 300);
        }""")
        before = page.inner_text("main")
        open_before = page.locator("details[open]").count()
        more = prepared_log(rates=(0.30, 0.42), a_day=100, days=11)
        for line in more.lines:
            line["user_id"], line["request_id"] = f"more-{line['user_id']}", f"more-{line['request_id']}"
            if line["event"] == "outcome":
                line["outcome_id"] = f"more-{line['outcome_id']}"
        more.write(folder / "logs", "decisions-host-20261112T000000-1.jsonl")
        wait_until(lambda: users_of(shown) == 4000 + 1100, "a report with them", 60)
        shows(page, "5,100")
        assert "5,100" not in before
        assert page.evaluate("document.activeElement === window.focused")
        assert page.evaluate("window.scrollY") == 300
        assert page.locator("details[open]").count() == open_before
        assert complaints == []


def users_of(shown: Dashboard) -> int:
    """As the newest report counts them."""
    users: int = shown.report()["experiments"][0]["plan"]["users"]
    return users


def test_a_dashboard_that_is_gone_is_said(tmp_path: Path, browser: Browser) -> None:
    """An open page goes on showing what was known and says so; an empty log is a sentence, not an empty page."""
    (tmp_path / "experiments.yaml").write_text(FILE)
    with opened(browser) as (page, _), dashboard(tmp_path, "--refresh", "0.2", router="127.0.0.1:1") as running:
        page.goto(running.url)
        shows(page, "no such file or folder")
        assert violations(page) == []
        page.goto(f"{running.url}/fleet")
        shows(page, "127.0.0.1:1")
        assert violations(page) == []
        running.process.kill()
        running.process.popen.returncode = 0  # it was killed on purpose
        shows(page, "does not answer", "live")
        assert "127.0.0.1:1" in page.inner_text("main")
