"""The levels and forms of the operational log, for the flags that name them. Loads no logging library."""

from typing import Literal

LOG_LEVELS = ("debug", "info", "warning", "error")
LogFormat = Literal["auto", "json", "console"]
