"""Pictures of the dashboard for the documentation, from prepared logs: `./run prove screenshots` writes docs/pictures.

Needs Chromium. Each picture stays below 200 KB; what is on it has to be looked at by a person.
"""

import tempfile
from pathlib import Path
from typing import Any

from tests.dashboard.made import FILE, prepared_log
from tests.support.browser import PHONE, chromium, opened
from tests.support.dashboard import dashboard

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "pictures"
MOST_BYTES = 200_000
TOP = {"width": 1180, "height": 900}
SHOTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("dashboard-overview", "/", {"viewport": TOP}),
    ("dashboard-experiment", "/experiments/test", {"viewport": {"width": 1180, "height": 1350}}),
    ("dashboard-dark", "/experiments/test", {"viewport": TOP, "color_scheme": "dark"}),
    ("dashboard-phone", "/experiments/test", {"viewport": PHONE, "device_scale_factor": 2}),
)


def main() -> int:
    """Takes all of them; exit code 1 if one is too large for a repository."""
    FOLDER.mkdir(exist_ok=True)
    too_large = []
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name, chromium() as browser:
        folder = Path(name)
        (folder / "experiments.yaml").write_text(FILE)
        (folder / "logs").mkdir()
        prepared_log(rates=(0.30, 0.42), a_day=400).write(folder / "logs")
        with dashboard(folder) as running:
            running.report()
            for shot, path, context in SHOTS:
                with opened(browser, **context) as (page, _):
                    page.goto(running.url + path)
                    page.wait_for_load_state("networkidle")
                    file = FOLDER / f"{shot}.png"
                    page.screenshot(path=file)
                    size = file.stat().st_size
                    print(f"{file.name}: {size / 1000:.0f} KB")
                    if size > MOST_BYTES:
                        too_large.append(file.name)
    if too_large:
        print(f"larger than {MOST_BYTES // 1000} KB: {', '.join(too_large)}")
    return 1 if too_large else 0


if __name__ == "__main__":
    raise SystemExit(main())
