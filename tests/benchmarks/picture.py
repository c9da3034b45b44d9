"""Draws CPU a call by path as an SVG. Knows the figures' names and nothing of how they came about."""

import math
from collections.abc import Sequence
from html import escape

from tests.benchmarks.measure import PathResult
from tests.benchmarks.run import ModelResult, Plan

_WIDTH, _LABELS, _ROW, _HEAD, _BAR = 760, 200, 26, 44, 16
_SPACE_FOR_NUMBERS = 160
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 13px }
.router { fill: #0a6ebd } .workers { fill: #9ccbee } .ours { font-weight: 600 } .note { fill: #57606a }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #9198a1 } .router { fill: #58a6ff } .workers { fill: #1f4b78 }
}
"""


def draw(results: Sequence[ModelResult], plan: Plan) -> str:
    """Returns an SVG with a panel for each model and number of calls in flight; bars are router plus workers."""
    panels: list[str] = []
    top = 30.0
    for result in results:
        for in_flight in plan.in_flight:
            bars = [path for path in result.paths.values() if not math.isnan(path.median(in_flight, "total_us"))]
            if bars:
                panels.append(_panel(result.model, in_flight, bars, top))
                top += _HEAD + _ROW * len(bars)
    legend = (
        '<g transform="translate(12 12)"><rect class="router" width="12" height="12"/>'
        '<text x="18" y="10">router</text><rect class="workers" x="80" width="12" height="12"/>'
        '<text x="98" y="10">workers</text></g>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 12:.0f}" role="img" '
        f'aria-label="CPU microseconds a call, router and workers, by path"><style>{_STYLE}</style>'
        f"{legend}{''.join(panels)}</svg>\n"
    )


def _panel(model: str, in_flight: int, bars: Sequence[PathResult], top: float) -> str:
    # A bar far beyond the others would flatten them: it is cut, and its number says what it is.
    totals = sorted(path.median(in_flight, "total_us") for path in bars)
    longest = min(totals[-1], 2.5 * totals[len(totals) // 2])
    scale = (_WIDTH - _LABELS - _SPACE_FOR_NUMBERS) / longest
    title = f"{model} workers, {in_flight:,} calls in flight: CPU µs a call"
    parts = [f'<text class="title" x="12" y="{top + 24:.0f}">{escape(title)}</text>']
    for row, path in enumerate(sorted(bars, key=lambda one: one.median(in_flight, "total_us"))):
        y = top + _HEAD - 8 + row * _ROW
        total, router = path.median(in_flight, "total_us"), path.median(in_flight, "router_us")
        shown, cut = min(total, longest), " (cut)" if total > longest else ""
        split = min(router, shown)
        ours = ' class="ours"' if path.path in ("native", "grpcio") else ""
        parts.append(
            f'<text{ours} x="12" y="{y + 13:.0f}">{escape(path.label)}</text>'
            f'<rect class="router" x="{_LABELS}" y="{y:.0f}" width="{split * scale:.1f}" height="{_BAR}"/>'
            f'<rect class="workers" x="{_LABELS + split * scale:.1f}" y="{y:.0f}" '
            f'width="{(shown - split) * scale:.1f}" height="{_BAR}"/>'
            f'<text class="note" x="{_LABELS + shown * scale + 6:.1f}" y="{y + 13:.0f}">'
            f"{router:.0f} + {total - router:.0f} = {total:.0f}{cut}</text>"
        )
    return "".join(parts)
