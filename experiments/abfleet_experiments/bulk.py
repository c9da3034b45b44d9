"""Assigns many users, and writes the result as CSV (RFC 4180).

The rows are `user_id,experiment,group,bucket,model_version,reason`, one for each line that comes in. A line whose id
the router would refuse gives a row with the reason `invalid_user_id` and empty cells.
"""

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from abfleet_experiments.assign import Assigner
from abfleet_experiments.bucketing import BUCKETS, user_id_problem

HEADER: Final = "user_id,experiment,group,bucket,model_version,reason\r\n"
INVALID: Final = "invalid_user_id"
_UNUSUAL: Final = re.compile('[\x00-\x1f\x7f-\x9f",\ud800-\udfff]')
_SURELY_SHORT_ENOUGH: Final = 64
"""Characters; UTF-8 needs at most four bytes for each, and 256 bytes are allowed."""


class BulkAssigner:
    """An assigner for users who all have the same attributes; counts the ids it could not take in `invalid`."""

    def __init__(self, assigner: Assigner, attributes: Mapping[str, str]) -> None:
        self._assign = assigner.assign
        self._attributes = attributes
        # A row is the id, what stands before the bucket, the bucket, and what stands after it.
        self._before = [f",{arm.experiment or ''},{arm.group or ''}," for arm in assigner.arms]
        self._after = [f",{arm.model_version},{arm.reason}\r\n" for arm in assigner.arms]
        self._buckets: dict[int | None, str] = {number: str(number) for number in range(BUCKETS)}
        self._buckets[None] = ""
        self.invalid = 0  # changed only by _careful

    def rows(self, user_ids: list[str]) -> str:
        """The rows of these ids, in their order."""
        plain = max(map(len, user_ids), default=0) <= _SURELY_SHORT_ENOUGH and not _UNUSUAL.search("".join(user_ids))
        return "".join(self._fast(user_ids) if plain else self._careful(user_ids))

    def _fast(self, user_ids: Iterable[str]) -> Iterator[str]:
        assign, attributes = self._assign, self._attributes
        before, after, buckets = self._before, self._after, self._buckets
        for user_id in user_ids:
            arm, bucket = assign(user_id, attributes)
            index = arm.index
            yield user_id + before[index] + buckets[bucket] + after[index]

    def _careful(self, user_ids: Iterable[str]) -> Iterator[str]:
        for user_id in user_ids:
            if user_id and user_id_problem(user_id) is not None:
                self.invalid += 1
                yield f"{_cell(user_id)},,,,,{INVALID}\r\n"
                continue
            (row,) = self._fast((user_id,))
            yield _cell(user_id) + row[len(user_id) :]


def _cell(text: str) -> str:
    """Text as a cell: in quotes where it needs them."""
    return '"' + text.replace('"', '""') + '"' if _UNUSUAL.search(text) else text


def lines(chunks: Iterable[bytes]) -> Iterator[list[str]]:
    """The lines of a stream, chunk by chunk, without their ends (`\\n` or `\\r\\n`) and without a mark of its encoding.

    Bytes that are no UTF-8 become lone surrogates, which are no valid user id either.
    """
    begun: list[bytes] = []  # of a line whose end has not come yet
    for chunk in _unmarked(chunks):
        whole, newline, rest = chunk.rpartition(b"\n")
        if newline:
            yield _decoded(b"".join((*begun, whole)))
            begun = []
        begun.append(rest)
    if last := b"".join(begun):
        yield _decoded(last)


def _unmarked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The stream without the byte order mark that some editors and spreadsheets put first."""
    head, rest = b"", iter(chunks)
    for chunk in rest:
        head += chunk
        if len(head) >= len(codecs.BOM_UTF8):
            break
    yield head.removeprefix(codecs.BOM_UTF8)
    yield from rest


def _decoded(data: bytes) -> list[str]:
    text = data.decode(errors="surrogateescape")
    return [line.removesuffix("\r") for line in text.split("\n")] if "\r" in text else text.split("\n")
