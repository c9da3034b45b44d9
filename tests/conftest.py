"""What holds for every test."""

import gc
import signal

import pytest
from hypothesis import HealthCheck, settings

# A slow example says that the machine is busy, not that the code is wrong; what is timed is in benchmarks.
settings.register_profile("abfleet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("abfleet")


# A shell starts what runs in its background deaf to Ctrl-C, and so would be every process that a test sends one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Files are handed out in the order below, not those with the most tests first."""
    if hasattr(config.option, "loadscopereorder"):  # of pytest-xdist
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start processes come first: they take longest, and one at the end would leave the other core idle."""
    slow = {item.path for item in items if item.get_closest_marker("system")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What is imported by now stays to the end: the garbage collector need not look through it again and again."""
    gc.collect()
    gc.freeze()
