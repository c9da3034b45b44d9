"""How calls are batched for a replica, for flags and for queues. Knows no connection."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingSettings:
    """How many calls a batch has at most, and how many batches of one replica are in flight at once."""

    max_batch: int = 128
    """A 10,000-item scorer costs 16 µs a row in a batch of 32, hardly less in a larger one; 128 rows bound the wait."""
    max_in_flight: int = 1
    """More batches under way make each smaller and the round trip dearer for each call."""
