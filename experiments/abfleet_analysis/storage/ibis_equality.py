"""Makes Ibis' memory of comparisons safe beside other threads, and for the collector, which may run between its steps.

Ibis 12 remembers by `id()` what it has compared, and an object that is deleted takes its entries along. Where two that
were compared are deleted at once, in two threads or one within the other, that raises KeyError, which Python prints and
passes over, and the rest of the entries stays. A later object that gets the id of a deleted one is then taken for equal
to another one, or for different, without a look at either: a query of something else, with no error.
"""

from threading import RLock
from typing import Any

from ibis.common.bases import Comparable

_LOCK = RLock()
"""The collector may delete an object while the same thread deletes another. The methods have it as a default: at the
end of the process a module has no names any more."""


def make_safe() -> None:
    """Replaces the two methods that change the memory; again is as once."""
    methods: Any = Comparable
    if methods.__eq__ is not _equals:
        methods.__eq__, methods.__del__ = _equals, _forget


def _equals(self: Any, other: Any, lock: Any = _LOCK) -> bool:
    if self is other:
        return True
    if type(self) is not type(other):
        return False
    remembered = self.__cache__
    mine, theirs = id(self), id(other)
    try:
        return bool(remembered[mine][theirs])
    except KeyError:
        result = bool(self.__equals__(other))
        with lock:
            remembered.setdefault(mine, {})[theirs] = result
            remembered.setdefault(theirs, {})[mine] = result
        return result


def _forget(self: Any, lock: Any = _LOCK) -> None:
    remembered = self.__cache__
    with lock:
        mine = id(self)
        for theirs in remembered.pop(mine, ()):
            of_other = remembered.get(theirs, {})
            of_other.pop(mine, None)
            if not of_other:
                remembered.pop(theirs, None)
