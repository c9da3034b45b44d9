"""The earlier name of the client for outcomes, which goes with the next version: it warns, and still works."""

import grpc
import pytest

from abfleet.feedback_client import ClientCredentials, FeedbackClient, Outcome, OutcomesLost, OutcomeTally
from tests.client.desk import Desk


async def test_it_warns_and_works() -> None:
    """Outcomes arrive as they did, each once, under the ids that they have."""
    told: list[str] = []
    with Desk() as desk:
        with pytest.warns(DeprecationWarning, match="use abfleet_client.AsyncRecommender"):
            client = FeedbackClient(
                desk.address,
                batch=2,
                linger_seconds=0.01,
                give_up_seconds=60,
                timeout_seconds=60,
                capacity=10,
                synthetic=True,
                access=ClientCredentials(token="t"),
                on_rejected=lambda one, why: told.append(f"{one.outcome_id} {why}"),
            )
        async with client:
            for number, kind in enumerate(("click", "wrong", "click")):
                await client.record(Outcome(outcome_id=f"o-{number}", type=kind, user_id="u"))
    assert [one.outcome_id for batch in desk.batches for one in batch.outcomes] == ["o-0", "o-1", "o-2"]
    assert desk.metadata[0]["authorization"] == "Bearer t"
    assert client.tally == OutcomeTally(accepted=2, rejected=1)
    assert told == ["o-1 type: 'wrong'"]


async def test_lost_outcomes_are_raised() -> None:
    """By close."""
    with Desk() as desk:
        desk.failures = [grpc.StatusCode.UNAUTHENTICATED]
        with pytest.warns(DeprecationWarning, match="goes with the next version"):
            client = FeedbackClient(desk.address)
        await client.__aenter__()
        await client.record(Outcome(type="click", user_id="u"))
        with pytest.raises(OutcomesLost):
            await client.close()
