"""HTTP/2 as both sides would send it, to be mutated: frames, header blocks, gRPC messages. Knows no socket."""

import random
from collections.abc import Sequence

import hpack
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.frames import frame

from tests.fuzz.mutation import any_of, mutated

OK_HEADERS = [(":status", "200"), ("content-type", "application/grpc")]
HUGE = "9" * 5000
RARE = 0.02
"""Of what is large: it costs a hundred times what the others do."""


def block(fields: Sequence[tuple[str, str]]) -> bytes:
    """A header block without dynamic table."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(list(fields))


TRAILERS = tuple(
    block(fields)
    for fields in (
        [("grpc-status", "0")],
        [("grpc-status", "13"), ("grpc-message", "no%20luck%ff%")],
        [("grpc-status", "-1")],
        [(":status", "503")],
    )
)
LARGE = (block([("grpc-status", HUGE), ("grpc-message", HUGE)]), block([("grpc-status", "0"), ("x", "y" * 60_000)]))
HEADS = (block(OK_HEADERS), block([(":status", "404")]), block([*OK_HEADERS, ("a", "b" * 300)]))
KINDS = (*range(11), 0x20, 0xFF)


def message(payload: bytes, source: random.Random) -> bytes:
    """A gRPC message, mostly with a right prefix."""
    compressed, length = 0, len(payload)
    if source.random() < 0.1:
        compressed, length = source.choice(((1, length), (0, 2**32 - 1), (0, length + 1), (7, 0)))
    return http2.MESSAGE_PREFIX.pack(compressed, length) + payload


def server_frame(source: random.Random, streams: Sequence[int], payloads: Sequence[bytes]) -> bytes:
    """A frame that a worker might send, or that none would."""
    stream = source.choice((*streams, *streams, 0, 2, 2**31 - 1))
    match source.randrange(12):
        case 0:
            return frame(http2.HEADERS, source.choice((4, 4, 0, 5, 0x2C)), stream, source.choice(HEADS))
        case 1 | 2:
            trailers = LARGE if source.random() < RARE else TRAILERS
            return frame(http2.HEADERS, source.choice((5, 5, 1)), stream, any_of(source, trailers))
        case 3 | 4 | 5:
            return frame(http2.DATA, source.choice((0, 0, 1, 8)), stream, message(source.choice(payloads), source))
        case 6:
            number, value = source.randrange(8), source.choice((0, 1, 100, 16_384, 2**24, 2**31 - 1, 2**32 - 1))
            return frame(http2.SETTINGS, source.choice((0, 0, 1)), 0, http2.SETTING.pack(number, value))
        case 7:
            return frame(http2.WINDOW_UPDATE, 0, stream, http2.UINT32.pack(source.choice((0, 1, 2**31 - 1))))
        case 8:
            return frame(http2.PING, source.choice((0, 1)), 0, bytes(source.choice((8, 8, 0, 100))))
        case 9:
            return frame(http2.RST_STREAM, 0, stream, http2.UINT32.pack(source.randrange(14)))
        case 10:
            return frame(http2.CONTINUATION, source.choice((0, 4)), stream, any_of(source, TRAILERS))
        case _:
            size = source.choice((0, 3, 8, 200))
            return frame(source.choice(KINDS), source.randrange(256), stream, source.randbytes(size))


def server_bytes(source: random.Random, streams: Sequence[int], payloads: Sequence[bytes]) -> bytes:
    """A few frames, sometimes mutated as a whole."""
    data = b"".join(server_frame(source, streams, payloads) for _ in range(source.randint(1, 6)))
    return mutated(data, source) if source.random() < 0.3 else data


def request_block(path: str, *more: tuple[str, str]) -> bytes:
    """The header block of a call."""
    return http2.request_headers(path, "router", *more)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
REQUESTS = tuple(
    request_block(path, *more)
    for path, more in (
        ("/Recommender/Recommend", ()),
        ("/Recommender/Recommend", (("x-user-id", "u-1"), ("grpc-timeout", "1S"))),
        ("/Recommender/Recommend", (("grpc-timeout", "99999999999H"),)),
        ("/Recommender/Recommend", (("grpc-encoding", "gzip"), ("x-user-id-bin", "AP8"), ("te", "trailers"))),
        ("/grpc.health.v1.Health/Check", ()),
        ("/Feedback/Record", ()),
        ("/nothing/here", (("x-big", "z" * 20_000),)),
    )
)


def client_frame(source: random.Random, stream: int, payloads: Sequence[bytes]) -> bytes:
    """A frame that a caller might send, or that none would."""
    match source.randrange(10):
        case 0 | 1 | 2:
            return frame(http2.HEADERS, source.choice((4, 4, 5, 0)), stream, any_of(source, REQUESTS))
        case 3 | 4 | 5:
            return frame(http2.DATA, source.choice((1, 1, 0, 8)), stream, message(any_of(source, payloads), source))
        case _:
            return server_frame(source, (stream,), payloads)


def client_bytes(source: random.Random, payloads: Sequence[bytes]) -> bytes:
    """What a connection might begin with: the preface, settings, a few calls; mostly with something wrong."""
    streams = range(1, 2 * source.randint(1, 4), 2)
    parts = [PREFACE, frame(http2.SETTINGS, 0, 0)]
    for stream in streams:
        parts.append(frame(http2.HEADERS, http2.END_HEADERS, stream, source.choice(REQUESTS)))
        if source.random() < 0.5:
            parts.append(frame(http2.DATA, http2.END_STREAM, stream, message(source.choice(payloads), source)))
        else:
            parts.append(client_frame(source, stream, payloads))
    data = b"".join(parts)
    return mutated(data, source) if source.random() < 0.7 else data
