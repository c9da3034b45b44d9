"""`python -m abfleet_router` runs a router."""

import sys

from abfleet_router.app import main

if __name__ == "__main__":
    sys.exit(main())
