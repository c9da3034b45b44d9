"""Decision logs of any size, made by DuckDB from row numbers: the same rows each time. Knows the schema, runs no fleet.

Each user comes at least once and a few come often; groups follow buckets at 70/20/10; the experiment group clicks a
tenth more often. One line in seven is an outcome.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
from abfleet_experiments.config import Config
from abfleet_experiments.file.load import load_text
from abfleet_log.tools.compact import TYPED

BEGIN_US: Final = 1_793_491_200_000_000
"""2026-11-01, in microseconds since 1970."""
SPAN_US: Final = 14 * 86_400 * 1_000_000
OUTCOMES_IN: Final = 7
"""One line in so many is an outcome."""
_NEAR: Final = 10_000
"""How many calls later is still about the same time."""
TEXT: Final = """
version: 1
default: v1
models:
  v1: {target: "127.0.0.1:1"}
  v2: {target: "127.0.0.1:2"}
  v3: {target: "127.0.0.1:3"}
experiments:
  - name: homepage-ranking
    groups:
      - {name: control, model: v1, weight: 70}
      - {name: experiment, model: v2, weight: 20}
      - {name: canary, model: v3, weight: 10}
    metrics:
      primary: ctr
      guardrails: [error_rate, {name: response_time_p95, margin: 0.10}]
      secondary: [conversion_rate, revenue_per_user]
"""


@dataclass(frozen=True, slots=True)
class Size:
    """Of a log: lines of both kinds, and users. Lines are a multiple of OUTCOMES_IN."""

    lines: int
    users: int
    ramped: bool = False
    """Whether the shares become 50/30/20 half way."""

    @property
    def outcomes(self) -> int:
        """How many of the lines are outcomes."""
        return self.lines // OUTCOMES_IN

    @property
    def exposures(self) -> int:
        """The others, the calls."""
        return self.lines - self.outcomes


def config() -> Config:
    """The experiments file that belongs to the log: the shipped file's split and metrics."""
    return load_text(TEXT)


def write_lines(folder: Path, size: Size, *, files: int) -> None:
    """The log as routers leave it: so many files of JSON lines, one after the other in time."""
    with _connected() as connection:
        for part in range(files):
            path = folder / f"decisions-host-20261101T000000{part:06}Z-1.jsonl"
            connection.execute(
                f"COPY (SELECT line FROM (SELECT ts, {_exposure_text()} AS line FROM ({_exposures(size, part, files)}) "
                f"UNION ALL SELECT ts, {_outcome_text()} FROM ({_outcomes(size, part, files)})) ORDER BY ts) "
                f"TO {_quoted(path)} (FORMAT csv, HEADER false, DELIMITER '\\x01', QUOTE '', ESCAPE '')"
            )


def write_parquet(folder: Path, size: Size, *, files: int, options: str) -> None:
    """The log as a compaction leaves it, with its columns and options, less the column that has the lines' text."""
    with _connected() as connection:
        for part in range(files):
            rows = " UNION ALL BY NAME ".join(
                f"SELECT * REPLACE (make_timestamp(ts) AS ts) FROM ({query})"
                for query in (_exposures(size, part, files), _outcomes(size, part, files))
            )
            listed = {row[0] for row in connection.execute(f"DESCRIBE {rows}").fetchall()}
            columns = ", ".join(
                f'"{name}"::{kind} AS "{name}"' if name in listed else f'NULL::{kind} AS "{name}"'
                for name, kind in TYPED.items()
            )
            path = _quoted(folder / f"{part:04}.parquet")
            connection.execute(f"COPY (SELECT {columns} FROM ({rows}) ORDER BY ts) TO {path} {options}")


def _connected() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET memory_limit = '4GB'")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _hash(row: str, salt: int) -> str:
    """Of a row's number, as SQL. DuckDB combines the hashes of two arguments so simply that they would be related."""
    return f"hash({row} * 1024 + {salt})"


def _share(row: str, salt: int) -> str:
    """A number of [0, 1) that follows from a row's number, as SQL."""
    return f"(({_hash(row, salt)} >> 11)::DOUBLE / 9007199254740992.0)"


def _exposures(size: Size, part: int, parts: int) -> str:
    """Calls: who, when, and what became of them. A call's number says all of it, so that outcomes can find it."""
    low, high = size.exposures * part // parts, size.exposures * (part + 1) // parts
    return f"SELECT {_exposure_columns(size)} FROM (SELECT range AS i FROM range({low}, {high}))"


def _exposure_columns(size: Size) -> str:
    return f"""
        'exposure' AS event, {_time("i", size)} AS ts, {_request("i")} AS request_id, {_user("i", size)} AS user_id,
        'default' AS layer, 'homepage-ranking' AS experiment, {_group("i", size)} AS "group",
        {_bucket("i", size)} AS bucket,
        'allocated' AS reason, CASE WHEN {_late("i", size)} THEN 'b6f12a3d44e8' ELSE 'a5e01f2c33d7' END AS allocation,
        CASE {_group("i", size)} WHEN 'control' THEN {_either("i", 0.5, 0.7, size)}
            WHEN 'experiment' THEN {_either("i", 0.3, 0.2, size)} ELSE {_either("i", 0.2, 0.1, size)} END AS propensity,
        CASE {_group("i", size)} WHEN 'control' THEN 'v1' WHEN 'experiment' THEN 'v2' ELSE 'v3' END AS model_version,
        'v1' AS served_version, CASE WHEN {_share("i", 3)} < 0.002 THEN 'timeout' END AS fallback, 1 AS attempts,
        CASE WHEN {_share("i", 4)} < 0.001 THEN 'UNAVAILABLE' ELSE 'OK' END AS status,
        round(exp(1.5 + 0.5 * sqrt(-2 * ln(1 - {_share("i", 5)})) * cos(6.283185307 * {_share("i", 6)})), 3)
            AS latency_ms,
        [{", ".join(f"{_item('i', place)}" for place in range(10))}] AS items,
        ({_hash("i", 7)} % 50)::INTEGER AS history_length,
        '0123456789ab' AS config_revision, false AS synthetic, 'router-1' AS router
    """


