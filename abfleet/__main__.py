"""The `abfleet` command, also as `python -m abfleet`; says what to install where it lacks its parser."""

import sys


def main() -> None:
    """Entry point of the `abfleet` console script."""
    try:
        from abfleet.cli import main as command
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit("abfleet: the command needs typer; run pip install 'abfleet[cli]'")
    command()


if __name__ == "__main__":
    main()
