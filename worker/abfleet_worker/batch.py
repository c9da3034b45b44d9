"""Requests to padded matrices, and the model's rows to answers. Pure: knows no clock, no transport and no runtime."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from abfleet_process.base128 import varint
from abfleet_protos.worker_pb2 import Failure, RecommendBatchResponse
from abfleet_transport.call import Code
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from abfleet_worker.request import ARRAY_FROM, History, Refusal

BAD_ANSWER = Refusal(Code.INTERNAL, "the model's answer for this request is not a ranking; see the worker's log")


class Varints(dict[int, bytes]):
    """Item id to its protobuf varint, made at first use; bounded by the items that a model can answer with.

    Joining cached bytes costs 1.0 µs for an answer of ten items, a RecommendResponse 3.8 µs; a numpy encoding of the
    whole batch would win only above some hundred rows.
    """

    def __missing__(self, value: int) -> bytes:
        encoded = self[value] = varint(value & 0xFFFF_FFFF_FFFF_FFFF)  # an int64 below 0 has the bits of its uint64
        return encoded


def text_field(number: int, text: str) -> bytes:
    """A string field of a message; nothing for the empty string, as proto3 has it."""
    value = text.encode()
    return varint(number << 3 | 2) + varint(len(value)) + value if value else b""


def parse_batch(payload: bytes, message: Any) -> tuple[Sequence[bytes], Sequence[int], Mapping[int, str]] | Refusal:
    """The requests of a batch, the milliseconds each has left (none: no limits) and the `traceparent` of those that
    have one, by index; or why the batch is refused. `message` is the type of the batch."""
    try:
        batch = message.FromString(payload)
    except DecodeError:
        return Refusal(Code.INVALID_ARGUMENT, f"batch: the bytes are not a {message.DESCRIPTOR.name}")
    requests, timeouts = batch.requests[:], batch.timeout_ms[:]  # lists: to go through a field takes ten times as long
    if timeouts and len(timeouts) != len(requests):
        return Refusal(
            Code.INVALID_ARGUMENT,
            f"timeout_ms: {len(timeouts)} values for {len(requests)} requests; allowed: none, or one for each",
        )
    return requests, timeouts, batch.traceparents


def plan_runs(lengths: Sequence[int], max_batch: int, run_cells: float) -> list[Sequence[int]]:
    """Which items are inferred together: lists of indexes, each index once, at most `max_batch` in a run.

    All histories of a run are padded to its longest, and padding costs as much as items do. `run_cells` is what one
    more run costs, in padded places. Items are taken by length, and a run ends where its padding would pass that.

    This costs at most twice the best cut of the sorted lengths: wherever it ends a run, any other plan either ends one
    there too, or pads that run and the next item with more than `run_cells`. So the best plan costs at least
    `run_cells` for each of these runs, which cost at most `run_cells` themselves and as much for padding.
    """
    if not lengths:
        return []
    if max(lengths) * len(lengths) - sum(lengths) <= run_cells:
        return [range(start, min(start + max_batch, len(lengths))) for start in range(0, len(lengths), max_batch)]
    runs: list[Sequence[int]] = []
    run: list[int] = []
    longest, padding = 0, 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        padding += len(run) * (length - longest)
        if run and (len(run) == max_batch or padding > run_cells):
            runs.append(run)
            run, padding = [], 0
        run.append(index)
        longest = length
    runs.append(run)
    return runs


def pad(histories: Sequence[History]) -> NDArray[np.int64]:
    """history: int64[batch, length], zeros on the left; the length is the longest history's, at least 1."""
    length = max(1, *map(len, histories))
    if length < ARRAY_FROM:
        # One flat list is read at once: 5 µs for 32 short histories, a row assignment each would be 20 µs.
        flat: list[int] = []
        for history in histories:
            flat += [0] * (length - len(history))
            flat.extend(history)  # not +=, which would add where a long history that was cut short is an array
        return np.array(flat, dtype=np.int64).reshape(len(histories), length)
    matrix = np.zeros((len(histories), length), dtype=np.int64)
    for row, history in zip(matrix, histories, strict=True):
        if len(history):
            row[-len(history) :] = history
    return matrix


