"""Pictures of the dashboard: `./run prove screenshots` writes those of the documentation to docs/pictures.

The experiments are prepared logs' (tests/support/shown_log.py), the fleet is a real one with traffic. Needs Chromium.
Each picture stays below 200 KB; what is on it has to be looked at by a person. `--into FOLDER` puts them elsewhere,
and takes every page from top to bottom in pieces, at 1440 and 390 pixels and in the dark: experiments of three groups
and of five, in their first minute, on their first and ninth day and after their end; and the report as it prints.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from tests.support.acts import write_acts, write_state
from tests.support.browser import PHONE, chromium, opened, overflow_px
from tests.support.dashboard import Dashboard, dashboard
from tests.support.fleet import MODELS, wait_until
from tests.support.shown_log import EVERY_AGE, EXPERIMENTS, Shown, file_text, log_lines
from tests.support.up import Up, without_flags

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
MOST_BYTES = 200_000
TOP = {"width": 1440, "height": 900}
SHIPPED, YOUNG = "/experiments/homepage-ranking", "/experiments/3-groups-day-1"
SHOTS: tuple[tuple[str, str, dict[str, Any], str], ...] = (
    ("dashboard-overview", "/", {"viewport": TOP}, ""),
    ("dashboard-experiment", SHIPPED, {"viewport": {"width": 1440, "height": 1080}}, ""),
    ("dashboard-over-time", SHIPPED, {"viewport": TOP}, "Over time"),
    ("dashboard-commands", SHIPPED, {"viewport": TOP}, "Commands"),
    ("dashboard-refused", "/experiments/email-digest", {"viewport": TOP}, ""),
    ("dashboard-fleet", "/fleet", {"viewport": TOP}, ""),
    ("dashboard-autopilot", SHIPPED, {"viewport": TOP}, "Autopilot"),
    ("dashboard-shadow", "/shadow", {"viewport": {"width": 1440, "height": 1000}}, ""),
    ("dashboard-dark", SHIPPED, {"viewport": TOP, "color_scheme": "dark"}, ""),
    ("dashboard-phone", SHIPPED, {"viewport": PHONE, "device_scale_factor": 2}, ""),
)
"""Name, address, browser, and the heading of the one section that it shows, if it shows one."""
FIRST_DAY: tuple[str, str, dict[str, Any], str] = ("dashboard-first-day", YOUNG, {"viewport": TOP}, "Over time")
SIZES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("1440", {"viewport": {"width": 1440, "height": 1000}}),
    ("390", {"viewport": {"width": 390, "height": 844}}),
    ("dark", {"viewport": {"width": 1440, "height": 1000}, "color_scheme": "dark"}),
)
PIECE_PX = 1600
"""Of a page's height on one picture: as much as can be read on it."""
ZONE = {"timezone_id": "Europe/Berlin"}
"""Of the reader, so that the reader's own time is on the pictures."""
TRAFFIC = ("--users", "2000", "--rate", "40", "--duration", "600", "--effect", "experiment=+0.10")
FLAGS = (
    *("--logs", "logs", "--experiments", "experiments/recommender.yaml"),
    *("--grafana", "https://grafana.example.com/", "--traces", "https://traces.example.com/?q={experiment}"),
)
"""Beside links the paths that commands take by themselves, of the folder in which the dashboard runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes all of them; exit code 1 if one is too large for a repository, or a page is wider than its window."""
    parser = argparse.ArgumentParser(prog="./run prove screenshots", description=__doc__)
    parser.add_argument("--into", type=Path)
    into = parser.parse_args(arguments).into
    folder = into or FOLDER
    folder.mkdir(exist_ok=True)
    faults = []
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name, chromium() as browser:
        shop, ages = Path(name) / "shop", Path(name) / "ages"
        prepare(shop, EXPERIMENTS)
        add_acts_and_shadow(shop)
        prepare(ages, EVERY_AGE)
        with fleet(Path(name) / "fleet") as router, dashboard(shop, *FLAGS, router=router) as running:
            running.report()
            wait_until(lambda: running.ask("/api/shadow.json").status == 200, "shadow calls are compared", 180)
            wait_until(lambda: "calls" in running.ask("/fleet").text, "the fleet on its page")
            time.sleep(12)  # rates are over ten seconds
            faults += [fault for shot in SHOTS if (fault := take(browser, running, folder, *shot))]
            if into:
                faults += whole(browser, running, into, ("/", "/fleet", "/shadow", "/glossary", SHIPPED))
                report_file(browser, running, into)
        with dashboard(ages, *FLAGS) as running:
            running.report()
            faults += [fault for fault in [take(browser, running, folder, *FIRST_DAY)] if fault]
            if into:
                faults += whole(browser, running, into, ("/?", *(f"/experiments/{one.name}" for one in EVERY_AGE)))
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def prepare(folder: Path, experiments: Sequence[Shown]) -> None:
    """The log, the experiments file and the registry of a dashboard."""
    now = datetime.now(UTC)
    (folder / "logs").mkdir(parents=True)
    (folder / "experiments").mkdir()
    (folder / "experiments" / "recommender.yaml").write_text(file_text(now, experiments))
    with (folder / "logs" / "decisions-host-20261101T000000-1.jsonl").open("w") as file:
        file.writelines(log_lines(now, experiments))
    (folder / "models").symlink_to(MODELS)


