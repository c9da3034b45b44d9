"""Batches: every request in one run, matrices padded on the left, answers in protobuf's own encoding."""

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest, RecommendResponse
from abfleet_protos.worker_pb2 import RecommendBatchRequest, RecommendBatchResponse
from abfleet_transport.call import Code
from abfleet_worker import batch
from abfleet_worker.request import ARRAY_FROM, Item, Refusal, read_items
from hypothesis import given
from hypothesis import strategies as st

INT64 = st.integers(-(2**63), 2**63 - 1)
ITEM_ID = st.one_of(st.integers(1, 200_000), st.integers(1, 2**63 - 1))
SCORE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(
    st.lists(st.one_of(st.integers(0, 300), st.integers(0, 20_000)), max_size=300),
    st.integers(1, 130),
    st.integers(1, 5000),
)
def test_each_item_is_in_exactly_one_run(lengths: list[int], max_batch: int, run_cells: int) -> None:
    """Runs partition the items, none is larger than allowed, and none has more padding than a run costs."""
    runs = batch.plan_runs(lengths, max_batch, run_cells)
    assert sorted(index for run in runs for index in run) == list(range(len(lengths)))
    for run in runs:
        assert 1 <= len(run) <= max_batch
        longest = max(lengths[index] for index in run)
        assert sum(longest - lengths[index] for index in run) <= run_cells


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 60))
def test_a_plan_costs_at_most_twice_the_best(lengths: list[int], run_cells: int) -> None:
    """Against every way to cut the sorted lengths into runs, the plan costs at most twice the cheapest."""

    def cost(runs: Sequence[Sequence[int]]) -> int:
        return sum(run_cells + sum(max(run) - length for length in run) for run in runs)

    ordered = sorted(lengths)
    best = min(
        cost([ordered[a:b] for a, b in pairwise([0, *cuts, len(ordered)])])
        for count in range(len(ordered))
        for cuts in combinations(range(1, len(ordered)), count)
    )
    plan = batch.plan_runs(lengths, 128, run_cells)
    assert cost([[lengths[index] for index in run] for run in plan]) <= 2 * best


def test_histories_of_one_length_share_as_few_runs_as_possible() -> None:
    """128 equal histories are one run, 129 are two; a long one among them gets its own."""
    assert len(batch.plan_runs([5] * 128, 128, 100)) == 1
    assert len(batch.plan_runs([5] * 129, 128, 100)) == 2
    assert len(batch.plan_runs([5] * 100 + [10_000], 128, 100)) == 2


@given(st.lists(st.lists(INT64, max_size=ARRAY_FROM + 5), min_size=1, max_size=8), st.booleans())
def test_padding_keeps_every_history_on_the_right(histories: list[list[int]], arrays: bool) -> None:
    """Each row ends with its history, starts with zeros, and is as long as the longest history, at least 1."""
    given_histories = [np.array(h, dtype=np.int64) if arrays and len(h) >= ARRAY_FROM else h for h in histories]
    matrix = batch.pad(given_histories)
    assert matrix.dtype == np.int64
    assert matrix.shape == (len(histories), max(1, *(len(h) for h in histories)))
    for row, history in zip(matrix.tolist(), histories, strict=True):
        assert row == [0] * (len(row) - len(history)) + history


def test_a_long_history_that_was_cut_short_is_padded_like_any_other() -> None:
    """A model with a short memory gets it as an array, and shorter than arrays are otherwise."""
    cut = read_items([RecommendRequest(item_ids=range(1, 3 * ARRAY_FROM)).SerializeToString()], [None], 5)[0]
    assert isinstance(cut, Item)
    newest = list(range(3 * ARRAY_FROM - 5, 3 * ARRAY_FROM))
    assert batch.pad([cut.history]).tolist() == [newest]
    assert batch.pad([[1, 2, 3, 4, 5], cut.history, [7]]).tolist() == [[1, 2, 3, 4, 5], newest, [0, 0, 0, 0, 7]]


@given(INT64)
def test_varints_are_protobufs(value: int) -> None:
    """A varint written here is read by protobuf as the same int64."""
    assert RecommendResponse.FromString(b"\x08" + batch.Varints()[value]).item_ids[0] == value


