"""Outcomes from elsewhere, such as an order database: read, mapped, checked and appended.

Groups come from exposures alone: a table that brings its own is refused, so that nobody joins by what it thinks.
"""

import csv
import hashlib
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from abfleet_log.files import WriterIdentity, create
from abfleet_log.outcome import conflict, content, explained, line, problem
from abfleet_log.tools.read_lines import BYTE_ORDER_MARK, LogsError, is_blank

FIELDS = ("outcome_id", "request_id", "user_id", "type", "item_id", "value", "currency", "time", "item_name")
FORBIDDEN = ("group", "experiment")
UNITS = {"s": 1_000_000, "ms": 1_000, "us": 1}
MAX_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMap:
    """How columns become fields.

    Attributes:
        columns: Field to column; a field without an entry is the column of its own name, if there is one.
        constants: Field to a value for every row.
        time_unit: Of times that are numbers; None: times are ISO 8601 with an offset.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, str] = field(default_factory=dict)
    time_unit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedOutcome:
    """A row, as something that a user did.

    Attributes:
        outcome_id: Makes a repeat harmless.
        request_id: The exposure it belongs to; empty: it joins the user's exposures by time.
        item_id, item: The item by its number or by its name, as the exposure has it; 0 and empty: none.
        time: When it happened, in microseconds since the epoch, UTC; 0: now.
    """

    outcome_id: str
    type: str
    request_id: str = ""
    user_id: str = ""
    item_id: int = 0
    item: str = ""
    value: float = 0.0
    currency: str = ""
    time: int = 0


@dataclass(slots=True)
class ImportResult:
    """What became of the rows; changed only by `import_outcomes`."""

    rows: int = 0
    accepted: int = 0
    by_type: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    rejected: int = 0
    reasons: list[str] = field(default_factory=list)
    """The first rejections: row number and why."""
    path: Path | None = None


def import_outcomes(
    file: Path,
    folder: Path,
    mapping: ColumnMap,
    types: frozenset[str],
    identity: WriterIdentity,
    *,
    dry_run: bool,
    skip_rejected: bool,
    wall: Callable[[], float] = time.time,
    on_row: Callable[[], None] = lambda: None,
) -> ImportResult:
    """Checks every row, then appends the outcomes to a log file of their own. Raises LogsError.

    Nothing is written when a row is rejected, unless `skip_rejected`. The same rows imported again have the same ids,
    so that they count once.
    """
    result = ImportResult()
    now, seen = int(wall() * 1e6), dict[str, int]()
    lines: list[bytes] = []
    for number, row in enumerate(_rows(file, mapping), 1):
        result.rows += 1
        on_row()
        try:
            if isinstance(row, _Unreadable):
                raise ValueError(row.why)
            outcome = _outcome(row, mapping)
            reason, known = problem(outcome, types, now), seen.get(outcome.outcome_id)
            if reason is None and known not in (None, content(outcome)):
                reason = conflict(outcome.outcome_id)
        except ValueError as error:
            reason = str(error)
        if reason is not None:
            result.rejected += 1
            if len(result.reasons) < MAX_SHOWN:
                result.reasons.append(f"row {number}: {reason}")
        elif known is not None:
            result.repeated += 1
        else:
            seen[outcome.outcome_id] = content(outcome)
            result.accepted += 1
            result.by_type[outcome.type] += 1
            lines.append(orjson.dumps(line(outcome, now)))
    if lines and not dry_run and (skip_rejected or not result.rejected):
        result.path = _append(lines, folder, identity, wall)
    return result


def _append(lines: Sequence[bytes], folder: Path, identity: WriterIdentity, wall: Callable[[], float]) -> Path:
    """Under a name that no reader takes for a log until all is on disk."""
    file, path = create(folder, identity, wall)
    partial = path.with_name(f".{path.name}.partial")
    path.rename(partial)
    try:
        with os.fdopen(file, "wb") as out:
            out.writelines(line + b"\n" for line in lines)
            out.flush()
            os.fsync(out.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _outcome(row: Mapping[str, Any], mapping: ColumnMap) -> ImportedOutcome:
    """Raises ValueError that names the field."""
    values = {name: _cell(row, name, mapping) for name in FIELDS}
    if values["item_id"] and not {"item_name"} & {*mapping.columns, *mapping.constants}:
        values["item_name"] = None  # a title, it may be: nobody has said that it is the id
    outcome_id = _text("outcome_id", values["outcome_id"])
    if not outcome_id:
        # A name made of the row itself: the same row again has the same.
        texts = [_text(name, values[name]) for name in FIELDS[1:]]
        cells = orjson.dumps(texts if texts[-1] else texts[:-1])  # as before items could have names
        outcome_id = f"row-{hashlib.sha256(cells).hexdigest()[:32]}"
    at_us = _time(values["time"], mapping.time_unit)
    if not at_us:  # in an outcome that is "now", when nothing of what is imported happened
        raise ValueError(explained("time", values["time"], "times from 2000 on"))
    return ImportedOutcome(
        outcome_id=outcome_id,
        request_id=_text("request_id", values["request_id"]),
        user_id=_text("user_id", values["user_id"]),
        type=_text("type", values["type"]),
        item_id=_whole("item_id", values["item_id"]),
        item=_text("item_name", values["item_name"]),
        value=_real("value", values["value"]),
        currency=_text("currency", values["currency"]),
        time=at_us,
    )


def _cell(row: Mapping[str, Any], name: str, mapping: ColumnMap) -> Any:
    if name in mapping.constants:
        return mapping.constants[name]
    return row.get(mapping.columns.get(name, name))


def _text(name: str, value: Any) -> str:
    """A cell as text; nan is no value, and is not absent either, whatever the field."""
    if value is None:
        return ""
    if isinstance(value, str) and not value.isprintable() and any("\ud800" <= one <= "\udfff" for one in value):
        raise ValueError(f"{name}: {value[:64]!r}; allowed: text in UTF-8")
    if isinstance(value, bool | bytes | list | dict) or (
        name != "value" and isinstance(value, float) and math.isnan(value)
    ):
        raise ValueError(explained(name, value, "text or a number, or null for none"))
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _number(name: str, value: Any) -> str:
    """A number as text. Python takes `1_000` and the digits of every script for one, other readers do not."""
    text = _text(name, value).strip()
    if "_" in text or not text.isascii():
        raise ValueError(f"{name}: {text[:64]!r}; allowed: numbers of the digits 0 to 9, such as 1000 or 9.90")
    return text


def _whole(name: str, value: Any) -> int:
    text = _number(name, value)
    try:
        number = int(float(text)) if text and float(text) == int(float(text)) and "." in text else int(text or 0)
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: {text[:64]!r}; allowed: whole numbers") from None
    if not -(2**63) <= number < 2**63:  # as the contract has it, and the log
        raise ValueError(f"{name}: {text[:64]!r}; allowed: whole numbers that fit into 64 bits")
    return number


def _real(name: str, value: Any) -> float:
    text = _number(name, value)
    try:
        return float(text or 0)
    except ValueError:
        raise ValueError(f"{name}: {text[:64]!r}; allowed: numbers with a decimal point, such as 9.90") from None


def _time(value: Any, unit: str | None) -> int:
    """Microseconds since the epoch."""
    if isinstance(value, datetime):
        return round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * 1e6)
    text = _text("time", value)
    try:
        if unit is not None:
            return round(float(_number("time", value)) * UNITS[unit])
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        allowed = "ISO 8601, such as 2026-11-01T12:00:00Z, or numbers with --time-unit"
        raise ValueError(f"time: {text[:64]!r}; allowed: {allowed}") from None
    if at.tzinfo is None:
        raise ValueError(f"time: {text[:64]!r}; allowed: times with an offset, such as Z")
    return round(at.timestamp() * 1e6)


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A row that is none, and why: it is rejected, as one with a wrong value is."""

    why: str


