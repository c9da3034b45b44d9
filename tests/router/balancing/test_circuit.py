"""The circuit of a version, on a clock of numbers."""

from abfleet_router.balancing.circuit import Circuit
from abfleet_router.balancing.ejection import FORGET_SECONDS, EjectionPolicy


def test_every_way_through_it() -> None:
    """Closed, open for longer each time, tried by one call at a time when that is over, closed by an answer, and
    forgotten after a minute of nothing."""
    circuit, nobody, somebody = Circuit(EjectionPolicy(base_seconds=1.0, max_seconds=8.0)), lambda: False, lambda: True
    assert not circuit.is_open(0.0, somebody)
    assert circuit.open(0.0) == 1.0
    assert circuit.is_open(0.5, nobody)
    assert circuit.open(0.5) is None, "it is open already"
    assert not circuit.is_open(1.0, nobody), "one may try"
    assert circuit.is_open(1.0, somebody), "and no other meanwhile"
    assert circuit.open(1.0) == 2.0, "the one that tried failed"
    assert circuit.close()
    assert not circuit.close()
    assert not circuit.is_open(1.0, somebody)
    circuit.open(10.0)
    assert not circuit.is_open(11.1 + FORGET_SECONDS, somebody)