@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 6), st.data())
def test_encoding_equals_protobufs_own(k: int, limit: int, rows: int, data: st.DataObject) -> None:
    """An answer parsed by protobuf has the row's items and scores up to its limit, in the bytes protobuf writes."""
    ids = np.array([[data.draw(ITEM_ID) for _ in range(min(k, 3))] * 34 for _ in range(rows)], np.int64)[:, :k]
    scores = np.array([[data.draw(SCORE) for _ in range(2)] * 50 for _ in range(rows)], np.float32)[:, :k]
    k = ids.shape[1]
    scores = scores[:, :k]
    limits = [limit, *(data.draw(st.integers(1, 100)) for _ in range(rows - 1))]
    answers = batch.encode(ids, scores, limits, batch.Varints())
    for row, answer in enumerate(answers):
        count = min(limits[row], k)
        expected = RecommendResponse(item_ids=ids[row, :count].tolist(), scores=scores[row, :count].tolist())
        assert answer == expected.SerializeToString()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_no_ranking_is_refused_alone(bad: float) -> None:
    """nan and +inf in what would be sent refuse that row only; past the limit they do no harm."""
    ids = np.arange(1, 13, dtype=np.int64).reshape(3, 4)
    scores = np.ones((3, 4), np.float32)
    scores[1, 2] = bad
    refused = batch.encode(ids, scores, [4, 4, 4], batch.Varints())
    assert [isinstance(answer, Refusal) for answer in refused] == [False, True, False]
    assert isinstance(refused[1], Refusal)
    assert refused[1].code == Code.INTERNAL
    assert not any(isinstance(answer, Refusal) for answer in batch.encode(ids, scores, [4, 2, 4], batch.Varints()))


@pytest.mark.parametrize(("item_id", "score"), [(0, 0.0), (7, -np.inf)])
def test_a_row_ends_where_the_model_had_no_more_items(item_id: int, score: float) -> None:
    """Id 0 or score -inf ends a row: what is before it is sent, the other rows are whole."""
    ids, scores = np.full((2, 3), 5, np.int64), np.ones((2, 3), np.float32)
    ids[0, 1], scores[0, 1] = item_id, score
    first, second = batch.encode(ids, scores, [3, 3], batch.Varints())
    assert isinstance(first, bytes)
    assert isinstance(second, bytes)
    assert list(RecommendResponse.FromString(first).item_ids) == [5]
    assert list(RecommendResponse.FromString(second).item_ids) == [5, 5, 5]


def test_a_row_with_nothing_at_all_is_an_empty_answer() -> None:
    """A model that has no item left for a user gives an empty list, which is no failure."""
    answers = batch.encode(np.zeros((1, 3), np.int64), np.zeros((1, 3), np.float32), [3], batch.Varints())
    assert answers == [b""]


def test_a_negative_id_is_refused() -> None:
    """No id below 0 reaches a client."""
    ids, scores = np.array([[3, -4]], np.int64), np.ones((1, 2), np.float32)
    assert isinstance(batch.encode(ids, scores, [2], batch.Varints())[0], Refusal)


def test_timeouts_that_do_not_match_the_requests_refuse_the_batch() -> None:
    """Two times for one request: nobody can say whose they are."""
    payload = RecommendBatchRequest(requests=[b""], timeout_ms=[1, 2]).SerializeToString()
    refusal = batch.parse_batch(payload, RecommendBatchRequest)
    assert isinstance(refusal, Refusal)
    assert refusal.message == "timeout_ms: 2 values for 1 requests; allowed: none, or one for each"


@given(st.lists(st.one_of(st.binary(max_size=5), st.builds(Refusal, st.just(Code.INTERNAL), st.text(max_size=5)))))
def test_a_batch_answer_has_each_item_at_its_place(answers: list[bytes | Refusal]) -> None:
    """Responses are in the order of the requests, empty where they failed, and failures carry the index."""
    parsed = RecommendBatchResponse.FromString(batch.join_batch("v1", answers, 17))
    assert parsed.model_version == "v1"
    assert parsed.elapsed_us == 17
    assert list(parsed.responses) == [answer if isinstance(answer, bytes) else b"" for answer in answers]
    assert {index: (failure.code, failure.message) for index, failure in parsed.failures.items()} == {
        index: (int(answer.code), answer.message) for index, answer in enumerate(answers) if isinstance(answer, Refusal)
    }


@given(st.text(max_size=300), st.text(max_size=30))
def test_a_lone_answer_has_the_fields_a_router_would_add(request_id: str, version: str) -> None:
    """Items, request id and version come out of protobuf as they went in."""
    items = RecommendResponse(item_ids=[4, 5], scores=[2.0, 1.0]).SerializeToString()
    payload = batch.join_alone(items, request_id=request_id, version_field=batch.text_field(5, version))
    assert RecommendResponse.FromString(payload) == RecommendResponse(
        item_ids=[4, 5], scores=[2.0, 1.0], request_id=request_id, model_version=version
    )
