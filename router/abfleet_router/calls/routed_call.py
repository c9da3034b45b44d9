"""One call on its way through the router: what was decided, and where it is."""

from typing import TYPE_CHECKING, ClassVar, Protocol

from abfleet_experiments.assign import Arm
from abfleet_transport.call import Call, Code

from abfleet_router.calls import oip_recommend
from abfleet_router.fleet.batch import INFER, RECOMMEND, Hop
from abfleet_router.fleet.failure import FailureReason

if TYPE_CHECKING:
    from abfleet_router.calls.call_trace import CallTrace
    from abfleet_router.configuration.snapshot import Snapshot
    from abfleet_router.fleet.batch import Batch
    from abfleet_router.fleet.pool import Pool
    from abfleet_router.fleet.replica import Replica

NO_ATTRIBUTES: dict[str, str] = {}


class RoutedCall:
    """A call with its decision and its state.

    Changed only on the event loop: by Router as the call proceeds, and by BatchQueue as it is sent.
    """

    hop: ClassVar[Hop] = RECOMMEND

    __slots__ = (
        "arm",
        "attempt_until",
        "attempts",
        "attributes",
        "batch",
        "bucket",
        "call",
        "client",
        "deadline",
        "done",
        "fallback",
        "history_length",
        "pool",
        "replica",
        "request_id",
        "resent",
        "retried",
        "snapshot",
        "synthetic",
        "trace",
        "trace_id",
        "user_id",
        "version",
    )

    def __init__(self, call: Call, snapshot: "Snapshot", deadline: float) -> None:
        self.call = call
        self.snapshot = snapshot
        self.deadline = deadline
        self.client: str | None = None
        self.user_id = ""
        self.request_id = ""
        self.attributes = NO_ATTRIBUTES
        self.history_length = 0
        self.synthetic = False
        self.trace_id: str | None = None
        self.trace: CallTrace | None = None  # where the caller or the router traces this call
        self.arm: Arm = snapshot.arms[0]
        self.bucket: int | None = None
        self.version = ""  # the version that is being asked
        self.pool: Pool | None = None  # of the replica
        self.replica: Replica | None = None  # where it waits or was last sent
        self.batch: Batch[RoutedCall] | None = None  # the batch it is in flight with; None while it waits
        self.attempt_until = deadline
        self.attempts = 0
        self.fallback: FailureReason | None = None
        self.resent = False
        self.retried = False
        self.done = False

    def as_infer(self, *, named: bool) -> bytes:
        """The call as a ModelInferRequest, for a server that serves nothing else; `named`: its items have names."""
        return oip_recommend.as_infer(self.call.payload, self.request_id, named=named)


class InferCall(RoutedCall):
    """A call of ModelInfer, which goes the same way."""

    __slots__ = ()
    hop: ClassVar[Hop] = INFER

    def as_infer(self, *, named: bool) -> bytes:
        """The caller's bytes."""
        return self.call.payload


class Losses(Protocol):
    """Who hears that a version has not answered its part of an interleaved call."""

    def on_lost(self, team: "TeamCall", code: Code, text: str, failure: FailureReason | None, /) -> None:
        """`failure`: None where the caller is to blame."""


class TeamCall(RoutedCall):
    """A call as one of the two versions is asked it whose lists become one. It does not answer the caller.

    Its snapshot has its own version as the default: it has the attempts of any call, and no other version stands in.
    """

    __slots__ = ("number", "pair")

    def __init__(self, of: RoutedCall, number: int, snapshot: "Snapshot", until: float, pair: Losses) -> None:
        """`of`: the caller's; `number`: 0 of team A, 1 of team B; `until`: when its time is up; `pair`: its two."""
        super().__init__(of.call, snapshot, until)
        self.request_id = of.request_id
        self.trace = of.trace
        self.number = number
        self.pair = pair


class InferTeamCall(TeamCall):
    """The same of a call of ModelInfer."""

    __slots__ = ()
    hop: ClassVar[Hop] = INFER

    def as_infer(self, *, named: bool) -> bytes:
        """The caller's bytes."""
        return self.call.payload
