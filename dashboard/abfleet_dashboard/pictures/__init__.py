"""Pictures as SVG, from values. They know neither pages nor the analysis' rules; the style sheet has the colours."""

__all__ = [
    "estimate",
    "fleet_graph",
    "history",
    "over_time",
    "picture",
    "scales",
    "strip",
    "svg",
]
