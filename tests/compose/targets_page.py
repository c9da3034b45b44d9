"""Takes the picture of Prometheus' targets page over a real fleet with two replicas of each version.

    python -m tests.compose.targets_page docs/pictures/prometheus-targets.png

Debian's Prometheus serves its pages under /classic; others under the bare path.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from abfleet_protos.recommender_pb2 import RecommendRequest
from playwright.sync_api import sync_playwright

from tests.compose.test_monitoring import Prometheus, metrics_address
from tests.support.fleet import VERSIONS, Fleet, experiments_file, wait_until
from tests.support.load import SEED_HISTORY, call_all

REPLICAS = 2
TARGETS = 1 + REPLICAS * len(VERSIONS)
CALLS = [RecommendRequest(item_ids=SEED_HISTORY, user_id=f"user-{n}", request_id=f"r{n}") for n in range(1000)]


def take(prometheus: Prometheus, path: Path) -> None:
    """Waits until all targets are up, and saves the page."""
    wait_until(prometheus.ready, "Prometheus is ready")
    wait_until(lambda: len(prometheus.ask("up == 1")) == TARGETS, "all targets are up")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 840})
        for prefix in ("", "/classic"):
            page.goto(f"http://{prometheus.address}{prefix}/targets", wait_until="networkidle")
            if page.get_by_text("abfleet-worker").count():
                break
        page.screenshot(path=path, full_page=True)
        browser.close()


def main() -> None:
    flags = ("--metrics-port", "0", "--log-level", "info")
    with (
        tempfile.TemporaryDirectory() as folder,
        Fleet(Path(folder), experiments=experiments_file(), replicas=REPLICAS, worker_flags=flags) as fleet,
    ):
        for version in VERSIONS:
            fleet.wait_for_serving(version, REPLICAS)
        workers = [metrics_address(worker) for worker in fleet.workers.values()]
        prometheus = Prometheus(Path(folder), {"abfleet-router": [fleet.metrics_address], "abfleet-worker": workers})
        try:
            asyncio.run(call_all(fleet.address, CALLS))
            take(prometheus, Path(sys.argv[1]))
        finally:
            prometheus.stop()


if __name__ == "__main__":
    main()