def _outcomes(size: Size, part: int, parts: int) -> str:
    """Outcomes of calls: mostly clicks on the list, some conversions and purchases; few name no call."""
    low, high = size.outcomes * part // parts, size.outcomes * (part + 1) // parts
    # Calls that are taken up by an outcome are drawn by the outcome's number; the better group's ones more often.
    drawn = f"(j * {size.exposures} // {size.outcomes})"
    # Not anywhere: a router writes lines as they come, and no file has outcomes of all days.
    elsewhere = f"least({drawn} + 1 + ({_hash('j', 21)} % {_NEAR})::BIGINT, {size.exposures - 1})"
    passed = f"{_hash('j', 20)} % 11 = 0 AND {_group(drawn, size)} <> 'experiment'"
    lifted = f"(CASE WHEN {passed} THEN {elsewhere} ELSE {drawn} END)"
    kind = f"({_hash('j', 22)} % 20)"
    return f"""
        SELECT 'outcome' AS event, {_time("i", size)} + 1 + ({_hash("j", 23)} % 600000000)::BIGINT AS ts,
            'o-' || j AS outcome_id, CASE WHEN {_hash("j", 24)} % 100 > 0 THEN {_request("i")} END AS request_id,
            {_user("i", size)} AS user_id,
            CASE WHEN {kind} < 17 THEN 'click' WHEN {kind} < 19 THEN 'conversion' ELSE 'purchase' END AS type,
            CASE ({_hash("j", 25)} % 4) {" ".join(f"WHEN {place} THEN {_item('i', place)}" for place in range(4))} END
                AS item_id,
            CASE WHEN {kind} = 19 THEN round(5 + 100 * {_share("j", 26)}, 2) END AS value,
            CASE WHEN {kind} = 19 THEN 'EUR' END AS currency
        FROM (SELECT j, {lifted} AS i FROM (SELECT range AS j FROM range({low}, {high})))
    """


def _time(row: str, size: Size) -> str:
    return f"({BEGIN_US} + ({row} * {SPAN_US / size.exposures})::BIGINT)"


def _request(row: str) -> str:
    return f"(printf('%016x', {_hash(row, 1)}) || printf('%016x', {_hash(row, 2)}))"


def _user_number(row: str, size: Size) -> str:
    """One call in `exposures / users` brings each user in turn; the others come from whoever comes often."""
    every = max(size.exposures // size.users, 1)
    return (
        f"(CASE WHEN {row} % {every} = 0 THEN ({row} // {every}) % {size.users} "
        f"ELSE ({size.users} * {_share(row, 8)} * {_share(row, 9)})::BIGINT END)"
    )


def _user(row: str, size: Size) -> str:
    return f"('user-' || {_user_number(row, size)})"


def _bucket(row: str, size: Size) -> str:
    return f"({_hash(_user_number(row, size), 10)} % 10000)::INTEGER"


def _late(row: str, size: Size) -> str:
    return f"({row} * 2 >= {size.exposures if size.ramped else 2**62})"


def _either(row: str, late: float, early: float, size: Size) -> str:
    return f"(CASE WHEN {_late(row, size)} THEN {late} ELSE {early} END)"


def _group(row: str, size: Size) -> str:
    """The experiment group grows from the lowest bucket up, the canary from the highest down."""
    bucket, low, high = _bucket(row, size), _either(row, 3000, 2000, size), _either(row, 8000, 9000, size)
    return f"(CASE WHEN {bucket} < {low} THEN 'experiment' WHEN {bucket} >= {high} THEN 'canary' ELSE 'control' END)"


def _item(row: str, place: int) -> str:
    return f"(1 + {_hash(row, 100 + place)} % 9742)::BIGINT"


def _exposure_text() -> str:
    """The line of a call, with every field in the order in which a router writes them."""
    return _json(
        'schema := 1, event, ts := {ts}, request_id, user_id, bucket, layer, experiment, "group", reason, allocation, '
        "propensity, model_version, config_revision, router, served_version, fallback, attempts, status, latency_ms, "
        "items, history_length, attributes := '{{}}'::JSON, synthetic, trace_id := NULL, client := NULL"
    )


def _outcome_text() -> str:
    return _json(
        "schema := 1, event, ts := {ts}, received_ts := {ts}, outcome_id, request_id, user_id, type, item_id, value, "
        "currency"
    )


def _json(fields: str) -> str:
    named = [part if ":=" in part else f"{part} := {part}" for part in fields.split(", ")]
    return (
        f"to_json(struct_pack({', '.join(named)}))".format(ts="strftime(make_timestamp(ts), '%Y-%m-%dT%H:%M:%S.%fZ')")
        + "::VARCHAR"
    )


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"
