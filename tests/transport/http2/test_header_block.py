"""Header blocks of requests: what other encoders write is read, and what HTTP/2 or gRPC forbid is refused."""

from contextlib import suppress

import hpack
import pytest
from abfleet_transport.call import Code
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2 import header_block
from abfleet_transport.http2.frames import COMPRESSION_ERROR, ProtocolError
from abfleet_transport.http2.header_block import EarlyDecoder, Fields, Head, decode, head_of, timeout_seconds
from hypothesis import given
from hypothesis import strategies as st

ANY = 10_000
NAMES = st.sampled_from([name for name, _ in header_block.STATIC]) | st.binary(min_size=1, max_size=40)
FIELDS = st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=20)
REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/m"), (b":authority", b"a")]
GRPC = (b"content-type", b"application/grpc")


def encoded(fields: Fields, *, huffman: bool = True) -> bytes:
    """By a library of others, without a table."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(fields, huffman=huffman)


def read(*more: tuple[bytes, bytes], request: Fields = REQUEST) -> Head:
    """A request with these fields."""
    return head_of([*request, GRPC, *more])


# --- HPACK ------------------------------------------------------------------------------------------------------------


@given(FIELDS, st.booleans())
def test_what_another_library_writes_is_read(fields: Fields, huffman: bool) -> None:
    """Indexed and literal, with Huffman coding and without, of any length."""
    assert decode(encoded(fields, huffman=huffman), ANY) == fields


@given(st.binary(max_size=80))
def test_any_bytes_are_fields_or_a_broken_protocol(block: bytes) -> None:
    """Nothing else is raised, and what is read has no more fields than bytes."""
    with suppress(ProtocolError):
        assert len(decode(block, ANY)) <= len(block)


@given(FIELDS, st.integers(0, 200))
def test_a_block_that_is_cut_is_not_read_as_another(fields: Fields, cut: int) -> None:
    """Cut within a field it is refused, between two it has those before."""
    block = encoded(fields)
    try:
        fields_read = decode(block[:cut], ANY)
    except ProtocolError:
        return
    assert fields_read == fields[: len(fields_read)]


@pytest.mark.parametrize(
    "block",
    [
        b"\xbe",  # the first of a table that is empty
        b"\x80",  # index 0
        b"\x7e\x01a",  # a name of that table
        b"\x3f\xe1\x1f",  # a table of 4,096 bytes
        b"\x82\x20",  # a size after a field
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # an integer without end
        b"\x00\x81\xff\x00",  # padding of more than 7 bits
        b"\x00\x83\xff\xff\xff\x00",  # the symbol that ends all
    ],
)
def test_what_hpack_forbids(block: bytes) -> None:
    """It is a broken protocol, which ends the connection, and no failed call."""
    with pytest.raises(ProtocolError) as raised:
        decode(block, ANY)
    assert raised.value.code == COMPRESSION_ERROR


def test_a_table_of_size_0_may_be_said_to_have_it() -> None:
    """As often as an encoder likes, before the first field."""
    assert decode(b"\x20\x20\x83", ANY) == [(b":method", b"POST")]


def test_fields_past_the_limit_are_not_looked_at() -> None:
    """One byte may name a long field: 60,000 of them are not read to find that they are too many."""
    assert len(decode(b"\x90" * 60_000, 512)) == 513


def test_long_strings_are_not_kept() -> None:
    """Decoded ones stay for the next block, so they must be short: 4,096 long ones would be hundreds of megabytes."""
    kept = header_block._kept_huffman.cache_info().currsize
    fields = [(b"user-agent", b"abcdefghij" * 50)]
    assert decode(encoded(fields), ANY) == fields
    assert header_block._kept_huffman.cache_info().currsize == kept


def test_a_client_gives_up_its_table() -> None:
    """Until it has our settings it may use one; then it says that it does not, and blocks need no state any more."""
    encoder, early = hpack.Encoder(), EarlyDecoder()
    fields = [*REQUEST, (b"x-user-id", b"u-1")]
    for _ in range(2):  # the second time from its table
        block = encoder.encode(fields)
        assert early.decode(block) == fields
    encoder.header_table_size = 0
    block = encoder.encode(fields)
    assert decode(block, ANY) == fields


def test_a_client_that_keeps_its_table() -> None:
    """It has taken our settings and refers to its table: a broken protocol, because what it means is not known."""
    encoder, early = hpack.Encoder(), EarlyDecoder()
    early.decode(encoder.encode([(b"x-user-id", b"u-1")]))
    with pytest.raises(ProtocolError) as raised:
        decode(encoder.encode([(b"x-user-id", b"u-1")]), ANY)
    assert raised.value.code == COMPRESSION_ERROR


def test_a_client_that_says_nothing_of_its_table_and_does_not_use_it() -> None:
    """As nginx: it would put its path into a table with every call, and never refers to it."""
    literal = b"\x44" + http2.literal("/test.Echo/Say")
    assert EarlyDecoder().decode(literal) == decode(literal, ANY) == [(b":path", b"/test.Echo/Say")]


@given(st.binary(max_size=80))
def test_any_early_bytes_are_fields_or_a_broken_protocol(block: bytes) -> None:
    """The other library raises nothing that we do not expect."""
    with suppress(ProtocolError):
        EarlyDecoder().decode(block)


# --- requests ---------------------------------------------------------------------------------------------------------


def test_a_request() -> None:
    """Its path, metadata in order, and what gRPC's own headers say."""
    head = read((b"x", b"1"), (b"grpc-timeout", b"250m"), (b"te", b"trailers"), (b"x", b"2"), (b"a-bin", b"AP8"))
    assert (head.path, head.timeout_seconds, head.encoding) == ("/s/m", 0.25, "identity")
    assert head.metadata == (("x", "1"), ("x", "2"), ("a-bin", b"\x00\xff"))
    assert (head.http_status, head.problem) == (200, None)
    assert head.size == sum(
        len(name) + len(value) + 32
        for name, value in [
            *REQUEST,
            GRPC,
            (b"x", b"1"),
            (b"grpc-timeout", b"250m"),
            (b"te", b"trailers"),
            (b"x", b"2"),
            (b"a-bin", b"AP8"),
        ]
    )


