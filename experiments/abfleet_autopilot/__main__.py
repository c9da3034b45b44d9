"""Runs the autopilot as `python -m abfleet_autopilot`. Knows only where it starts."""

import sys

from abfleet_autopilot.app import main

sys.exit(main())