def sendable(
    item_ids: NDArray[np.int64], scores: NDArray[np.float32], limits: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float32], Sequence[int]]:
    """The columns that are sent at most, and how many of each row are: `limits` themselves where every row is whole in
    what it may send, else as of `usable`."""
    width = min(max(limits), item_ids.shape[1])
    item_ids, scores = item_ids[:, :width], scores[:, :width]
    # Both ends are finite only if every score is (nan spreads), and no array of booleans is made for it.
    lowest, highest = np.minimum.reduce(scores, axis=None), np.maximum.reduce(scores, axis=None)
    if isfinite(lowest) and isfinite(highest) and np.minimum.reduce(item_ids, axis=None) > 0:
        return item_ids, scores, limits
    return item_ids, scores, usable(item_ids, scores, limits)


def encode(
    item_ids: NDArray[np.int64], scores: NDArray[np.float32], limits: Sequence[int], varints: Varints
) -> list[bytes | Refusal]:
    """Serialised RecommendResponse messages with `item_ids` and `scores` alone, one for each row.

    `item_ids`: int64[batch, k], `scores`: float32[batch, k], best first. A row ends at an id 0 or a score -inf: the
    model had no more items. A row with a nan, +inf or an id below 0 in what would be sent is refused, never sent.
    """
    item_ids, scores, counts = sendable(item_ids, scores, limits)
    width = item_ids.shape[1]
    rows, packed = item_ids.tolist(), scores.astype("<f4", copy=False).tobytes()
    stride = 4 * width
    if counts is limits and min(limits) >= width:  # every row is whole, as it is when all ask for as many
        return _encode_whole(rows, packed, stride, varints)
    encoded_id = varints.__getitem__
    answers: list[bytes | Refusal] = []
    for start, row, count in zip(range(0, len(packed), stride), rows, counts, strict=True):
        if count <= 0:
            answers.append(b"" if count == 0 else BAD_ANSWER)
            continue
        ids = b"".join(map(encoded_id, row[:count]))
        size = 4 * min(count, width)
        answers.append(
            b"\x0a%b%b\x32%b%b" % (encoded_id(len(ids)), ids, encoded_id(size), packed[start : start + size])
        )
    return answers


def _encode_whole(rows: list[list[int]], packed: bytes, stride: int, varints: Varints) -> list[bytes | Refusal]:
    encoded_id = varints.__getitem__
    head = b"\x32" + encoded_id(stride)
    encoded = [b"".join(map(encoded_id, row)) for row in rows]
    return [
        b"\x0a%b%b%b%b" % (encoded_id(len(ids)), ids, head, packed[start : start + stride])
        for start, ids in zip(range(0, len(packed), stride), encoded, strict=True)
    ]


def usable(item_ids: NDArray[np.int64], scores: NDArray[np.float32], limits: Sequence[int]) -> list[int]:
    """How many items of each row may be sent; -1 where the row breaks the contract."""
    counts = []
    for ids, values, limit in zip(item_ids, scores, limits, strict=True):
        ended = np.flatnonzero(np.isneginf(values) | (ids == 0))
        count = min(limit, len(ids), int(ended[0]) if len(ended) else len(ids))
        good = np.isfinite(values[:count]).all() and (ids[:count] > 0).all()
        counts.append(count if good else -1)
    return counts


def join_batch(version: str, answers: Sequence[bytes | Refusal], elapsed_us: int, alias: str = "") -> bytes:
    """A serialised RecommendBatchResponse: for each request in order, its answer or its failure."""
    failures: dict[int, Any] = {
        index: Failure(code=int(answer.code), message=answer.message)
        for index, answer in enumerate(answers)
        if isinstance(answer, Refusal)
    }
    responses = [b"" if isinstance(answer, Refusal) else answer for answer in answers] if failures else answers
    return RecommendBatchResponse(
        model_version=version,
        responses=responses,  # type: ignore[arg-type]  # only bytes are left
        failures=failures,
        elapsed_us=elapsed_us,
        alias=alias,
    ).SerializeToString()


def join_alone(answer: bytes, *, request_id: str, version_field: bytes) -> bytes:
    """A serialised RecommendResponse from its items and the fields that a router would add."""
    return answer + text_field(2, request_id) + version_field
