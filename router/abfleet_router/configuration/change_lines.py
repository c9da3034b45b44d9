"""What the decision log says of configurations: allocations, conclusions and reloads. Decides nothing."""

from collections.abc import Sequence

from abfleet_experiments.movement import Movement
from abfleet_log.lines import event, timestamp
from abfleet_log.writer.decision_log import DecisionLog

from abfleet_router.configuration.snapshot import Snapshot


class ChangeLines:
    """Writes the lines of one router."""

    def __init__(self, decision_log: DecisionLog, router: str) -> None:
        self._log = decision_log
        self._router = router

    def allocations(self, snapshot: Snapshot, moving: Movement | None) -> None:
        """What is in force from now on; `moving`: who has moved by that, None at the start."""
        for allocation in snapshot.assigner.allocations:
            members = {
                "router": self._router,
                "config_revision": snapshot.revision,
                "experiment": allocation.experiment,
                "salt": allocation.salt,
                "allocation": allocation.allocation,
                "traffic": allocation.traffic,
                "weights": dict(allocation.weights),
                "moved": None if moving is None else moved_in(moving, allocation.experiment),
            }
            self._log.append(event("allocation", snapshot.activated.timestamp(), members))

    def conclusions(self, snapshot: Snapshot) -> None:
        """The experiments that the configuration says are concluded."""
        for one in snapshot.config.concluded:
            members = {
                "router": self._router,
                "config_revision": snapshot.revision,
                "experiment": one.experiment,
                "winner": one.winner,
                "concluded_at": timestamp(one.at.timestamp()).decode(),
            }
            self._log.append(event("conclusion", snapshot.activated.timestamp(), members))

    def reload(
        self,
        old_revision: str | None,
        new_revision: str | None,
        *,
        at: float,
        active: bool,
        moved: float | None = None,
        errors: Sequence[str] = (),
    ) -> None:
        """A change of the files, at `at` in seconds since the epoch, and whether it is in force; `moved`: the share of
        users, 0 to 1."""
        members = {
            "router": self._router,
            "old_revision": old_revision,
            "new_revision": new_revision,
            "active": active,
            "moved": moved,
            "errors": list(errors),
        }
        self._log.append(event("reload", at, members))


def moved_in(moving: Movement, experiment: str) -> float:
    """The share of all users, 0 to 1, who enter an experiment, leave it or change their group in it."""
    flows = (flow for flow in moving.flows if experiment in (flow.before.experiment, flow.after.experiment))
    return float(sum(flow.share for flow in flows if flow.before[:2] != flow.after[:2]))
