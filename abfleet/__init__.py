"""The `abfleet` command: the only place that sees every room."""


def __getattr__(name: str) -> str:
    """`__version__`, as it is installed: looking it up takes longer than all else that the command line imports."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("abfleet")