def _rows(file: Path, mapping: ColumnMap) -> Iterator[Mapping[str, Any] | _Unreadable]:
    """The rows of a table, with its columns checked first. Raises LogsError."""
    try:
        match file.suffix.lower():
            case ".csv":
                rows = _csv(file)
            case ".jsonl" | ".ndjson":
                rows = _json(file)
            case ".parquet":
                rows = _parquet(file)
            case _:
                raise LogsError(
                    f"{file.name[:64]}: this kind of file is not allowed; allowed: .csv, .jsonl and .parquet"
                )
        for row in rows:
            if not isinstance(row, _Unreadable):
                _check_columns(row, mapping, file)
            yield row
    except (OSError, csv.Error) as error:
        raise LogsError(f"{file}: {error}") from error


def _check_columns(row: Mapping[str, Any], mapping: ColumnMap, file: Path) -> None:
    for name in FORBIDDEN:
        if name in row:
            raise LogsError(
                f"{file.name[:64]}: column {name!r} is not allowed; remove it: groups come from exposures alone"
            )
    for name, column in mapping.columns.items():
        if column in FORBIDDEN or (column not in row and file.suffix != ".jsonl"):
            there = ", ".join(repr(name)[1:-1] for name in row if name is not None)
            raise LogsError(f"{file.name[:64]}: column {column[:64]!r} for {name} is missing; there are {there[:200]}")


def _csv(file: Path) -> Iterator[Mapping[str, Any] | _Unreadable]:
    """Bytes that are no UTF-8 become characters that `_text` refuses, so that only their row is rejected."""
    with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as source:
        rows = csv.DictReader(source)
        if rows.fieldnames is None:
            return
        while True:
            try:
                yield next(rows)
            except csv.Error as error:
                yield _Unreadable(f"is not CSV: {error}")
            except StopIteration:
                return


def _json(file: Path) -> Iterator[Mapping[str, Any] | _Unreadable]:
    with file.open("rb") as source:
        for raw in source:
            if is_blank(raw.removesuffix(b"\n")):
                continue
            try:
                row = orjson.loads(raw.removeprefix(BYTE_ORDER_MARK))
            except orjson.JSONDecodeError as error:
                yield _Unreadable(f"is not JSON: {error.msg}")
                continue
            yield row if isinstance(row, dict) else _Unreadable("is not a JSON object")


def _parquet(file: Path) -> Iterator[Mapping[str, Any]]:
    import duckdb

    with duckdb.connect() as connection:
        try:
            rows = connection.execute("SELECT * FROM read_parquet(?)", [str(file)])
        except duckdb.Error as error:
            raise LogsError(f"{file}: {str(error).splitlines()[0][:200]}") from error
        names = [column[0] for column in rows.description or ()]
        while batch := rows.fetchmany(10_000):
            for values in batch:
                yield dict(zip(names, values, strict=True))
