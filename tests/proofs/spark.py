"""The analysis on another database: Spark runs the same expressions over the same Parquet, and everything is compared.

`./run prove spark` puts PySpark into .cache/spark (it needs Java 17 and a package index), makes logs, one with a ramp,
and compares DuckDB with Spark: each user's allocation, each visit, what each look changes in each user's sums, and the
whole report. Exit code 1 where anything differs by more than one part in 10⁹.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
from abfleet_analysis.analyse import report_on
from abfleet_analysis.decision.metrics import metric_rules
from abfleet_analysis.evidence import log_lines
from abfleet_analysis.evidence.contributions import OutcomeProblems
from abfleet_analysis.evidence.metric_sums import contributed
from abfleet_analysis.evidence.sums import PRODUCTS, changes, column
from abfleet_analysis.evidence.tables import Tables, tables_of
from abfleet_analysis.evidence.visits import counted_in
from abfleet_analysis.periods.allocation_periods import find_allocations, group_names, moment
from abfleet_analysis.reading.open_log import Log, log_in, open_log
from abfleet_analysis.reading.survey import survey_of

from tests.support import made_log
from tests.support.made_log import Size

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / ".cache" / "spark"
PACKAGES = ("pyspark==4.0.5", "py4j==0.10.9.9")
CLOSE = 1e-9
Row = tuple[Any, ...]


class Differs(Exception):
    """The two databases do not say the same."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the proof; 0 when both databases agree."""
    parser = argparse.ArgumentParser(prog="./run prove spark", description=__doc__)
    parser.add_argument("--lines", type=int, default=140_000, help="Log lines of each of the two logs.")
    lines = parser.parse_args(arguments).lines
    install()
    failed = False
    with tempfile.TemporaryDirectory(prefix="abfleet-proof-") as name, spark_session(Path(name)) as session:
        for ramped in (False, True):
            size = Size(max(lines // 7, 1) * 7, max(lines // 10, 1), ramped=ramped)
            folder = Path(name) / f"log-{ramped}"
            folder.mkdir()
            made_log.write_parquet(folder, size, files=4, options="(FORMAT parquet, COMPRESSION zstd)")
            try:
                print(compared(folder, session, size), flush=True)
            except Differs as error:
                failed = True
                print(f"FAILED: {error}", file=sys.stderr)
    print("FAILED" if failed else "held")
    return int(failed)


def install() -> None:
    """Puts PySpark beside the environment, not into it."""
    if not (TARGET / "pyspark").is_dir():
        print(f"installing {', '.join(PACKAGES)} into {TARGET.relative_to(ROOT)}", flush=True)
        tool = ["uv", "pip"] if shutil.which("uv") else [sys.executable, "-m", "pip"]
        partial = TARGET.with_name("spark.partial")
        shutil.rmtree(partial, ignore_errors=True)
        subprocess.run([*tool, "install", "--quiet", "--no-deps", "--target", str(partial), *PACKAGES], check=True)
        partial.rename(TARGET)
    sys.path.insert(0, str(TARGET))
    os.environ["PYTHONPATH"] = str(TARGET)


@contextmanager
def spark_session(folder: Path) -> Iterator[Any]:
    """Spark on this machine, on two cores, with everything it writes in a folder."""
    from pyspark.sql import SparkSession  # type: ignore[import-not-found, unused-ignore]

    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.session.timeZone": "UTC",
        "spark.driver.memory": "3g",
        "spark.sql.shuffle.partitions": "8",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.local.dir": str(folder),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master("local[2]")
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    try:
        yield session
    finally:
        session.stop()


def compared(folder: Path, session: Any, size: Size) -> str:
    """Everything of one log on both; what was compared, in words. Raises Differs."""
    begin = time.monotonic()
    with open_log([folder]) as log:
        here, report = collected(log, folder), report_on(log, made_log.config()).as_dict()
    between = time.monotonic()
    connection = ibis.pyspark.connect(session)
    log = log_in(connection, connection.read_parquet(str(folder)))
    there, far_report = collected(log, folder), report_on(log, made_log.config()).as_dict()
    end = time.monotonic()
    told = []
    for name, rows in here.items():
        worst = difference(rows, there[name], name)
        told.append(f"{len(rows):,} {name} (worst difference {worst:.1g})")
    worst = nested(report, far_report, "report")
    told.append(f"the report (worst difference {worst:.1g})")
    kind = "two allocations" if size.ramped else "one allocation"
    return (
        f"{size.lines:,} lines of {size.users:,} users, {kind}: the same "
        + ", ".join(told)
        + f"; DuckDB {between - begin:.0f} s, Spark {end - between:.0f} s"
    )


def collected(log: Log, folder: Path) -> dict[str, list[Row]]:
    """Users, visits and changes as rows, with user ids instead of their hashes, which differ."""
    tables = tables_in(log)
    connection = log.storage.connection
    numbered = connection.read_parquet(str(folder) + ("/*.parquet" if connection.name == "duckdb" else ""))
    ids = numbered.select("user_id").distinct().filter(ibis._.user_id.notnull())
    ids = ids.mutate(user=log.storage.dialect.identity(ids.user_id))
    units = tables.units.select("user", "period", "g", "cell", "first", "bucket", "entry", "two_groups")
    # A user may have several rows for a look, and their order is nobody's: what they say together is.
    visits = tables.visits.group_by("user", "period", "cell", "g", "look").aggregate(
        **{name: tables.visits[name].sum() for name in counted_in(tables.visits)}
    )
    found = contributed(tables, OutcomeProblems())
    changed = changes(found.table, found.values, tables.shape, replace(tables.layout, ramped=True, everyone=True))
    names = [column(rule.name, part) for rule in tables.rules for part in PRODUCTS]
    sums = {name: changed[name].sum() for name in names}
    by_look = changed.group_by("user", "period", "place").aggregate(**sums)
    return {
        name: _rows(table.inner_join(ids, "user").drop("user"))
        for name, table in (("users", units), ("visits", visits), ("changes", by_look))
    }


def tables_in(log: Log) -> Tables:
    """The tables of the log's only experiment."""
    config = made_log.config()
    (experiment,) = config.experiments
    rules = metric_rules(experiment.metrics, experiment.plan, config.metrics)
    survey = survey_of(log)
    newest = survey.newest or 0
    lines = log_lines.read_lines(log, newest, survey)
    groups = group_names(experiment, [], {})
    found = find_allocations(lines.calls.allocated(experiment.name), groups, experiment, {}, moment(newest))
    return tables_of(lines, experiment.name, groups, found, rules, experiment.plan, moment(newest))


def _rows(table: ir.Table) -> list[Row]:
    columns = ["user_id", *sorted(name for name in table.columns if name != "user_id")]
    keys = ("user_id", "period", "look", "place")
    rows = table.select(columns).to_pyarrow().to_pylist()
    rows.sort(key=lambda row: tuple(row[key] for key in keys if key in row))
    return [tuple(row.values()) for row in rows]


def difference(ours: list[Row], theirs: list[Row], name: str) -> float:
    """The largest difference of two lists of rows, relative to what is above 1. Raises Differs."""
    if len(ours) != len(theirs):
        raise Differs(f"{len(ours)} {name} on DuckDB, {len(theirs)} on Spark")
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        for left, right in zip(one, other, strict=True):
            worst = max(worst, apart(left, right, f"{name}: {one} and {other}"))
    return worst


def apart(left: Any, right: Any, where: str) -> float:
    """How far apart two values are. Raises Differs."""
    if isinstance(left, int | float) and isinstance(right, int | float) and not isinstance(left, bool):
        if math.isnan(left) and math.isnan(right):
            return 0.0
        far = abs(left - right) / max(1.0, abs(left), abs(right)) if left != right else 0.0
        if not far <= CLOSE:
            raise Differs(f"{where}: {left} is not {right}")
        return float(far)
    if left != right:
        raise Differs(f"{where}: {left!r} is not {right!r}")
    return 0.0


def nested(left: Any, right: Any, where: str) -> float:
    """The same of documents."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        if left.keys() != right.keys():
            raise Differs(f"{where}: {sorted(left)} are not {sorted(right)}")
        return max((nested(value, right[key], f"{where}.{key}") for key, value in left.items()), default=0.0)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        if len(left) != len(right):
            raise Differs(f"{where}: {len(left)} and {len(right)} entries")
        pairs = enumerate(zip(left, right, strict=True))
        return max((nested(a, b, f"{where}[{index}]") for index, (a, b) in pairs), default=0.0)
    if isinstance(left, np.generic):
        left = left.item()
    return apart(left, right.item() if isinstance(right, np.generic) else right, where)


if __name__ == "__main__":
    raise SystemExit(main())
