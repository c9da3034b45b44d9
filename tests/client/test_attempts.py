"""When a call is sent again: UNAVAILABLE, until its deadline."""

import grpc
import pytest
from abfleet_client import CallFailed, InvalidArgument
from abfleet_client.attempts import CallAttempts


class Failure(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str = "told to") -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


def attempts(timeout: float, now: list[float]) -> CallAttempts:
    return CallAttempts(timeout, clock=lambda: now[0], draw=lambda: 1.0)


def test_waits_double_up_to_a_second_and_end_with_the_deadline() -> None:
    """The first attempt says why there is no connection, later ones wait for one; the last error has the one before."""
    now, waits = [0.0], []
    one = attempts(4.0, now)
    assert not one.waits_for_connection

    def fail_for_ever() -> None:
        while True:
            waits.append(one.wait_seconds(Failure(grpc.StatusCode.UNAVAILABLE, "refused"), "r-1", "host:1"))
            assert one.waits_for_connection
            now[0] += waits[-1]

    with pytest.raises(CallFailed) as failed:
        fail_for_ever()
    assert waits == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    assert failed.value.status == "UNAVAILABLE"
    assert "request r-1 to host:1, 8 attempts" in str(failed.value)


def test_what_will_not_change_is_an_end() -> None:
    """One attempt, with the router's own words."""
    with pytest.raises(CallFailed) as failed:
        attempts(5.0, [0.0]).wait_seconds(Failure(grpc.StatusCode.INVALID_ARGUMENT, "limit: 0"), "r", "host:1")
    assert (failed.value.status, failed.value.details) == ("INVALID_ARGUMENT", "limit: 0")
    assert "attempts" not in str(failed.value)


def test_a_deadline_names_what_was_before() -> None:
    """Else nobody would know that there was no router."""
    one = attempts(5.0, [0.0])
    one.wait_seconds(Failure(grpc.StatusCode.UNAVAILABLE, "connection refused"), "r", "host:1")
    with pytest.raises(CallFailed, match="DEADLINE_EXCEEDED: too late; before that UNAVAILABLE: connection refused"):
        one.wait_seconds(Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "too late"), "r", "host:1")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5"])
def test_a_timeout_that_is_none(timeout: float) -> None:
    """It is named, with what is allowed."""
    with pytest.raises(InvalidArgument, match=r"timeout: .* allowed: seconds above 0"):
        CallAttempts(timeout)