@pytest.mark.parametrize(
    "more",
    [
        [(b"X-User", b"1")],
        [(b"", b"1")],
        [(b"a b", b"1")],
        [(b"\xff", b"1")],
        [(b"connection", b"close")],
        [(b"transfer-encoding", b"chunked")],
        [(b"upgrade", b"h2c")],
        [(b"te", b"gzip")],
        [(b":path", b"/again")],
        [(b":protocol", b"websocket")],
        [(b"x", b"1"), (b":authority", b"a")],
    ],
)
def test_what_http2_forbids_in_a_request(more: Fields) -> None:
    """It is malformed, and answered as such whatever else it says."""
    assert head_of([*REQUEST, *more, GRPC]).http_status == 400


@pytest.mark.parametrize("missing", [b":method", b":scheme", b":path"])
def test_what_a_request_must_have(missing: bytes) -> None:
    """Without it, or with nothing in it, it is malformed."""
    assert read(request=[one for one in REQUEST if one[0] != missing]).http_status == 400
    assert read(request=[(name, b"" if name == missing else value) for name, value in REQUEST]).http_status == 400


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (b"application/grpc", 200),
        (b"application/grpc+proto", 200),
        (b"application/grpc;charset=utf-8", 200),
        (b"application/grpc-web", 415),
        (b"application/json", 415),
        (b"", 415),
    ],
)
def test_only_grpc_is_served(kind: bytes, status: int) -> None:
    """Content of another kind is refused as HTTP does it, as gRPC wants."""
    assert head_of([*REQUEST, (b"content-type", kind)]).http_status == status


def test_a_request_is_posted() -> None:
    """Another method is refused as HTTP does it."""
    assert read(request=[(b":method", b"GET"), *REQUEST[1:]]).http_status == 405