def add_acts_and_shadow(folder: Path) -> None:
    """An autopilot of the first experiment that has halted a version, and a version in the shadow of another."""
    now = datetime.now(UTC)
    file = folder / "experiments" / "recommender.yaml"
    key = "    plan: {effect: 0.10}\n"
    text = file.read_text().replace(key, f"{key}    autopilot: {{ramp: {{traffic: [5, 20, 50], hold: 24h}}}}\n", 1)
    file.write_text(f"{text}shadow: [{{model: v1.4.0-rc2, percent: 10, of: [v1.2.3]}}]\n")
    write_acts(folder / "logs", at=now - timedelta(hours=4))
    write_state(folder / "logs", now + timedelta(minutes=10), {"homepage-ranking": ("canary has no share",)})
    (log,) = (folder / "logs").glob("decisions-*")
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    draw = random.Random(1)
    with log.open("a") as out:
        for call in calls:
            if call.get("served_version") == "v1.2.3" and call["status"] == "OK" and draw.random() < 0.1:
                out.write(json.dumps(in_the_shadow(call, draw)) + "\n")


def in_the_shadow(call: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """What another version would have answered: mostly the same films, some of them in other places."""
    items = list(call["items"])
    for _ in range(draw.choice((0, 0, 1, 2, 5))):
        one, other = draw.randrange(10), draw.randrange(10)
        items[one], items[other] = items[other], items[one]
    if call["attributes"]["country"] != "DE":
        items[-3:] = draw.sample(range(3000, 3400), draw.choice((0, 3))) or items[-3:]
    failed = draw.random() < 0.004
    members = {"version": "v1.4.0-rc2", "primary": "v1.2.3", "items": None if failed else items}
    kept = {name: call[name] for name in ("schema", "ts", "request_id", "user_id", "config_revision", "router")}
    return {
        "event": "shadow",
        **kept,
        **members,
        "status": "DEADLINE_EXCEEDED" if failed else "OK",
        "latency_ms": 250.0 if failed else round(call["latency_ms"] * draw.uniform(0.8, 1.7), 3),
    }


@contextmanager
def fleet(folder: Path) -> Iterator[str]:
    """A fleet with traffic; gives the admin address of its router."""
    folder.mkdir()
    with Up(folder, MODELS, "--replicas", "v1.3.0-beta=2", "--", "--router-name", "router-1") as up:
        admin = up.ready().admin_address
        traffic = subprocess.Popen(
            [sys.executable, "-m", "abfleet", "traffic", "--address", up.address, *TRAFFIC],
            cwd=folder,
            env=without_flags(),
            stdout=subprocess.DEVNULL,
        )
        try:
            yield admin
        finally:
            traffic.terminate()
            traffic.wait()


def take(
    browser: Browser, running: Dashboard, folder: Path, shot: str, path: str, context: dict[str, Any], heading: str
) -> str:
    """One picture; gives what is wrong with it, if something is."""
    file = folder / f"{shot}.png"
    with opened(browser, **context, **ZONE) as (page, _):
        shown(page, running, path)
        if heading:
            page.locator("section", has=page.get_by_role("heading", name=heading, exact=True)).first.screenshot(
                path=file
            )
        else:
            page.screenshot(path=file)
    size = file.stat().st_size
    print(f"{file.name}: {size / 1000:.0f} KB", flush=True)
    return f"{file.name} is larger than {MOST_BYTES // 1000} KB" if size > MOST_BYTES else ""


def whole(browser: Browser, running: Dashboard, folder: Path, paths: Sequence[str]) -> list[str]:
    """Pages from top to bottom at every size, in pieces; gives those that are wider than their window."""
    wide = []
    for size, context in SIZES:
        with opened(browser, **context, **ZONE) as (page, _):
            for path in paths:
                shown(page, running, path)
                name = path.rpartition("/")[2].replace("?", "ages") or "overview"
                if overflow_px(page) > 0:
                    wide.append(f"{path} is {overflow_px(page)} pixels wider than {size}")
                height = page.evaluate("document.documentElement.scrollHeight")
                width = context["viewport"]["width"]
                for number, top in enumerate(range(0, height, PIECE_PX)):
                    clip = {"x": 0, "y": top, "width": width, "height": min(PIECE_PX, height - top)}
                    file = folder / f"{name}-{size}-{number}.png"
                    page.screenshot(path=file, full_page=True, clip=clip)  # type: ignore[arg-type]
            print(f"{len(paths)} pages at {size}", flush=True)
    return wide


def report_file(browser: Browser, running: Dashboard, folder: Path) -> None:
    """The report as a file and as it prints."""
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
