"""How long to wait before something that failed is tried again. Knows no clock and draws nothing."""


def backoff_seconds(failures: int, *, first: float, most: float) -> float:
    """After so many failures in a row: `first`, twice that, four times … up to the most; 0 after none."""
    # Bounded before the power, which would overflow for what has failed for a day.
    return min(first * 2.0 ** min(failures - 1, 32), most) if failures else 0.0
