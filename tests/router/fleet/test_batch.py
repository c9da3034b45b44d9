"""The bytes of a batch are those of protobuf's own encoder."""

from abfleet_protos.worker_pb2 import RecommendBatchRequest
from abfleet_router.fleet.batch import encode
from hypothesis import given
from hypothesis import strategies as st

SIZES = st.sampled_from([0, 1, 127, 128, 2047, 2048, 16_384, 70_000])
TIMES = st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([0, 127, 128, 2047, 2048]))


@given(
    st.lists(st.tuples(SIZES, TIMES), min_size=1, max_size=5),
    st.dictionaries(st.integers(0, 4), st.text(st.characters(codec="ascii"), max_size=60), max_size=3),
)
def test_a_batch_is_what_protobuf_makes_of_it(calls: list[tuple[int, int]], traceparents: dict[int, str]) -> None:
    """Byte for byte without traces, and the same message with them."""
    requests, times = [bytes([65]) * size for size, _ in calls], [ms for _, ms in calls]
    expected = RecommendBatchRequest(requests=requests, timeout_ms=times, traceparents=traceparents)
    raw = encode(requests, times, traceparents)
    assert RecommendBatchRequest.FromString(raw) == expected
    if not traceparents:
        assert raw == expected.SerializeToString()
