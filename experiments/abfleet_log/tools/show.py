"""A line of the log for people, and the end of a log that grows. Knows what each kind of line is about."""

import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from abfleet_process.counting import counted

from abfleet_log.tools.read_lines import PARQUET_SUFFIX, LogsError, all_lines, is_blank, line_files, parsed

FOLLOW_SECONDS = 0.2
"""Between looks at files that may have grown."""
MOST_RAW_CHARACTERS = 200
"""Of a line of which there is nothing better to show."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, other ends of lines, and those that change the direction of writing."""
Line = dict[str, Any]


def one_line(line: Line) -> str:
    """Time, kind and what it is about, in one line of text."""
    when = str(line.get("ts", "?"))[:23].replace("T", " ")
    who = str(line.get("user_id") or "") or (str(line.get("user_id_hmac") or "")[:12] or "nobody")
    try:
        what = _about(line, who)
    except (AttributeError, KeyError, TypeError, ValueError):  # a line that no router of ours has written
        what = orjson.dumps(line).decode()[:MOST_RAW_CHARACTERS]
    mark = "  synthetic" if line.get("synthetic") else ""
    # What callers have sent is in here: it must not move the cursor, colour the terminal or begin a line.
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", f"{when}  {line.get('event', '?')!s:10}  {what}{mark}")


def _about(line: Line, who: str) -> str:
    """What a line written by a router says. Raises AttributeError, KeyError, TypeError or ValueError for others."""
    match line.get("event"):
        case "exposure":
            where = f"{line['experiment']}/{line['group']}" if line.get("experiment") else str(line.get("reason"))
            assigned = " and ".join(line.get("versions") or (str(line.get("model_version")),))
            served = line.get("served_version") or (assigned if line.get("teams") is not None else "nothing")
            fallback = f" instead of {assigned} ({line['fallback']})" if line.get("fallback") else ""
            return (
                f"{who}  {where}  {served}{fallback}  {line.get('status')}  "
                f"{counted(len(line.get('items') or line.get('item_names') or ()), 'item')}  "
                f"{line.get('latency_ms', 0):.1f} ms"
            )
        case "outcome":
            money = (
                f"  {line['value']:g} {line.get('currency') or ''}".rstrip() if line.get("value") is not None else ""
            )
            about = line.get("item_id") or line.get("item_name")
            item = f"  item {about}" if about else ""
            return f"{who}  {line.get('type')}{item}{money}  of {line.get('request_id') or 'no request'}"
        case "allocation":
            shares = ", ".join(f"{name} {share:g} %" for name, share in (line.get("weights") or {}).items())
            return f"{line.get('experiment')}  {shares} of {line.get('traffic', 0):g} %"
        case "reload":
            state = "in force" if line.get("active") else "not in force: " + "; ".join(line.get("errors") or ())
            return f"{line.get('old_revision')} -> {line.get('new_revision')}  {state}"
        case "conclusion":
            return f"{line.get('experiment')}  ended at {line.get('concluded_at')}  winner {line.get('winner')}"
        case "shadow":
            items = len(line.get("items") or line.get("item_names") or ())
            return (
                f"{who}  {line['version']} in the shadow of {line['primary']}  {line.get('status')}  {items} items  "
                f"{line.get('latency_ms', 0):.1f} ms"
            )
        case "rejected":
            return f"{line.get('field')}  {line.get('message')}"
        case _:
            return orjson.dumps(line).decode()[:MOST_RAW_CHARACTERS]


def _nobody(path: Path) -> None:
    pass


def last_lines(
    paths: Sequence[Path], count: int, wanted: Callable[[Line], bool], unreadable: Callable[[Path], None] = _nobody
) -> list[Line]:
    """The newest `count` lines that are wanted, in the order of time. Raises LogsError.

    unreadable: Called with its file for each line, and each end of a compressed file, that cannot be read; not for the
    end of a file that may still be written.
    """
    files = [path for path in line_files(paths) if path.suffix != PARQUET_SUFFIX]
    if not files:
        raise LogsError(
            f"{', '.join(str(path)[:64] for path in paths)}: no decision log that a router writes; allowed: "
            "folders, and files *.jsonl, *.ndjson"
        )
    kept: dict[Path, deque[Line]] = {}
    for path, raw, ended in all_lines(files, damaged=unreadable):
        if (line := parsed(raw)) is None:
            if ended and not is_blank(raw):
                unreadable(path)
        elif ended and wanted(line):
            kept.setdefault(path, deque(maxlen=count)).append(line)
    found = sorted((line for lines in kept.values() for line in lines), key=lambda line: str(line.get("ts")))
    return found[-count:] if count else []


def new_lines(
    paths: Sequence[Path],
    wanted: Callable[[Line], bool],
    wait: Callable[[float], None] = time.sleep,
    unreadable: Callable[[Path], None] = _nobody,
) -> Iterator[Line]:
    """Lines that are written from now on, in files that are there and in new ones; never ends.

    unreadable: Called with its file for each that cannot be read.
    """
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
            for raw in new[:whole].split(b"\n"):
                if (line := parsed(raw)) is None:
                    if not is_blank(raw):
                        unreadable(path)
                elif wanted(line):
                    yield line
        wait(FOLLOW_SECONDS)


def _plain(paths: Sequence[Path]) -> list[Path]:
    return [path for path in line_files(paths) if path.suffix in (".jsonl", ".ndjson")]
