"""Two versions' answers to a call as one, whose list is drafted from theirs. Pure."""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from abfleet_experiments.config import LoggedOutputs
from abfleet_experiments.team_draft import NOBODY, TEAM_B, Draft, team_draft
from abfleet_protos.inference_pb2 import ModelInferResponse
from abfleet_protos.recommender_pb2 import RecommendResponse
from google.protobuf.message import DecodeError

from abfleet_router.calls import infer_answer
from abfleet_router.calls.infer_answer import (
    LARGEST_WHOLE,
    LENGTH,
    LONGEST_NAME,
    MOST_ELEMENTS,
    NUMBERS,
    TEXTS,
    WHOLE,
    DraftedItems,
    LoggedTensors,
    NamedItems,
)


class NotDrafted(Exception):
    """The two answers make no list together; the message says why."""


class Toss(NamedTuple):
    """What decides a draft: the salt of the experiment, and who calls."""

    salt: str
    user_id: str
    request_id: str


def drafted_recommendation(
    first: RecommendResponse, second: RecommendResponse, limit: int, toss: Toss
) -> tuple[bytes, DraftedItems]:
    """A RecommendResponse and what is logged of it. Raises NotDrafted.

    An item's score is that of the version that gave it, so scores of different teams say nothing about each other.
    """
    named = bool(first.items or second.items)
    if named and (first.item_ids or second.item_ids):
        raise NotDrafted("one version has names of items, and the other numbers")
    lists: list[Any] = [(one.items if named else one.item_ids)[:] for one in (first, second)]
    draft: Draft[Any] = team_draft(
        lists[0], lists[1], limit, salt=toss.salt, user_id=toss.user_id, request_id=toss.request_id
    )
    mine = dict(zip(lists[0], first.scores[:], strict=False))
    theirs = dict(zip(lists[1], second.scores[:], strict=False))
    scores = None
    if len(mine) == len(lists[0]) and len(theirs) == len(lists[1]):
        scores = [
            theirs[item] if letter == TEAM_B or item not in mine else mine[item]
            for item, letter in zip(draft.items, draft.teams, strict=True)
        ]
    if named:
        encoded: bytes = RecommendResponse(items=draft.items, scores=scores).SerializeToString()
        return encoded, DraftedItems(NamedItems(draft.items), draft.teams)
    encoded = RecommendResponse(item_ids=draft.items, scores=scores).SerializeToString()
    return encoded, DraftedItems(draft.items, draft.teams)


def drafted_inference(
    first: bytes, second: bytes, wanted: tuple[LoggedOutputs, LoggedOutputs], toss: Toss
) -> tuple[bytes, LoggedTensors]:
    """A serialised ModelInferResponse and what is logged of it. Raises NotDrafted.

    Both answers have the list in the output that `log` names of their versions. Outputs of its shape have a value for
    each item, and go where the items go; any other must be the same in both. A list ends at a 0 or an empty text.
    """
    tables = (_Table(first, wanted[0].items), _Table(second, wanted[1].items))
    if tables[0].items.datatype != tables[1].items.datatype:
        raise NotDrafted("the items of the two versions have different datatypes")
    limit = max(len(table.items.rows) for table in tables)
    draft = team_draft(
        tables[0].listed, tables[1].listed, limit, salt=toss.salt, user_id=toss.user_id, request_id=toss.request_id
    )
    places = [{row: place for place, row in reversed([*enumerate(table.listed)])} for table in tables]
    picks: list[tuple[int, int]] = []
    for row, letter in zip(draft.items, draft.teams, strict=True):
        team = 1 if letter == TEAM_B or row not in places[0] else 0
        picks.append((team, places[team][row]))
    longest = 0 if len(tables[0].items.rows) == limit else 1
    picks += [(longest, place) for place in range(len(picks), limit)]  # what stands behind the end of its list
    answer = ModelInferResponse(parameters=tables[0].message.parameters)
    for name in tables[0].columns:
        other = wanted[1].items if name == wanted[0].items else name
        _add_output(answer, name, [tables[0], tables[1]], other or "", picks)
    encoded: bytes = answer.SerializeToString()
    logged = infer_answer.logged(encoded, wanted[0])
    teams = draft.teams.ljust(limit, NOBODY)
    rows = [tables[team].items.rows[place] for team, place in picks[:MOST_ELEMENTS]]
    kept = [letter for row, letter in zip(rows, teams, strict=False) if _is_logged(row, tables[0].items.datatype)]
    return encoded, logged._replace(teams="".join(kept))


class _Column(NamedTuple):
    """An output: each element's bytes, as they lie in `raw_output_contents`."""

    datatype: str
    shape: tuple[int, ...]
    rows: list[bytes]


