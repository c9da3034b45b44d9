"""What commands print on a terminal, as a picture for the documentation: SVG of text, the same from the same commands.

The commands are the real ones, run in a terminal of `COLUMNS` columns over a log that is drawn by a seed. Times of now,
which `plan` prints, become that of the log's end.
"""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import Final

from rich.style import Style
from rich.terminal_theme import MONOKAI
from rich.text import Text

from tests.support.process import ROOT
from tests.support.shown_log import HALVES, Shown, log_lines

COLUMNS: Final = 100
NOW: Final = datetime(2026, 11, 30, 12, tzinfo=UTC)
EXPERIMENT: Final = Shown(
    name="homepage-ranking",
    owner="search-team",
    hypothesis="Learning from whole histories brings more clicks.",
    traffic=20,
    days=12,
    users_a_day=1500,
    groups=HALVES,
    clicks=(0.30, 0.34),
    errors=(0.003, 0.002),
)
TEXT: Final = """\
version: 1
default: v1.2.3
models:
  v1.2.3:      {target: "dns:///worker-v1-2-3:50061"}
  v1.3.0-beta: {target: "dns:///worker-v1-3-0-beta:50061"}
experiments:
  - name: homepage-ranking
    traffic: 20
    groups:
      - {name: control,   model: v1.2.3,      weight: 50}
      - {name: treatment, model: v1.3.0-beta, weight: 50}
    metrics:
      primary: ctr
      guardrails: [{name: error_rate, points: 0.01}, {name: response_time_p95, margin: 0.10}]
      secondary: [conversion_rate, revenue_per_user]
    plan: {effect: 0.10}
"""
FILE: Final = "experiments/recommender.yaml"
SESSION: Final = (("abfleet", "plan", FILE, "new.yaml"), ("abfleet", "analyze"))
"""`new.yaml` takes half of the users instead of a fifth."""
TIME: Final = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
CHARACTER, LINE, MARGIN = 8.4, 19, 16
"""Pixels: the width of a character, the height of a line, and what is left free around."""


def prepare(folder: Path) -> None:
    """Writes what the session reads."""
    (folder / "experiments").mkdir()
    (folder / "logs").mkdir()
    (folder / FILE).write_text(TEXT)
    (folder / "new.yaml").write_text(TEXT.replace("traffic: 20", "traffic: 50"))
    with (folder / "logs" / "decisions-host-20261101T000000-1.jsonl").open("w") as file:
        file.writelines(log_lines(NOW, [EXPERIMENT]))


def picture(folder: Path) -> str:
    """The session in a prepared folder, as SVG."""
    lines: list[Text] = []
    for words in SESSION:
        lines += [Text(f"$ {' '.join(words)}", Style(bold=True)), *printed(words, folder), Text("")]
    return svg(lines[:-1])


def printed(words: tuple[str, ...], folder: Path) -> Iterator[Text]:
    """The lines that a command writes on a terminal. Raises CalledProcessError."""
    began = datetime.now(UTC)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 100, COLUMNS, 0, 0))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ABFLEET_")}
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        kept.pop(name, None)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**kept, "TERM": "xterm-256color", "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    output = b""
    try:
        while piece := os.read(ours, 65536):
            output += piece
    except OSError:  # on Linux the end of a terminal is an error
        pass
    finally:
        os.close(ours)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, words, output)
    text = TIME.sub(lambda match: _not_now(match[0], began), output.decode())
    for line in text.replace("\r\n", "\n").rstrip("\n").split("\n"):
        yield Text.from_ansi(line)


def _not_now(time: str, began: datetime) -> str:
    """A time of the log as it is; one that the command took from the clock as the end of the log."""
    since = datetime.fromisoformat(time) - began
    return NOW.strftime("%Y-%m-%dT%H:%M:%SZ") if abs(since) < timedelta(minutes=5) else time


def svg(lines: list[Text]) -> str:
    """A picture of the lines: text, no font and nothing else from elsewhere."""
    width, height = round(COLUMNS * CHARACTER + 2 * MARGIN), len(lines) * LINE + 2 * MARGIN
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + 14 + LINE * number}">{_spans(line)}</text>'
        for number, line in enumerate(lines)
        if line.plain.strip()
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="A terminal with abfleet plan and abfleet analyze">\n'
        "<style>text { font: 14px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; "
        f"fill: #e6e6e0; white-space: pre }}</style>\n"
        f'<rect width="{width}" height="{height}" rx="8" fill="#1e1f24"/>\n{rows}\n</svg>\n'
    )


def _spans(line: Text) -> str:
    """The parts of a line that look alike; `x` of each keeps columns where the font is another."""
    parts, begin = [], 0
    styles = [_style(line, place) for place in range(len(line.plain.rstrip()))]
    for place in range(1, len(styles) + 1):
        if place == len(styles) or styles[place] != styles[begin]:
            text = escape(line.plain[begin:place], quote=False)
            parts.append(f'<tspan x="{MARGIN + begin * CHARACTER:g}"{styles[begin]}>{text}</tspan>')
            begin = place
    return "".join(parts)


def _style(line: Text, place: int) -> str:
    """How a character looks, as attributes of SVG."""
    style = Style.combine([line.style if isinstance(line.style, Style) else Style()])
    for span in line.spans:
        if span.start <= place < span.end and isinstance(span.style, Style):
            style += span.style
    found = ' font-weight="bold"' if style.bold else ""
    found += ' opacity="0.65"' if style.dim else ""
    if style.color is not None and not style.color.is_default:
        found += f' fill="{style.color.get_truecolor(MONOKAI).hex}"'
    return found
