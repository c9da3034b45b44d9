"""Runs the worker as `python -m abfleet_worker`. Knows only where it starts."""

import sys

from abfleet_worker.app import main

sys.exit(main())
