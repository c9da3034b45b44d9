"""Shedding: by the wait that calls would have, the same for every group, and over as soon as the queues are."""

from abfleet_router.overload import MAX_WAIT_SECONDS, SMOOTHING, ExpectedWait
from abfleet_transport.call import Code
from hypothesis import given
from hypothesis import strategies as st

from tests.router.bench import Bench
from tests.router.fakes import Failed, turns


@given(st.lists(st.floats(0, 10), max_size=300))
def test_the_mean_is_one_of_what_was_learned(waits: list[float]) -> None:
    """It never leaves the range of the waits, so what is never too long is never said to be."""
    expected = ExpectedWait()
    for wait in waits:
        expected.learn(wait)
    assert 0 <= expected.seconds <= max(waits, default=0.0) + 1e-9
    assert not expected.too_long or max(waits) > MAX_WAIT_SECONDS


def test_a_short_burst_is_taken_in_and_a_lasting_queue_is_not() -> None:
    """A few calls that would wait are no overload; when all wait twice as long as they may, it is seen in time."""
    expected = ExpectedWait()
    for _ in range(int(0.25 / SMOOTHING)):
        expected.learn(2 * MAX_WAIT_SECONDS)
    assert not expected.too_long
    for _ in range(int(1 / SMOOTHING)):
        expected.learn(2 * MAX_WAIT_SECONDS)
    assert expected.too_long
    for _ in range(int(1 / SMOOTHING)):
        expected.learn(0.0)
    assert not expected.too_long


async def test_a_queue_that_lasts_too_long_sheds_and_a_short_one_does_not() -> None:
    """Workers take a tenth of a second for a batch: calls are taken in until they would wait longer than allowed;
    the rest is refused at once, with a pushback and a line that names its group; then all goes on as before."""
    bench = Bench()
    await bench.open()
    await bench.arrive(bench.call("on-v1", request_id="first"))
    for number in range(30):  # until the time of a batch is known
        bench.clock.advance(0.1)
        await bench.answer()
        await bench.arrive(bench.call("on-v1", request_id=f"early-{number}"))
    crowd = [bench.call("on-v1", request_id=f"crowd-{number}") for number in range(2000)]
    await bench.arrive(*crowd)
    refused = [call for call in crowd if call.answers]
    taken = [call for call in crowd if not call.answers]
    assert refused
    assert len(taken) > 128
    for call in refused:
        assert isinstance(call.only, Failed)
        assert call.only.code is Code.RESOURCE_EXHAUSTED
        assert call.only.pushback_ms
    lines = {line["request_id"]: line for line in bench.log.exposures()}
    assert sum(line["status"] == "RESOURCE_EXHAUSTED" for line in lines.values()) == len(refused)
    await bench.run_dry()
    assert all(call.code is Code.OK for call in taken)
    later = [bench.call("on-v1", request_id=f"later-{number}") for number in range(200)]
    for call in later:
        await bench.arrive(call)
        await bench.answer()
    await turns()
    assert [call.code for call in later[-50:]] == [Code.OK] * 50
    bench.books_balance(bench.calls)
    await bench.close()
