"""Outcomes against a server that answers as the test says: batches, retries, and nothing lost in silence."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from abfleet_client import InvalidArgument, OutcomesLost, Recommender, SendingPolicy, sending

from tests.client.desk import Desk

PATIENCE_SECONDS = 60


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """Back-off is short."""
    monkeypatch.setattr(sending, "FIRST_BACKOFF_SECONDS", 0.001)
    with Desk() as one:
        yield one


def client(desk: Desk, *, on_lost: Any = None, on_rejected: Any = None, **policy: Any) -> Recommender:
    return Recommender(
        desk.address,
        timeout=PATIENCE_SECONDS,
        sending=SendingPolicy(**policy),
        on_lost=on_lost,
        on_rejected=on_rejected,
    )


def click(recommender: Recommender, number: int, type: str = "click") -> str:
    return recommender.record(type, outcome_id=f"o-{number}", user_id="u")


def ids(desk: Desk) -> list[str]:
    return [one.outcome_id for batch in desk.batches for one in batch.outcomes]


def test_outcomes_travel_in_batches(desk: Desk) -> None:
    """Each once, in order, no batch larger than asked; closing sends what waits, whatever the linger time."""
    with client(desk, batch=100, linger_seconds=3600) as recommender:
        for number in range(250):
            click(recommender, number)
    assert [len(batch.outcomes) for batch in desk.batches] == [100, 100, 50]
    assert ids(desk) == [f"o-{number}" for number in range(250)]
    assert recommender.outcomes.accepted == 250


def test_an_outcome_does_not_wait_for_ever(desk: Desk) -> None:
    """After the linger time it is sent alone, without a flush."""
    with client(desk, linger_seconds=0.001) as recommender:
        desk.gate.clear()
        click(recommender, 1)
        pause = threading.Event()
        while not desk.batches:
            pause.wait(0.01)
        desk.gate.set()


def test_flush(desk: Desk) -> None:
    """It returns when all so far are acknowledged, and does not wait for others; with time up it says how many wait."""
    with client(desk, linger_seconds=3600) as recommender:
        recommender.flush()
        click(recommender, 1)
        recommender.flush(PATIENCE_SECONDS)
        assert recommender.outcomes.accepted == 1
        desk.gate.clear()
        click(recommender, 2)
        with pytest.raises(TimeoutError, match="1 outcomes are not recorded yet"):
            recommender.flush(0.01)
        desk.gate.set()
        recommender.flush(PATIENCE_SECONDS)
        assert recommender.outcomes.accepted == 2


def test_a_failure_is_tried_again(desk: Desk) -> None:
    """The same outcomes under the same ids and times, until they are acknowledged."""
    code = grpc.StatusCode
    desk.failures = [code.UNAVAILABLE, code.DEADLINE_EXCEEDED, code.INTERNAL, code.CANCELLED, code.RESOURCE_EXHAUSTED]
    with client(desk) as recommender:
        made = recommender.record("click", user_id="u")
    assert len(desk.batches) == 6
    assert all(batch == desk.batches[0] for batch in desk.batches)
    assert ids(desk)[0] == made
    assert desk.batches[0].outcomes[0].time
    tally = recommender.outcomes
    assert (tally.accepted, tally.retries, tally.lost) == (1, 5, 0)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT])
def test_what_will_not_change_is_given_up_aloud(
    desk: Desk, code: grpc.StatusCode, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, not again and again: counted, logged, handed over, and raised once at the end."""
    desk.failures = [code]
    lost: list[Any] = []
    recommender = client(desk, on_lost=lambda batch, why: lost.append((list(batch), why)))
    click(recommender, 1)
    with pytest.raises(OutcomesLost, match=code.name) as caught:
        recommender.close()
    assert caught.value.count == recommender.outcomes.lost == 1
    ((batch, why),) = lost
    assert [one.outcome_id for one in batch] == ["o-1"]
    assert code.name in why
    assert "1 outcomes could not be recorded" in caplog.text
    assert len(desk.batches) == 1
    recommender.close()  # said already


def test_time_is_up(desk: Desk) -> None:
    """A router that never comes back: given up after the time that was given, aloud, though each is tried once."""
    desk.failures = [grpc.StatusCode.UNAVAILABLE] * 1000
    with client(desk, give_up_seconds=0) as recommender:
        click(recommender, 1)
        with pytest.raises(OutcomesLost, match="UNAVAILABLE: told to"):
            recommender.flush()
        assert len(desk.batches) == 1


