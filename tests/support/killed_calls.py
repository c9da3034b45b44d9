"""Forks and kills the child before one of its system calls. For programs of their own, without threads."""

import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

FSYNC: Final[dict[str, Any]] = {"os.fsync": os}


def killed(
    act: Callable[[], object],
    point: int,
    *,
    events: Collection[str],
    calls: Mapping[str, Any] = FSYNC,
    first: Callable[[], object] = lambda: None,
) -> str | None:
    """What the child was about to do when it was killed before its `point`-th call; None where it came to its end.

    events: Audit events that count. calls: Functions that count and of which no audit event tells, and their modules.
    first: What the child does before it counts.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            first()
            _die_before(point, writing, events, calls)
            act()
        except BaseException as error:  # noqa: BLE001 - the parent is to hear of whatever it is
            os.write(writing, f"failed: {error!r}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        what = told.read()
    os.waitpid(child, 0)
    return what or None


def _die_before(point: int, tell: int, events: Collection[str], calls: Mapping[str, Any]) -> None:
    made = 0

    def count(what: str) -> None:
        nonlocal made
        made += 1
        if made == point:
            os.write(tell, what.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            count(name)
            return real(*arguments)

        return call

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in events:
            count(event)

    for what, module in calls.items():
        name = what.rpartition(".")[2]
        setattr(module, name, counted(what, getattr(module, name)))
    sys.addaudithook(hook)
