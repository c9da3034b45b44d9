"""What knowing and limiting callers costs a call in the router: CPU µs in one process, no network.

    python -m tests.benchmarks.limits

Rounds alternate between the ways, so that a busy machine is busy for all of them; the least of each is shown. How it
looks without the code at all is measured by running `tests.benchmarks.tracing` of an older version beside it.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

from abfleet_log.writer.decision_log import DecisionLog
from abfleet_process.security import tokens
from abfleet_process.security.tokens import TokenFile
from abfleet_router.security.access import Access
from abfleet_router.security.rate_limit import Rate, RateLimit
from abfleet_transport.call import Call, Metadata

from tests.benchmarks.tracing import NoLog, Way
from tests.router.bench import Bench


class LimitedWay(Way):
    """A router that knows or limits its callers."""

    def __init__(
        self,
        client_of: Callable[[Call], str | None] | None = None,
        rate: Rate | None = None,
        metadata: Metadata = (),
    ) -> None:
        super().__init__(None, metadata)
        self.bench = Bench(client_of=client_of, rate_limit=None if rate is None else RateLimit(rate))
        self.bench.router._records._log = cast(DecisionLog, NoLog())


def ways(folder: Path) -> dict[str, LimitedWay]:
    """Every combination worth a look; the rate never refuses."""
    secret, stored = tokens.new("shop", ["feedback"])
    path = folder / "tokens"
    path.write_text("\n".join([stored.line(), *(tokens.new(f"t-{n}", ["feedback"])[1].line() for n in range(9))]))
    access = Access(TokenFile(path), feedback_needs_token=True, admin_needs_token=True)
    free, shown = Rate(1e6, 1e6), (("authorization", f"Bearer {secret}"),)
    return {
        "off": LimitedWay(),
        "off, again": LimitedWay(),
        "rate limit": LimitedWay(rate=free),
        "ten tokens, and none is shown": LimitedWay(access.client_of),
        "ten tokens, and one is shown": LimitedWay(access.client_of, metadata=shown),
        "all of it": LimitedWay(access.client_of, free, shown),
    }


async def measure(folder: Path, rounds: int, calls: int) -> dict[str, float]:
    """The least of the rounds by way."""
    made = ways(folder)
    for way in made.values():
        await way.bench.open()
        await way.round(calls // 10)
    least = dict.fromkeys(made, float("inf"))
    for _ in range(rounds):
        for name, way in made.items():
            least[name] = min(least[name], await way.round(calls))
    for way in made.values():
        await way.bench.close()
    return least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=5000, help="in a round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        least = asyncio.run(measure(Path(folder), arguments.rounds, arguments.calls))
    for name, microseconds in least.items():
        print(f"{name:34} {microseconds:6.2f} µs a call  {microseconds - least['off']:+6.2f}")


if __name__ == "__main__":
    main()
