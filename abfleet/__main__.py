"""`python -m abfleet` is the `abfleet` command."""

from abfleet.cli import main

if __name__ == "__main__":
    main()