@pytest.mark.parametrize("path", [b"s/m", b"*", b"/s/\xff", b"/s/\t"])
def test_a_path_that_names_no_method(path: bytes) -> None:
    """It is UNIMPLEMENTED, before anybody else sees it."""
    problem = read(request=[*REQUEST[:2], (b":path", path)]).problem
    assert problem is not None
    assert problem[0] is Code.UNIMPLEMENTED


@pytest.mark.parametrize("value", [b"a\nb", b"a\rb", b"\x00"])
def test_characters_that_http2_forbids_in_a_value(value: bytes) -> None:
    """Whoever reads metadata need not expect line ends in it; the request is malformed."""
    assert read((b"x-user-id", value)).http_status == 400


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("André".encode(), "André"),
        ("André".encode("latin-1"), "André"),
        (b"a\tb", "a\tb"),
        (b"\x7f\x1b", "\x7f\x1b"),
        (b"", ""),
    ],
)
@pytest.mark.parametrize("name", [b"tailscale-user-name", b"user-agent", b"x"])
def test_foreign_headers_harm_no_call(name: bytes, value: bytes, text: str) -> None:
    """Proxies write whatever they like into headers that nobody here reads."""
    head = read((name, value))
    assert (head.http_status, head.problem, head.metadata) == (200, None, ((name.decode(), text),))


@pytest.mark.parametrize("name", [b"x!y", b"a~b", b"(comment)", b"%", b"$id"])
def test_names_that_grpc_does_not_have_are_passed_over(name: bytes) -> None:
    """HTTP/2 allows them."""
    head = read((name, b"1"), (b"x", b"2"))
    assert (head.http_status, head.problem, head.metadata) == (200, None, (("x", "2"),))


@pytest.mark.parametrize("value", [b"x", b"-1", b"1.0", b"+1", b"", b" 1", b"9" * 5000, "٣".encode()])
def test_a_content_length_that_is_no_number_of_bytes(value: bytes) -> None:
    """The request is malformed, as with two of them."""
    assert read((b"content-length", value)).http_status == 400
    assert read((b"content-length", b"1"), (b"content-length", b"1")).http_status == 400
    assert read((b"content-length", b"012")).content_length == 12


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (b"AP8=", [b"\x00\xff"]),
        (b"AP8", [b"\x00\xff"]),
        (b"", [b""]),
        (b"AQ,Ag==, Aw", [b"\x01", b"\x02", b"\x03"]),
    ],
)
def test_metadata_of_bytes(value: bytes, parts: list[bytes]) -> None:
    """With padding or without, several in one field."""
    assert read((b"x-bin", value)).metadata == tuple(("x-bin", part) for part in parts)


@pytest.mark.parametrize("value", [b"?", b"A", b"AP8=-", "ж".encode()])
def test_metadata_that_is_no_base64(value: bytes) -> None:
    """It stays text, which is of no use to who reads it, and no harm to who does not."""
    head = read((b"x-bin", value))
    assert (head.problem, head.metadata) == (None, (("x-bin", value.decode()),))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600),
        (b"2M", 120),
        (b"3S", 3),
        (b"4m", 0.004),
        (b"5u", 5e-6),
        (b"6n", 6e-9),
        (b"99999999S", 99_999_999),
    ],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    """In each of the units that gRPC has."""
    assert timeout_seconds(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [b"", b"S", b"1", b"123456789S", b"1s", b"-1S", b"1.5S", b" 1S", b"\xff", "٣S".encode()]
)
def test_what_is_no_timeout(value: bytes) -> None:
    """The call fails, rather than to go on without a deadline."""
    problem = read((b"grpc-timeout", value)).problem
    assert problem is not None
    assert problem[0] is Code.INTERNAL


def test_an_encoding_that_is_not_known() -> None:
    """The call fails with UNIMPLEMENTED, and the error names the encodings that are allowed."""
    problem = read((b"grpc-encoding", b"br")).problem
    assert problem == (Code.UNIMPLEMENTED, "grpc-encoding: 'br'; allowed: identity, gzip, deflate")
