"""`python -m abfleet_dashboard` runs a dashboard."""

import os
import sys

from abfleet_dashboard.app import main

if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # All that was opened is closed. To take the analysis' libraries apart again would take a second.
    os._exit(code)
