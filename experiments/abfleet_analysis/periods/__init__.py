"""Allocations over time: groups, buckets, looks, and who may be compared with whom when shares change."""

__all__ = [
    "allocation_periods",
    "cells",
    "deployment",
    "placing",
    "succession",
]
