"""What `abfleet up` prints when it is ready and when it ends: what it served, and what to type next. Pure."""

import shlex
from collections.abc import Mapping

from abfleet_process.addresses import ADMIN_ADDRESS, EXPERIMENTS_FILE, ROUTER_ADDRESS, program
from abfleet_process.counting import counted

from abfleet.up.settings import UpSettings


def what_next(settings: UpSettings, addresses: Mapping[str, str], dashboard: str) -> list[str]:
    """What to try now that calls are answered, with the flags that this fleet needs.

    addresses: `ready` and `admin`, as bound. dashboard: Its address; empty without one.
    """
    to_router = _flag("--address", addresses["ready"], ROUTER_ADDRESS)
    lines = {
        f"client --user-id user-1 --items 1,2,3{to_router}": "one call",
        f"traffic{to_router}": "simulated calls and clicks",
        f"status{_flag('--admin', addresses['admin'], ADMIN_ADDRESS)}": "groups, versions and workers",
        _analyze(settings): "conclusions from the log",
    }
    width = max(map(len, lines)) + len(program()) + 1
    shown = [f"  {f'{program()} {command}':<{width}}  {words}" for command, words in lines.items()]
    pages = f", or open http://{dashboard}/" if dashboard else ""
    return [f"next, in another terminal{pages}:", *shown]


def what_came(served: Mapping[str, int], seconds: float, settings: UpSettings) -> list[str]:
    """What the fleet served, where the log is, and what to do next.

    served: By the names that a router gives at its end: calls, failed, fallbacks, outcomes, lines, lost.
    """
    calls, outcomes = counted(served["calls"], "call"), counted(served["outcomes"], "outcome")
    if not served["calls"] and not served["outcomes"]:
        return [f"received no calls in {lasted(seconds)}"]
    what = f"{served['failed']:,} failed, {served['fallbacks']:,} answered by the default version as a fallback"
    lost = f"; {counted(served['lost'], 'line')} could not be written" if served["lost"] else ""
    return [
        f"served {calls} in {lasted(seconds)}: {what}",
        (
            f"recorded {outcomes}; wrote {counted(served['lines'], 'line')} to the decision log in "
            f"{settings.log_dir}/{lost}"
        ),
        f"next: {program()} {_analyze(settings)}",
    ]


def lasted(seconds: float) -> str:
    """A span of time in its largest units: `41 s`, `5 min 3 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _analyze(settings: UpSettings) -> str:
    logs = _flag("--logs", str(settings.log_dir), "logs")
    return f"analyze{logs}{_flag('--experiments', str(settings.experiments), EXPERIMENTS_FILE)}"


def _flag(name: str, value: str, default: str) -> str:
    return "" if value == default else f" {name} {shlex.quote(value)}"
