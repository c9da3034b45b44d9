"""Fuzzes one target in this process: `python -m tests.fuzz.one NAME SEED INPUTS SECONDS`. Tells how far it is.

Each input follows from seed, target and number alone, so that one that failed can be had again. A trial that takes
longer than HANG_SECONDS is a failure; one that does not come back at all is found by whoever started this process.
"""

import asyncio
import faulthandler
import gc
import json
import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

HANG_SECONDS = 20.0
WARM_SHARE = 0.2


def resident_mb() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def say(**members: object) -> None:
    """One line of JSON."""
    print(json.dumps(members), flush=True)


def too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"a trial took more than {HANG_SECONDS:g} s")


async def fuzz(target: Target, seed: str, inputs: int, seconds: float) -> int:
    """Tries them; says what happened. Gives the number of failures: after one it stops."""
    begun, trials = time.monotonic(), max(1, inputs // target.each)
    accepted = number = 0
    warm_mb = None
    said = begun
    async with target.open() as trial:
        for number in range(trials):
            signal.setitimer(signal.ITIMER_REAL, HANG_SECONDS)
            try:
                accepted += await trial(random.Random(f"{seed}/{target.name}/{number}"))
            except BaseException as error:
                signal.setitimer(signal.ITIMER_REAL, 0)
                say(failed=number, error=f"{type(error).__name__}: {error}"[:500])
                raise
            now = time.monotonic()
            if warm_mb is None and (number >= trials * WARM_SHARE or now - begun > seconds * WARM_SHARE):
                gc.collect()
                warm_mb = resident_mb()
            if now - said > 0.5:
                said = now
                say(done=(number + 1) * target.each)
                await asyncio.sleep(0)
            if now - begun > seconds:
                break
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect()
        last_mb = resident_mb()
    say(
        inputs=(number + 1) * target.each,
        accepted=accepted,
        seconds=time.monotonic() - begun,
        warm_mb=warm_mb or last_mb,
        last_mb=last_mb,
    )
    return 0


def main() -> int:
    """One target."""
    name, seed, inputs, seconds = sys.argv[1:]
    faulthandler.enable()
    signal.signal(signal.SIGALRM, too_long)
    (target,) = (one for one in TARGETS if one.name == name)
    return asyncio.run(fuzz(target, seed, int(inputs), float(seconds)))


if __name__ == "__main__":
    sys.exit(main())
