"""What each page shows, as values: figures and sentences of a report, ready for a template."""
