"""When a server that goes may close its socket."""

import time

from abfleet_transport.grpcio.drain import QUIET_SECONDS, idle_instant


async def test_an_answer_given_just_now_has_time_to_leave() -> None:
    """The quiet time counts from the last moment at which a call was running, not only from when one last came."""
    asked: list[float] = []

    def in_progress() -> int:
        asked.append(time.monotonic())
        return int(len(asked) <= 3)

    await idle_instant(in_progress, lambda: asked[0] - 60, 60)
    assert time.monotonic() - asked[2] >= QUIET_SECONDS * 0.9


async def test_it_gives_up_at_its_time() -> None:
    """Calls that do not end do not keep the server: it returns once the time is over."""
    begun = time.monotonic()
    await idle_instant(lambda: 1, time.monotonic, 0.05)
    assert time.monotonic() - begun >= 0.05
