"""What each page shows, as values: figures and sentences of a report, ready for a template."""

__all__ = [
    "experiment_view",
    "fleet_view",
    "glossary_view",
    "overview_view",
]
