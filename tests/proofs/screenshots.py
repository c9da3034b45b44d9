"""Pictures of the dashboard for the documentation: `./run prove screenshots` writes docs/pictures.

The experiments are a prepared log's (tests/support/shown_log.py), the fleet is a real one with traffic. Needs Chromium.
Each picture stays below 200 KB; what is on it has to be looked at by a person. `--into FOLDER` puts them elsewhere,
with a whole page, a printed report and the report file as well.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from tests.support.browser import PHONE, chromium, opened
from tests.support.dashboard import Dashboard, dashboard
from tests.support.fleet import MODELS, wait_until
from tests.support.shown_log import file_text, log_lines
from tests.support.up import Up, without_flags

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
MOST_BYTES = 200_000
TOP = {"width": 1180, "height": 900}
SHIPPED = "/experiments/homepage-ranking"
SHOTS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("dashboard-overview", "/", {"viewport": TOP}, ""),
    ("dashboard-experiment", SHIPPED, {"viewport": {"width": 1180, "height": 1350}}, ""),
    ("dashboard-over-time", SHIPPED, {"viewport": TOP}, "How it came about"),
    ("dashboard-refused", "/experiments/email-digest", {"viewport": TOP}, ""),
    ("dashboard-fleet", "/fleet", {"viewport": TOP}, ""),
    ("dashboard-dark", SHIPPED, {"viewport": TOP, "color_scheme": "dark"}, ""),
    ("dashboard-phone", SHIPPED, {"viewport": PHONE, "device_scale_factor": 2}, ""),
)
"""Name, address, browser, and the heading of the one section that it shows, if it shows one."""
TRAFFIC = ("--users", "2000", "--rate", "40", "--duration", "600", "--effect", "experiment=+0.10")


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes all of them; exit code 1 if one is too large for a repository."""
    parser = argparse.ArgumentParser(prog="./run prove screenshots", description=__doc__)
    parser.add_argument("--into", type=Path)
    into = parser.parse_args(arguments).into
    (into or FOLDER).mkdir(exist_ok=True)
    too_large = []
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name, chromium() as browser:
        folder = Path(name)
        (folder / "logs").mkdir()
        (folder / "experiments.yaml").write_text(file_text())
        with (folder / "logs" / "decisions-host-20261101T000000-1.jsonl").open("w") as file:
            file.writelines(log_lines(datetime.now(UTC)))
        (folder / "models").symlink_to(MODELS)
        (folder / "fleet").mkdir()
        with (
            Up(folder / "fleet", MODELS, "--replicas", "v1.3.0-beta=2") as up,
            dashboard(folder, router=up.ready().admin_address) as running,
        ):
            traffic = subprocess.Popen(
                [sys.executable, "-m", "abfleet", "traffic", "--address", up.address, *TRAFFIC],
                cwd=folder,
                env=without_flags(),
                stdout=subprocess.DEVNULL,
            )
            try:
                running.report()
                wait_until(lambda: "calls" in running.ask("/fleet").text, "the fleet on its page")
                time.sleep(12)  # rates are over ten seconds
                for shot in SHOTS:
                    file, size = take(browser, running, into or FOLDER, *shot)
                    if size > MOST_BYTES:
                        too_large.append(file)
                if into:
                    whole(browser, running, into)
            finally:
                traffic.terminate()
                traffic.wait()
    if too_large:
        print(f"larger than {MOST_BYTES // 1000} KB: {', '.join(too_large)}")
    return 1 if too_large else 0


def take(
    browser: Browser, running: Dashboard, folder: Path, shot: str, path: str, context: dict[str, Any], heading: str
) -> tuple[str, int]:
    """One picture: its name and size in bytes."""
    file = folder / f"{shot}.png"
    with opened(browser, **context) as (page, _):
        shown(page, running, path)
        if heading:
            page.locator("section", has=page.get_by_role("heading", name=heading)).first.screenshot(path=file)
        else:
            page.screenshot(path=file)
    size = file.stat().st_size
    print(f"{file.name}: {size / 1000:.0f} KB", flush=True)
    return file.name, size


def whole(browser: Browser, running: Dashboard, folder: Path) -> None:
    """Pages from top to bottom, wide and on a phone, and the report as a file and as it prints."""
    for name, context in (("wide", {"viewport": TOP}), ("phone", {"viewport": PHONE})):
        with opened(browser, **context) as (page, _):
            shown(page, running, SHIPPED)
            page.screenshot(path=folder / f"whole-{name}.png", full_page=True)
    (folder / "report.html").write_bytes(running.ask("/report/homepage-ranking.html").body)
    with opened(browser) as (page, _):
        page.goto((folder / "report.html").resolve().as_uri())
        page.pdf(path=folder / "report.pdf", format="A4", prefer_css_page_size=True)


def shown(page: Page, running: Dashboard, path: str) -> None:
    """Opens a page and waits until it is quiet."""
    page.goto(running.url + path)
    page.wait_for_load_state("load")


if __name__ == "__main__":
    raise SystemExit(main())
