"""What holds for every test."""

from hypothesis import HealthCheck, settings

# A slow example says that the machine is busy, not that the code is wrong; what is timed is in benchmarks.
settings.register_profile("abfleet", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("abfleet")