def test_close_may_wait_no_longer(desk: Desk) -> None:
    """What waits then is lost, aloud: the call under way is cancelled and nothing more is sent."""
    desk.gate.clear()
    recommender = client(desk, batch=1)
    for number in range(3):
        click(recommender, number)
    with pytest.raises(OutcomesLost, match="close was told to wait no longer") as lost:
        recommender.close(timeout=0.2)
    assert lost.value.count == 3


def test_rejections_reach_the_caller(desk: Desk) -> None:
    """With the outcome that was meant and the reason; they are not lost, they are wrong."""
    told: list[tuple[str, str]] = []
    with client(desk, on_rejected=lambda one, why: told.append((one.outcome_id, why))) as recommender:
        for number, kind in enumerate(("click", "wrong", "click")):
            click(recommender, number, kind)
    assert told == [("o-1", "type: 'wrong'")]
    assert (recommender.outcomes.accepted, recommender.outcomes.rejected) == (2, 1)


def test_a_listener_that_raises_stops_nothing(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged, and what waits is sent all the same."""

    def stumble(*_: object) -> None:
        raise KeyError("mine")

    with client(desk, batch=1, on_rejected=stumble) as recommender:
        for number, kind in enumerate(("wrong", "click")):
            click(recommender, number, kind)
    assert (recommender.outcomes.accepted, recommender.outcomes.rejected) == (1, 1)
    assert "KeyError" in caplog.text


def test_a_fault_of_our_own_loses_nothing_in_silence(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """An answer that makes no sense: the thread lives on, and what was in the batch is lost aloud."""
    desk.odd = True
    with client(desk, batch=1) as recommender:
        click(recommender, 1, "wrong")
        with pytest.raises(OutcomesLost, match="IndexError"):
            recommender.flush()
        desk.odd = False
        click(recommender, 2)
    assert (recommender.outcomes.accepted, recommender.outcomes.lost) == (1, 1)
    assert "IndexError" in caplog.text


def test_capacity(desk: Desk) -> None:
    """A caller who is faster than the router waits; nothing is dropped. Without room in time it is told so."""
    with client(desk, batch=5, capacity=10, linger_seconds=0) as recommender:
        for number in range(100):
            click(recommender, number)
        recommender.flush()
        assert ids(desk) == [f"o-{number}" for number in range(100)]
        desk.gate.clear()
        for number in range(10):
            click(recommender, 100 + number)
        recommender._timeout = 0.01
        with pytest.raises(OutcomesLost, match="10 outcomes wait already"):
            click(recommender, 110)
        desk.gate.set()
    assert recommender.outcomes.accepted == 110


def test_an_error_of_the_callers_own_is_not_hidden(desk: Desk) -> None:
    """What was raised inside counts, not what was lost."""
    desk.failures = [grpc.StatusCode.UNAUTHENTICATED]

    def stumble() -> None:
        with client(desk) as recommender:
            click(recommender, 1)
            raise KeyError

    with pytest.raises(KeyError):
        stumble()


def test_closed(desk: Desk) -> None:
    """Nothing is taken any more."""
    recommender = client(desk)
    recommender.close()
    with pytest.raises(RuntimeError, match="closed"):
        click(recommender, 1)


def test_a_process_that_ends_without_close_sends_what_waits(desk: Desk) -> None:
    """Whatever the linger time."""
    code = (
        "import sys; from abfleet_client import Recommender, SendingPolicy\n"
        "recommender = Recommender(sys.argv[1], sending=SendingPolicy(linger_seconds=3600))\n"
        "recommender.record('click', user_id='u', outcome_id='o-1')\n"
    )
    subprocess.run([sys.executable, "-c", code, desk.address], check=True, timeout=PATIENCE_SECONDS)
    assert ids(desk) == ["o-1"]


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"batch": 0}, "batch: 0 is not allowed; allowed: 1 to 10000"),
        ({"batch": 10_001}, "batch: 10001"),
        ({"capacity": 0}, "capacity: 0"),
        ({"linger_seconds": -1}, "linger_seconds: -1"),
        ({"give_up_seconds": float("nan")}, "give_up_seconds: nan"),
        ({"timeout_seconds": 0}, "timeout_seconds: 0"),
    ],
)
def test_a_policy_that_is_not_allowed(policy: dict[str, Any], said: str) -> None:
    """By field, value and what is allowed."""
    with pytest.raises(InvalidArgument, match=said):
        SendingPolicy(**policy)
