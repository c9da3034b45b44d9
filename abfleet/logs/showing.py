"""A line of the log for people, and the end of a log that grows. Knows what each kind of line is about."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from abfleet.logs.files import PARQUET_SUFFIX, LogsError, line_files, lines_of

FOLLOW_SECONDS = 0.2
"""Between looks at files that may have grown."""
Line = dict[str, Any]


def one_line(line: Line) -> str:
    """Time, kind and what it is about, in one line of text."""
    when = str(line.get("ts", "?"))[:23].replace("T", " ")
    who = line.get("user_id") or (str(line.get("user_id_hmac") or "")[:12] or "nobody")
    match line.get("event"):
        case "exposure":
            where = f"{line['experiment']}/{line['group']}" if line.get("experiment") else str(line.get("reason"))
            served = line.get("served_version") or "nothing"
            fallback = f" instead of {line.get('model_version')} ({line['fallback']})" if line.get("fallback") else ""
            what = (
                f"{who}  {where}  {served}{fallback}  {line.get('status')}  {len(line.get('items') or ())} items  "
                f"{line.get('latency_ms', 0):.1f} ms"
            )
        case "outcome":
            money = (
                f"  {line['value']:g} {line.get('currency') or ''}".rstrip() if line.get("value") is not None else ""
            )
            item = f"  item {line['item_id']}" if line.get("item_id") else ""
            what = f"{who}  {line.get('type')}{item}{money}  of {line.get('request_id') or 'no request'}"
        case "allocation":
            shares = ", ".join(f"{name} {share:g} %" for name, share in (line.get("weights") or {}).items())
            what = f"{line.get('experiment')}  {shares} of {line.get('traffic', 0):g} %"
        case "reload":
            state = "in force" if line.get("active") else "not taken: " + "; ".join(line.get("errors") or ())
            what = f"{line.get('old_revision')} -> {line.get('new_revision')}  {state}"
        case "rejected":
            what = f"{line.get('field')}  {line.get('message')}"
        case _:
            what = orjson.dumps(line).decode()[:200]
    mark = "  synthetic" if line.get("synthetic") else ""
    return f"{when}  {line.get('event', '?'):10}  {what}{mark}"


def last_lines(paths: Sequence[Path], count: int, wanted: Callable[[Line], bool]) -> list[Line]:
    """The newest `count` lines that are wanted, in the order of time. Raises LogsError."""
    kept: deque[Line] = deque(maxlen=count)
    files = [path for path in line_files(paths) if path.suffix != PARQUET_SUFFIX]
    if not files:
        raise LogsError(f"{', '.join(str(path)[:64] for path in paths)}: no decision log here that grows")
    found: list[Line] = []
    for path in files:
        kept.clear()
        kept.extend(line for raw, ended in lines_of(path) if ended and (line := parsed(raw)) and wanted(line))
        found += kept
    found.sort(key=lambda line: str(line.get("ts")))
    return found[-count:] if count else []


def parsed(raw: bytes) -> Line | None:
    """The line, or None where it is none."""
    try:
        line = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return line if isinstance(line, dict) else None


def new_lines(
    paths: Sequence[Path], wanted: Callable[[Line], bool], wait: Callable[[float], None] = time.sleep
) -> Iterator[Line]:
    """Lines that are written from now on, in files that are there and in new ones; never ends."""
    read = {path: path.stat().st_size for path in _plain(paths)}
    while True:
        for path in _plain(paths):
            try:
                with path.open("rb") as file:
                    file.seek(read.get(path, 0))
                    new = file.read()
            except FileNotFoundError:
                continue
            whole = new.rfind(b"\n") + 1
            read[path] = read.get(path, 0) + whole
            for raw in new[:whole].splitlines():
                if (line := parsed(raw)) is not None and wanted(line):
                    yield line
        wait(FOLLOW_SECONDS)


def _plain(paths: Sequence[Path]) -> list[Path]:
    return [path for path in line_files(paths) if path.suffix in (".jsonl", ".ndjson")]
