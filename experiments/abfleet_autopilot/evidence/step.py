"""What a step of traffic has shown so far: how long it is in force, and how many users each group has in it."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Step:
    """One allocation in force. Changed only by ExperimentEvidence.

    Attributes:
        allocation: Its id. since: When the last of the routers that write took it, microseconds since 1970.
        users: By group, as hashes, as many as are asked for and no more.
        before: Control's users with a first bad event when it began, by treatment and guardrail.
        newest: The newest call.
    """

    allocation: str
    since: int
    traffic: float
    asked: int
    users: dict[int, set[int]] = field(default_factory=dict)
    before: dict[tuple[int, str], int] = field(default_factory=dict)
    newest: int | None = None

    def call(self, group: int, user: int) -> None:
        """A call of a group, for its users."""
        users = self.users.get(group)
        if users is None:
            users = self.users[group] = set()
        if len(users) < self.asked:
            users.add(user)
