"""Who calls, and how often: what a router makes of it, whatever the group."""

import pytest
from abfleet_router.security.rate_limit import Rate, RateLimit
from abfleet_transport.call import Code

from tests.router.bench import Bench
from tests.router.fakes import Failed, FakeCall


def who(call: object) -> str | None:
    assert isinstance(call, FakeCall)
    return call.client


async def test_a_refused_call_is_one_exposure_with_its_status_and_the_callers_name() -> None:
    """It is sent to no worker; its pushback is the time to wait; another caller of the same address is served."""
    bench = Bench(client_of=who, rate_limit=RateLimit(Rate(2.0, 1.0)))
    await bench.open()
    calls = [bench.call("on-v1", request_id=f"r-{number}") for number in range(3)]
    for call, client in zip(calls, ("shop", "shop", "app"), strict=True):
        call.client, call.peer = client, "ipv4:10.0.0.1:1"
    await bench.arrive(*calls)
    assert isinstance(calls[1].only, Failed)
    assert (calls[1].code, calls[1].only.pushback_ms) == (Code.RESOURCE_EXHAUSTED, 500)
    await bench.run_dry()
    assert (calls[0].code, calls[2].code) == (Code.OK, Code.OK)
    lines = sorted((line["client"], line["status"]) for line in bench.log.lines)
    assert lines == [("app", "OK"), ("shop", "OK"), ("shop", "RESOURCE_EXHAUSTED")]
    assert (bench.metrics.rate_limited, bench.metrics.shed) == (1, 0)
    bench.books_balance(calls)
    await bench.close()


async def test_callers_without_a_name_are_their_address() -> None:
    """Whatever the connection."""
    bench = Bench(rate_limit=RateLimit(Rate(1.0, 1.0)))
    await bench.open()
    calls = [bench.call("on-v1") for _ in range(3)]
    for call, peer in zip(calls, ("ipv4:10.0.0.1:1", "ipv4:10.0.0.1:2", "ipv4:10.0.0.2:1"), strict=True):
        call.peer = peer
    await bench.arrive(*calls)
    await bench.run_dry()
    assert [call.code for call in calls] == [Code.OK, Code.RESOURCE_EXHAUSTED, Code.OK]
    await bench.close()


@pytest.mark.parametrize("user", ["on-v1", "on-v2", "on-v3"])
async def test_the_group_does_not_matter(user: str) -> None:
    """As with every refusal: refusing by group would bias the comparison."""
    bench = Bench(rate_limit=RateLimit(Rate(1.0, 2.0)))
    await bench.open()
    calls = [bench.call(user) for _ in range(5)]
    await bench.arrive(*calls)
    await bench.run_dry()
    assert [call.code for call in calls].count(Code.RESOURCE_EXHAUSTED) == 3
    await bench.close()


async def test_a_wrong_request_has_its_callers_name_too() -> None:
    """In its line of kind rejected."""
    bench = Bench(client_of=who)
    await bench.open()
    call = bench.call("on-v1", limit=1000)
    call.client = "shop"
    await bench.arrive(call)
    assert call.code is Code.INVALID_ARGUMENT
    assert [(line["event"], line["client"]) for line in bench.log.lines] == [("rejected", "shop")]
    await bench.close()


async def test_without_memory_every_call_is_shed_and_logged() -> None:
    """And served again when there is some."""
    bench = Bench()
    await bench.open()
    bench.router.memory_over_limit = True
    refused, served = bench.call("on-v1", request_id="r-1"), bench.call("on-v1", request_id="r-2")
    await bench.arrive(refused)
    assert refused.code is Code.RESOURCE_EXHAUSTED
    bench.router.memory_over_limit = False
    await bench.arrive(served)
    await bench.run_dry()
    assert served.code is Code.OK
    assert bench.metrics.shed == 1
    bench.books_balance([refused, served])
    await bench.close()
