"""Our router under millions of calls, some cancelled and some expired: what its memory does. Measures no speed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.benchmarks import load, measure
from tests.benchmarks.fleets import fleet
from tests.benchmarks.load import METHOD_PATH, User
from tests.benchmarks.paths import Stage, our_router
from tests.benchmarks.sender import Request, Sender

GROWTH_BOUND = 0.03
_CHUNK, _IN_FLIGHT = 150_000, 400
_ODD = 3_000
"""Calls in each chunk that are cancelled, and as many that expire."""
_CANCELLED_AT_ONCE, _CANCELLED_A_CONNECTION = 5, 100
"""Few, and soon on new connections: servers take many resets for an attack (CVE-2023-44487) and hang up. Where one
does, half of a connection's calls are taken to have been cancelled."""
_WARM_CHUNKS = 4
"""Before the growth is counted: buffers and caches have reached their size, and the log has rotated and compressed."""
_EXPIRES_AT_ONCE = {"grpc-timeout": "100u"}


@dataclass(frozen=True, slots=True)
class Soaked:
    """Resident memory after each chunk, the warm ones first."""

    calls: int
    cancelled: int
    expired: int
    resident_mb: tuple[float, ...]

    @property
    def growth(self) -> float:
        """Share by which memory has grown since the warm-up: medians of the last third and the first.

        Single readings go up and down by 5 % with what is being compressed; a leak moves the medians.
        """
        return self.after_mb / self.before_mb - 1

    @property
    def before_mb(self) -> float:
        """Median of the first third after the warm-up."""
        return median(self._third(0))

    @property
    def after_mb(self) -> float:
        """Median of the last third."""
        return median(self._third(-1))

    def _third(self, which: int) -> tuple[float, ...]:
        warm = self.resident_mb[_WARM_CHUNKS:]
        size = max(1, len(warm) // 3)
        return warm[:size] if which == 0 else warm[-size:]


def soak(
    calls: int, directory: Path, *, transport: str, router_flags: tuple[str, ...], say: Callable[[str], None]
) -> Soaked:
    """Sends at least `calls` calls through our router. Raises WrongAnswers when it no longer answers."""
    resident: list[float] = []
    sent = cancelled = expired = 0
    with fleet("identity", directory) as workers:
        stage = Stage(directory, workers.ports, router_flags=router_flags)
        running = our_router(stage, transport=transport, name="soak")
        assert running.router is not None
        try:
            users = measure.find_users(running, workers)
            while sent < calls or len(resident) <= _WARM_CHUNKS:
                done = load.saturate(users, calls=_CHUNK, in_flight=_IN_FLIGHT, directory=directory, timeout_s=300)
                gone, late = _odd(users)
                sent, cancelled, expired = sent + done.calls + 2 * _ODD, cancelled + gone, expired + late
                measure.check(running, users, calls=300, at_once=30)
                resident.append(running.router.resident_mb())
                say(f"{sent:,} calls: {resident[-1]:.1f} MB")
                _forget_logs(directory)
        finally:
            running.router.stop()
    return Soaked(sent, cancelled, expired, tuple(resident))


def _odd(users: list[User]) -> tuple[int, int]:
    """Returns how many calls were cancelled before their answer, and how many were not answered OK in time."""
    hurried = [
        Request.of(
            port=user.port,
            path=METHOD_PATH,
            payload=user.payload,
            headers={"x-user-id": user.user_id, **_EXPIRES_AT_ONCE},
        )
        for user in users
    ]
    gone = 0
    for _ in range(_ODD // _CANCELLED_A_CONNECTION):
        patient = Sender([user.request for user in users], connections=1)
        try:
            gone += patient.cancelled(_CANCELLED_A_CONNECTION, at_once=_CANCELLED_AT_ONCE)
        except ConnectionError:  # it did hang up: its right, and a dead connection must leave nothing behind either
            gone += _CANCELLED_A_CONNECTION // 2
        finally:
            patient.close()
    impatient = Sender(hurried, connections=4)
    try:
        return gone, _ODD - impatient.in_flight(_ODD, at_once=60).ok
    finally:
        impatient.close()


def _forget_logs(directory: Path) -> None:
    """Empties log files that are closed, so that millions of lines do not fill the disk."""
    for closed in sorted(directory.glob("soak-logs/*"), key=lambda path: path.stat().st_mtime)[:-1]:
        closed.unlink()
