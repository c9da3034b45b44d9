"""The bytes of a batch: protobuf by hand where a library costs more than the rest of the way to the worker.

For a batch of one call an object of the message costs 5 µs, and joining its parts 0.6 µs; for twenty they cost the same.
"""

from collections.abc import Mapping, Sequence

from abfleet_protos.worker_pb2 import RecommendBatchRequest

REQUESTS_TAG, TIMEOUT_MS_TAG = b"\x0a", b"\x12"
"""Of RecommendBatchRequest: field number << 3 | 2 (length-delimited)."""


def varint(value: int) -> bytes:
    """A number of 0 or more in base 128 (https://protobuf.dev/programming-guides/encoding/#varints)."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


SMALL = tuple(varint(value) for value in range(2048))
"""Nearly all sizes of requests and milliseconds of attempts."""


def encode(requests: Sequence[bytes], timeout_ms: Sequence[int], traceparents: Mapping[int, str]) -> bytes:
    """A RecommendBatchRequest; its fields are described in worker.proto."""
    parts: list[bytes] = []
    for payload in requests:
        size = len(payload)
        parts += (REQUESTS_TAG, SMALL[size] if size < len(SMALL) else varint(size), payload)
    times = b"".join([SMALL[ms] if ms < len(SMALL) else varint(ms) for ms in timeout_ms])
    parts += (TIMEOUT_MS_TAG, varint(len(times)), times)
    if traceparents:  # messages merge by concatenation
        parts.append(RecommendBatchRequest(traceparents=traceparents).SerializeToString())
    return b"".join(parts)
