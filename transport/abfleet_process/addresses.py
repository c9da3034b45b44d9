"""Where a fleet is unless one says otherwise, and which variables say so. A command line loads nothing more for it."""

import os
from typing import Final

ROUTER_ADDRESS: Final = "127.0.0.1:50051"
ADMIN_ADDRESS: Final = "127.0.0.1:50052"
EXPERIMENTS_FILE: Final = "experiments/recommender.yaml"
ENVIRONMENT_PREFIX: Final = "ABFLEET_"


def program() -> str:
    """How the command was called, for lines that say what to type: `abfleet`, or `./run`, which says so."""
    return "./run" if os.environ.get("ABFLEET_PROGRAM") == "./run" else "abfleet"


def variable(flag: str) -> str:
    """The environment variable of a flag: `max-batch` is ABFLEET_MAX_BATCH."""
    return ENVIRONMENT_PREFIX + flag.upper().replace("-", "_")
