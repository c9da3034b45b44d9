"""What a conclusion is shown with: paths over time, slices and breakdowns, and its forms as text and JSON."""

__all__ = [
    "assemble_details",
    "before_first_look",
    "details",
    "excluded",
    "interleaving",
    "markdown",
    "recommended",
    "render",
    "report",
    "run_state",
    "waiting",
]