class _Table:
    """The outputs of an answer by name. Raises NotDrafted where there is no list."""

    def __init__(self, response: bytes, items: str | None) -> None:
        try:
            self.message = ModelInferResponse.FromString(response)
        except DecodeError:
            raise NotDrafted("an answer is no message") from None
        raw = self.message.raw_output_contents
        self.columns = {
            tensor.name: _Column(
                tensor.datatype, tuple(tensor.shape), _rows(tensor, raw[place] if place < len(raw) else None)
            )
            for place, tensor in enumerate(self.message.outputs)
        }
        if items is None:
            raise NotDrafted("the file's `log` names no output with the items")
        if items not in self.columns:
            raise NotDrafted(f"an answer has no output `{items[:64]}`, which `log` names")
        self.items = self.columns[items]
        if self.items.datatype not in (*WHOLE, TEXTS):
            raise NotDrafted(f"the output `{items[:64]}` has no items: it is {self.items.datatype[:16]}")
        if sum(size != 1 for size in self.items.shape) > 1:
            raise NotDrafted(f"the output `{items[:64]}` has more than one list: its shape is {self.items.shape}")
        rows = self.items.rows
        self.listed = rows[: next((place for place, row in enumerate(rows) if not any(row)), len(rows))]


def _rows(tensor: Any, raw: bytes | None) -> list[bytes]:
    """The elements of an output. Raises NotDrafted where it is not as long as its shape says."""
    if tensor.datatype == TEXTS:
        if raw is None:
            raw = b"".join(LENGTH.pack(len(one)) + one for one in tensor.contents.bytes_contents)
        rows = _texts(raw)
        whole = sum(map(len, rows)) == len(raw)
    elif tensor.datatype in NUMBERS:
        form, contents = NUMBERS[tensor.datatype]
        size = struct.calcsize(f"<{form}")
        if raw is None:
            raw = _packed(tensor, form, getattr(tensor.contents, contents) if contents else ())
        rows = [raw[begin : begin + size] for begin in range(0, len(raw), size)]
        whole = len(raw) % size == 0
    else:
        raise NotDrafted(f"the output `{tensor.name[:64]}` has the datatype {tensor.datatype[:16]}")
    if not whole or len(rows) != math.prod(tensor.shape):
        raise NotDrafted(f"the output `{tensor.name[:64]}` is not as long as its shape says")
    return rows


def _packed(tensor: Any, form: str, typed: Sequence[Any]) -> bytes:
    """Typed elements as raw bytes."""
    try:
        return struct.pack(f"<{len(typed)}{form}", *typed)
    except struct.error:
        raise NotDrafted(f"the output `{tensor.name[:64]}` has values that {tensor.datatype} cannot have") from None


def _texts(raw: bytes) -> list[bytes]:
    """Elements of BYTES, each with its length before it; without one whose end is missing."""
    rows: list[bytes] = []
    place = 0
    while place + LENGTH.size <= len(raw):
        end = place + LENGTH.size + LENGTH.unpack_from(raw, place)[0]
        if end > len(raw):
            break
        rows.append(raw[place:end])
        place = end
    return rows


def _add_output(answer: Any, name: str, tables: Sequence[_Table], other: str, picks: Sequence[tuple[int, int]]) -> None:
    """Adds an output of the first answer, whose name in the second is `other`."""
    mine, theirs = tables[0].columns[name], tables[1].columns.get(other)
    if theirs is None or mine.datatype != theirs.datatype:
        raise NotDrafted(f"the output `{name[:64]}` is not of the same datatype in both answers")
    if mine.shape == tables[0].items.shape and theirs.shape == tables[1].items.shape:
        shape = list(mine.shape)
        if shape:
            shape[next((at for at, size in enumerate(shape) if size != 1), -1)] = len(picks)
        columns = (mine, theirs)
        content = b"".join(columns[team].rows[place] for team, place in picks)
    elif (mine.shape, mine.rows) == (theirs.shape, theirs.rows):
        shape, content = list(mine.shape), b"".join(mine.rows)
    else:
        raise NotDrafted(f"the output `{name[:64]}` has no value for each item, and is not the same in both answers")
    answer.outputs.add(name=name, datatype=mine.datatype, shape=shape)
    answer.raw_output_contents.append(content)


def _is_logged(row: bytes, datatype: str) -> bool:
    """Whether an element is among the items of a line, as `infer_answer.logged` has them."""
    if datatype == TEXTS:
        return 0 < len(row[LENGTH.size :].decode(errors="replace").encode()) <= LONGEST_NAME
    return datatype != "UINT64" or int.from_bytes(row, "little") <= LARGEST_WHOLE
