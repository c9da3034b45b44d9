"""The `abfleet` command: the only place that sees every room."""

from importlib.metadata import version

__version__ = version("abfleet")
