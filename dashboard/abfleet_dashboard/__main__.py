"""`python -m abfleet_dashboard` runs a dashboard."""

import sys

from abfleet_dashboard.app import main

if __name__ == "__main__":
    sys.exit(main())
