"""Calls whose list is out of two: both versions are asked at once, and what they answer becomes one answer.

Each of the two is a call like any other, with a replica and attempts of its own; the time ends for both at once, and
early enough for a third version to answer. Where one fails, the other's list is served alone, and where both do, the
default version answers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import structlog
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_transport.call import Code
from google.protobuf.message import DecodeError

from abfleet_router.calls import infer_answer
from abfleet_router.calls.attempts import Attempts
from abfleet_router.calls.batch_answer import BatchResponse
from abfleet_router.calls.batch_failures import code_of
from abfleet_router.calls.call_records import CallRecords
from abfleet_router.calls.drafted_answer import NotDrafted, Toss, drafted_inference, drafted_recommendation
from abfleet_router.calls.held_answers import HeldAnswers
from abfleet_router.calls.infer_answer import LoggedItems, NamedItems
from abfleet_router.calls.reply import infer_ending, recommend_ending
from abfleet_router.calls.routed_call import InferTeamCall, RoutedCall, TeamCall
from abfleet_router.calls.wire import WireError
from abfleet_router.errors import LIMITS
from abfleet_router.fleet.batch import INFER, Batch
from abfleet_router.fleet.failure import FailureReason
from abfleet_router.fleet.replica import Replica

log = structlog.get_logger("abfleet.router.interleaving")

MOST_TOLD = 100
"""Reasons that are remembered as told."""


class TeamAnswer(NamedTuple):
    """What a version has answered to its part of a call.

    Attributes:
        message: Of Recommend, what `response` says; None of ModelInfer.
        items: What would be logged of it alone.
    """

    response: bytes
    message: RecommendResponse | None
    items: LoggedItems
    version: str
    worker_seconds: float


class TeamLoss(NamedTuple):
    """Why a version has answered nothing; `failure`: None where the caller is to blame."""

    team: TeamCall
    code: Code
    text: str
    failure: FailureReason | None


class Pair:
    """A call and the two that its versions are asked. Changed only by Interleaving."""

    __slots__ = ("ended", "interleaving", "routed", "teams")

    def __init__(self, routed: RoutedCall, interleaving: "Interleaving") -> None:
        self.routed = routed
        self.interleaving = interleaving
        self.teams: tuple[TeamCall, ...] = ()
        self.ended: list[TeamAnswer | TeamLoss | None] = [None, None]

    def on_lost(self, team: TeamCall, code: Code, text: str, failure: FailureReason | None) -> None:
        """A version has made its last attempt."""
        self.ended[team.number] = TeamLoss(team, code, text, failure)
        self.interleaving.settle_if_over(self)


class Interleaving:
    """All of it runs on the event loop."""

    def __init__(
        self,
        attempts: Attempts,
        records: CallRecords,
        held: HeldAnswers | None,
        *,
        attempt_timeout_seconds: float,
    ) -> None:
        """`held`: None where an answer need not wait for its line in the log."""
        self._attempts = attempts
        self._records = records
        self._held = held
        self._attempt_timeout_seconds = attempt_timeout_seconds
        self.pairs: dict[RoutedCall, Pair] = {}
        """Calls that wait for two versions: all that a batch without one asks. Changed only here."""
        self._answered: list[Pair] = []  # of the batch that is being read
        self._told_of = ""  # the revision in which these reasons were told
        self._told: set[str] = set()

    def begin(self, routed: RoutedCall, asked: Sequence[Replica | FailureReason], now: float) -> None:
        """Asks both versions. `asked`: a replica of each, or why there is none."""
        pair = self.pairs[routed] = Pair(routed, self)
        until = now + min((routed.deadline - now) / 2, self._attempt_timeout_seconds)
        kind = InferTeamCall if routed.hop is INFER else TeamCall
        of = routed.snapshot.teams[routed.arm.index].of
        pair.teams = tuple(kind(routed, number, of[number], until, pair) for number in (0, 1))
        for team, place in zip(pair.teams, asked, strict=True):
            if isinstance(place, Replica):
                self._attempts.enqueue(team, team.snapshot.default_pool, place, now)
            else:
                team.done = True
                pair.on_lost(team, Code.UNAVAILABLE, "nobody can be asked", place)

    def cancel(self, routed: RoutedCall) -> None:
        """The caller has gone: what has not been answered is taken back."""
        if (pair := self.pairs.pop(routed, None)) is None:
            return
        self._count_attempts(pair)
        for team in pair.teams:
            if not team.done:
                team.done = True
                if team.replica is not None:
                    team.replica.queue.remove(team)

    # --- what comes back ----------------------------------------------------------------------------------------------

    def take(
        self,
        batch: Batch[RoutedCall],
        answer: BatchResponse,
        version: str,
        worker_seconds: float,
        failed: list[tuple[RoutedCall, Code, str]],
    ) -> int:
        """Takes what is an answer of one of two versions out of that to a batch; gives how many there were.

        Those that failed are added to `failed`. `settle` then makes lists of them.
        """
        taken = 0
        for index, team in enumerate(batch.calls):
            if not isinstance(team, TeamCall) or team.batch is not batch:
                continue
            team.batch = None
            if index in answer.failures:
                failure = answer.failures[index]
                failed.append((team, code_of(failure.code), failure.message))
                continue
            try:
                answered = self._read(team, answer.responses[index], version, worker_seconds)
            except (DecodeError, WireError):
                failed.append((team, Code.INTERNAL, "the worker's answer is not the response of the method"))
                continue
            team.done = True
            pair = team.pair
            assert isinstance(pair, Pair)
            pair.ended[team.number] = answered
            self._answered.append(pair)
            taken += 1
        return taken

    def _read(self, team: TeamCall, response: bytes, version: str, worker_seconds: float) -> TeamAnswer:
        if team.hop is INFER:
            logged = infer_answer.logged(response, team.snapshot.config.logged_outputs(team.version))
            return TeamAnswer(response, None, logged, version, worker_seconds)
        message = RecommendResponse.FromString(response)
        items = NamedItems(message.items) if message.items else message.item_ids
        return TeamAnswer(response, message, items, version, worker_seconds)

    def settle(self) -> None:
        """Ends the calls of which both versions have ended with the last batch."""
        answered, self._answered = self._answered, []
        for pair in answered:
            self.settle_if_over(pair)

    def settle_if_over(self, pair: Pair) -> None:
        """Ends the call, if both of its versions have."""
        first, second = pair.ended
        if first is None or second is None or self.pairs.pop(pair.routed, None) is None:
            return
        self._count_attempts(pair)
        try:
            self._end(pair.routed, first, second)
        except Exception:  # our own error with one call must not end those that came with it
            log.exception("a call of two versions could not be ended", request_id=pair.routed.request_id)
            if not pair.routed.done:
                self._attempts.fail(pair.routed, Code.INTERNAL, "the router failed on this call; see its log")

    def _end(self, routed: RoutedCall, first: TeamAnswer | TeamLoss, second: TeamAnswer | TeamLoss) -> None:
        if isinstance(first, TeamLoss):
            if isinstance(second, TeamLoss):
                self._both_lost(routed, (first, second))
            else:
                self._serve_alone(routed, second, first.failure or FailureReason.MODEL_ERROR)
        elif isinstance(second, TeamLoss):
            self._serve_alone(routed, first, second.failure or FailureReason.MODEL_ERROR)
        else:
            self._serve_both(routed, first, second)

    def _count_attempts(self, pair: Pair) -> None:
        pair.routed.attempts = sum(team.attempts for team in pair.teams)

    def _both_lost(self, routed: RoutedCall, losses: Sequence[TeamLoss]) -> None:
        """The default version answers, if the caller is not to blame.

        Where it is one of the two it has had its attempts. It is asked once more if its time was up, because that was
        half of the call's. Of two reasons the log has the default's, or else the second version's.
        """
        for loss in losses:
            if loss.failure is None:
                self._attempts.fail(routed, loss.code, loss.text)
                return
        pools = [loss.team.snapshot.default_pool for loss in losses]
        default = routed.snapshot.default_pool
        last = pools.index(default) if default in pools else 1
        failure, asked = losses[last].failure, pools[last]
        assert failure is not None
        if asked is default and failure is FailureReason.TIMEOUT and self._attempts.spend_retry():
            asked = pools[1 - last]  # of which it is the fallback
        routed.resent = routed.retried = True  # each has had its attempts
        self._attempts.after_failure(routed, asked, failure, broke=False)

    def _serve_both(self, routed: RoutedCall, first: TeamAnswer, second: TeamAnswer) -> None:
        teams = routed.snapshot.teams[routed.arm.index]
        toss = Toss(teams.salt, routed.user_id, routed.request_id)
        items: LoggedItems
        try:
            if first.message is None or second.message is None:
                response, items = drafted_inference(first.response, second.response, teams.logged, toss)
            else:
                limit = RecommendRequest.FromString(routed.call.payload).limit or LIMITS.default_limit
                response, items = drafted_recommendation(first.message, second.message, limit, toss)
        except NotDrafted as error:
            self._tell(routed, str(error))
            self._serve_alone(routed, first, FailureReason.MODEL_ERROR)
            return
        self._answer(routed, response, items, "", max(first.worker_seconds, second.worker_seconds))

    def _tell(self, routed: RoutedCall, reason: str) -> None:
        """Tells the operator once in a configuration why lists of two versions cannot be one."""
        if self._told_of != routed.snapshot.revision or len(self._told) >= MOST_TOLD:
            self._told_of, self._told = routed.snapshot.revision, set()
        if reason not in self._told:
            self._told.add(reason)
            log.warning(
                "two answers make no list",
                experiment=routed.arm.experiment,
                versions=routed.arm.interleave,
                reason=reason,
                request_id=routed.request_id,
            )

    def _serve_alone(self, routed: RoutedCall, answer: TeamAnswer, reason: FailureReason) -> None:
        """The answer of one version, as it is."""
        self._attempts.note_fallback(routed, reason)
        self._answer(routed, answer.response, answer.items, answer.version, answer.worker_seconds)

    def _answer(
        self, routed: RoutedCall, response: bytes, items: LoggedItems, version: str, worker_seconds: float
    ) -> None:
        """`version`: "" where both have answered."""
        routed.done = True
        infers = routed.hop is INFER
        ending = (infer_ending if infers else recommend_ending)(routed, version, as_assigned=not version)
        reply = b"".join((response, *ending))
        if infers:
            routed.call.payload = b""  # as large as it may be, it would be kept until the line is made
        if self._held is not None:
            self._held.hold([(routed, items)], [reply], version, worker_seconds)
            return
        routed.call.reply(reply)
        self._records.served([(routed, items)], version, worker_seconds)
