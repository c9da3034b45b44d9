"""How the decision log is written, for flags and for the writer. Opens nothing."""

from dataclasses import dataclass
from typing import Literal

Policy = Literal["keep_serving", "unhealthy", "refuse"]
Fsync = Literal["never", "interval", "always"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """How the log is written. `max_lines` and `max_bytes` bound what is not written yet, `flush_interval` apart."""

    sink: Literal["file", "stdout"] = "file"
    policy: Policy = "keep_serving"
    flush_interval_seconds: float = 0.05
    fsync: Fsync = "never"
    rotate_bytes: int = 256 * 1024 * 1024
    """Some 400,000 calls; compressed, about a tenth of it."""
    rotate_seconds: float = 3600.0
    compress: Literal["zst", "none"] = "zst"
    retention_seconds: float = 0.0
    """0: for ever."""
    max_lines: int = 200_000
    max_bytes: int = 128 * 1024 * 1024
    """Five seconds of a router's full speed."""
