"""The routers' statuses, polled while somebody watches."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from abfleet_protos.admin_pb2 import StatusResponse
from abfleet_transport.client.router_admin import RouterAdmin, Unreachable

from abfleet_dashboard.situation import RouterState
from abfleet_dashboard.visits import Visits

WINDOW_SECONDS: Final = 10.0
"""Rates are of so long: short enough to see an edit, long enough that a percent means something."""
GAP_SECONDS: Final = 3 * WINDOW_SECONDS
"""After nobody watched for so long, what was seen before says nothing about now."""


class FleetWatch:
    """The last statuses of each router; changed only by `keep`."""

    def __init__(self, routers: Sequence[RouterAdmin], refresh_seconds: float, visits: Visits) -> None:
        self._routers = routers
        self._refresh_seconds = refresh_seconds
        self._visits = visits
        self._statuses: list[deque[StatusResponse]] = [deque() for _ in routers]
        self._errors: list[str | None] = [None for _ in routers]
        self.number = 0

    @property
    def states(self) -> tuple[RouterState, ...]:
        """Each router as it was last seen."""
        return tuple(
            RouterState(
                address=router.address,
                status=kept[-1] if kept else None,
                earlier=kept[0] if len(kept) > 1 else None,
                error=error,
            )
            for router, kept, error in zip(self._routers, self._statuses, self._errors, strict=True)
        )

    async def keep(self) -> None:
        """Polls until it is cancelled, and at once when the first visitor comes."""
        async with AsyncExitStack() as stack:
            for router in self._routers:
                await stack.enter_async_context(router)
            while True:
                await asyncio.gather(*(self._ask(index) for index in range(len(self._routers))))
                self.number += 1
                await self._visits.pause(self._refresh_seconds if self._visits.watched else 3600.0)

    async def _ask(self, index: int) -> None:
        kept = self._statuses[index]
        try:
            status = await self._routers[index].status()
        except Unreachable as error:
            self._errors[index] = str(error)
            return
        self._errors[index] = None
        if kept and not 0 < status.uptime_s - kept[-1].uptime_s < GAP_SECONDS:
            kept.clear()  # an old status, or the router was restarted
        kept.append(status)
        while len(kept) > 2 and kept[1].uptime_s <= status.uptime_s - WINDOW_SECONDS:
            kept.popleft()
