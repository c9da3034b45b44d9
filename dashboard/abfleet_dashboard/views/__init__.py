"""What each page shows, as values: figures and sentences of a report, ready for a template."""

__all__ = [
    "autopilot_view",
    "commands_view",
    "experiment_view",
    "filter_view",
    "fleet_view",
    "glossary_view",
    "links_view",
    "overview_view",
    "shadow_view",
]
