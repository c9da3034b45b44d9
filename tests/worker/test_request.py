"""Requests: what is read of them and which break the contract."""

import pytest
from abfleet_protos.recommender_pb2 import RecommendRequest
from abfleet_transport.call import Code
from abfleet_worker.request import ARRAY_FROM, Item, Refusal, read_alone, read_items, shown
from hypothesis import given
from hypothesis import strategies as st

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(INT64, max_size=3 * ARRAY_FROM), st.integers(1, 2 * ARRAY_FROM), st.integers(0, 100))
def test_the_newest_items_of_a_history_are_kept(items: list[int], max_history: int, limit: int) -> None:
    """Whatever its length, a history keeps its newest items in order, and limit 0 means 10."""
    payload = RecommendRequest(item_ids=items, limit=limit).SerializeToString()
    (item,) = read_items([payload], [5.0], max_history)
    assert isinstance(item, Item)
    assert [int(value) for value in item.history] == items[-max_history:]
    assert item.limit == (limit or 10)
    assert item.expires == 5.0


def test_unpacked_item_ids_are_read() -> None:
    """A client that writes repeated fields unpacked is understood, as proto3 demands."""
    (item,) = read_items([b"\x08\x05\x08\x07"], [None], 100)
    assert isinstance(item, Item)
    assert list(item.history) == [5, 7]


@pytest.mark.parametrize(
    ("request_message", "field"),
    [
        (RecommendRequest(limit=101), "limit: 101"),
        (RecommendRequest(limit=-1), "limit: -1"),
        (RecommendRequest(user_id="x" * 257), "user_id: 'xxx"),
        (RecommendRequest(user_id="ж" * 129), "user_id: 'ж"),
        (RecommendRequest(user_id="a\x00b"), "user_id: 'a\\x00b'"),
        (RecommendRequest(user_id="a\x85b"), "user_id: "),
        (RecommendRequest(request_id="r" * 129), "request_id: 'rrr"),
        (RecommendRequest(attributes={str(i): "" for i in range(33)}), "attributes: 33"),
        (RecommendRequest(attributes={"k" * 257: "v"}), "attributes key: 'kkk"),
        (RecommendRequest(attributes={"k": "v" * 257}), "attributes['k']: 'vvv"),
    ],
)
def test_a_refusal_names_field_value_and_what_is_allowed(request_message: RecommendRequest, field: str) -> None:
    """Each broken rule is INVALID_ARGUMENT with the field, the value cut to 64 characters, and the rule."""
    refusal = read_alone(request_message.SerializeToString(), 100, None)
    assert isinstance(refusal, Refusal)
    assert refusal.code == Code.INVALID_ARGUMENT
    assert refusal.message.startswith(field)
    assert "allowed" in refusal.message
    assert len(refusal.message) < 250


@pytest.mark.parametrize(
    "request_message",
    [
        RecommendRequest(),
        RecommendRequest(user_id="x" * 256, request_id="r" * 128, limit=100),
        RecommendRequest(user_id="用户", attributes={str(i): "v" * 256 for i in range(32)}),
    ],
)
def test_what_is_just_allowed_is_read(request_message: RecommendRequest) -> None:
    """The limits themselves are allowed."""
    found = read_alone(request_message.SerializeToString(), 100, None)
    assert not isinstance(found, Refusal)
    assert found[1] == request_message.request_id


@given(st.binary(max_size=40))
def test_no_bytes_make_reading_fail(payload: bytes) -> None:
    """Any bytes at all are an item or a refusal, never an exception."""
    bad_or_not, good = read_items([payload, b""], [None, None], 10)
    assert isinstance(bad_or_not, Item | Refusal)
    assert good == Item([], 10, None)
    assert isinstance(read_alone(payload, 10, None), tuple)


def test_a_long_value_is_cut_to_64_characters() -> None:
    """What is shown of a value has at most 64 characters between its quotes."""
    assert shown("a" * 64) == repr("a" * 64)
    assert shown("a" * 65) == repr("a" * 63 + "…")
    assert len(shown(10**90)) == 64
