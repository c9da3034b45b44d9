"""The dashboard over a large log, and how soon traffic shows: `./run prove dashboard`.

A log of 10 million lines in 50 experiments is made; every page has to come within a second, also while the next report
is being made. Then a fleet is started, and calls are timed until an open page has them. Exit code 1 if a promise is not
kept. `--lines` and `--experiments` make it smaller.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import psutil

from tests.support.dashboard import Dashboard, dashboard
from tests.support.fleet import wait_until
from tests.support.up import ANY_PORTS, Up, run_abfleet, tiny_models

PAGE_SECONDS = 1.0
FRESH_SECONDS = 10.0
REPORT_SECONDS = 1800.0
PACE_SECONDS = 0.5
DAYS = 14
PARTS = 10


def main() -> int:
    """Runs both; gives the exit code."""
    parser = argparse.ArgumentParser(prog="./run prove dashboard", description=__doc__)
    parser.add_argument("--lines", type=int, default=10_000_000)
    parser.add_argument("--experiments", type=int, default=50)
    parser.add_argument("--only", choices=("pages", "freshness"))
    chosen = parser.parse_args()
    kept = True
    if chosen.only != "freshness":
        with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
            kept &= pages_of_a_large_log(Path(name), lines=chosen.lines, experiments=chosen.experiments)
    if chosen.only != "pages":
        with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name:
            kept &= freshness(Path(name))
    print("held" if kept else "NOT held")
    return 0 if kept else 1


def pages_of_a_large_log(folder: Path, *, lines: int, experiments: int) -> bool:
    """Times every page: while the first report is made, after it, and while the next one is made."""
    began = time.monotonic()
    make(folder, lines, experiments)
    size = sum(file.stat().st_size for file in (folder / "logs").iterdir())
    print(f"{lines:,} lines in {experiments} experiments made in {time.monotonic() - began:.0f} s: {size / 1e6:.0f} MB")
    names = [f"experiment-{number}" for number in range(experiments)]
    with dashboard(folder) as running:
        began = time.monotonic()
        watched = timed_while(running, ["/", "/fleet"], lambda: running.ask("/api/report.json").status != 200)
        print(f"first report after {time.monotonic() - began:.1f} s, its libraries included")
        told("pages before there is a report", watched)
        every = ["/", "/fleet", "/api/report.json"]
        every += [path for name in names for path in (f"/experiments/{name}", f"/report/{name}.html")]
        first, again = timed(running, every), timed(running, every)
        told("every page, made anew", first)
        told("every page, a second time", again)
        version = running.ask("/api/report.json").headers["etag"]
        began = time.monotonic()
        make(folder, 7 * experiments, experiments, salt=1)
        meanwhile = timed_while(running, every, lambda: running.ask("/api/report.json").headers["etag"] == version)
        print(f"next report after {time.monotonic() - began:.1f} s")
        told("every page, while it is made", meanwhile)
        parent = psutil.Process(running.process.popen.pid)
        resident = [process.memory_info().rss / 2**20 for process in (parent, *parent.children())]
        print(f"resident: pages {resident[0]:.0f} MiB, analysis {sum(resident[1:]):.0f} MiB")
    return max(watched + first + again + meanwhile) < PAGE_SECONDS


def timed(running: Dashboard, paths: list[str]) -> list[float]:
    """Seconds that each of the pages took."""
    seconds = []
    for path in paths:
        began = time.monotonic()
        answer = running.ask(path)
        seconds.append(time.monotonic() - began)
        assert answer.status in (200, 503), (path, answer.status)
    return seconds


def timed_while(running: Dashboard, paths: list[str], condition: Callable[[], bool]) -> list[float]:
    """The same, over and over, for as long as the condition holds; at most half an hour."""
    until, seconds = time.monotonic() + REPORT_SECONDS, timed(running, paths)
    while condition():
        assert time.monotonic() < until, f"no report within half an hour: {running.ask('/').text}"
        seconds += timed(running, paths)
        time.sleep(PACE_SECONDS)  # as a reader would, not as a benchmark
    return seconds


def told(what: str, seconds: list[float]) -> None:
    """Prints how long pages took."""
    p50, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
    print(f"{what}: {len(seconds)} requests, p50 {p50 * 1e3:.0f} ms, p99 {p99 * 1e3:.0f} ms, max {max(seconds):.3f} s")


def make(folder: Path, lines: int, experiments: int, *, salt: int = 0) -> None:
    """A log in Parquet: users in halves of one experiment each, who come several times; one line in seven a click."""
    (folder / "logs").mkdir(exist_ok=True)
    models = "models: {v1: {target: '127.0.0.1:1'}, v2: {target: '127.0.0.1:2'}}\n"
    groups = "groups: [{name: control, model: v1, weight: 50}, {name: treatment, model: v2, weight: 50}]"
    slices = "".join(
        f"  - {{name: experiment-{number}, layer: layer-{number}, {groups}}}\n" for number in range(experiments)
    )
    (folder / "experiments.yaml").write_text(f"version: 1\ndefault: v1\n{models}experiments:\n{slices}")
    exposures = lines * 6 // 7
    users = max(exposures // 9, 1)
    for part in range(PARTS):
        low, high = exposures * part // PARTS, exposures * (part + 1) // PARTS
        with duckdb.connect() as connection:
            file = folder / "logs" / f"{salt}-{part}.parquet"
            rows = _rows(low, high, users, experiments, salt)
            connection.execute(f"COPY ({rows}) TO '{file}' (FORMAT parquet, COMPRESSION zstd)")


def _rows(low: int, high: int, users: int, experiments: int, salt: int) -> str:
    calls = f"""
        SELECT i, hash(i % {users}, {salt}) AS h, 'u{salt}-' || (i % {users}) AS user_id,
            'r{salt}-' || i AS request_id, (i % {users}) % {experiments} AS place,
            TIMESTAMPTZ '2026-11-01 00:00:00+00' + INTERVAL (hash(i) % {DAYS * 86_400}) SECOND AS ts
        FROM (SELECT range AS i FROM range({low}, {high}))"""
    # A user is in one half for good; the treatment's users click a fifth more often.
    return f"""
        WITH calls AS ({calls})
        SELECT 'exposure' AS event, ts, user_id, request_id, 'experiment-' || place AS experiment,
            CASE h % 2 WHEN 0 THEN 'control' ELSE 'treatment' END AS "group", (h % 10000)::INTEGER AS bucket,
            'allocated' AS reason, 'aaaaaaaaaaaa' AS allocation, 0.5 AS propensity,
            CASE h % 2 WHEN 0 THEN 'v1' ELSE 'v2' END AS model_version,
            CASE h % 2 WHEN 0 THEN 'v1' ELSE 'v2' END AS served_version, NULL AS fallback, 'OK' AS status,
            5.0 + (hash(i, 1) % 100) / 10 AS latency_ms, [1, 2, 3]::BIGINT[] AS items, false AS synthetic,
            NULL AS outcome_id, NULL AS type, NULL::BIGINT AS item_id
        FROM calls
        UNION ALL
        SELECT 'outcome', ts, user_id, request_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            NULL, false, 'o{salt}-' || i, 'click', 1
        FROM calls WHERE hash(i, 2) % 60 < 10 + h % 2 * 2 - 1"""


def freshness(folder: Path, rounds: int = 5) -> bool:
    """Seconds from the last call of a few until an open page would show them, on a running fleet."""
    ports = [*ANY_PORTS[: ANY_PORTS.index("--dashboard-port")], "--dashboard-port", "0"]
    seconds = []
    with Up(folder, tiny_models(folder / "models"), ports=ports) as up:
        address = up.ready().wait_for(r"^dashboard ready http://(\S+)/", 90).group(1)
        shown = Dashboard(address)
        for number in range(1, rounds + 1):
            words = ("client", "--address", up.address, "--users", str(100 * number), "--as-real")
            done = run_abfleet(*words, folder=folder)
            assert done.returncode == 0, done.stderr
            began = time.monotonic()
            wait_until(lambda expected=100 * number: _users(shown) == expected, f"{100 * number} users", 60)
            seconds.append(time.monotonic() - began)
    print(f"new users on the page after {', '.join(f'{one:.1f}' for one in seconds)} s")
    return max(seconds[1:]) < FRESH_SECONDS


def _users(shown: Dashboard) -> int:
    answer = shown.ask("/api/report.json")
    if answer.status != 200:
        return 0
    shown.ask("/experiments/homepage-ranking")
    return int(answer.json()["experiments"][0]["plan"]["users"])


if __name__ == "__main__":
    raise SystemExit(main())
