"""The rules of RFC 9113 and RFC 7541 byte by byte: what our server and our client make of them, and what nghttp2 does.

`./run prove nghttp2` prints each case with what either has said: `goes on`, a stream that is reset, or the end of the
connection, with the code. It holds where both say the same, or where the case says why not. It is skipped where the
library is not installed.
"""

import asyncio
import ctypes
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from abfleet_router.fleet.http2_client import ClientConnection
from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.call import http_error
from abfleet_transport.http2.frames import frame
from abfleet_transport.http2.header_block import MALFORMED
from structlog.testing import capture_logs

from tests.fuzz.codecs import FAULTS, ClientWire
from tests.support import nghttp2
from tests.support.frames import Frame, FrameReader
from tests.transport.http2_client import HEAD, PATH, Client, begun, data, setting

UINT32 = http2.UINT32.pack
ACK = frame(http2.SETTINGS, http2.ACK, 0)
GREETING = http2.PREFACE + frame(http2.SETTINGS, 0, 0)
NO_TABLE = (http2.HEADER_TABLE_SIZE, 0)
SETTINGS = ((http2.MAX_CONCURRENT_STREAMS, 100), (http2.INITIAL_WINDOW_SIZE, 65_535))
NAMES = {
    getattr(http2, name): name
    for name in (
        *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "STREAM_CLOSED", "FRAME_SIZE_ERROR"),
        *("REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "ENHANCE_YOUR_CALM"),
    )
}
GOES_ON = "goes on"
NO_PREFACE = "no preface"
BAD_REQUEST = http_error(1, MALFORMED)[http2.FRAME_HEADER.size :]
"""The block of an answer with status 400, which a server may send before it ends the stream of a malformed request (RFC
9113, 8.1.1)."""
LONGEST_NAME = 52


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes after a greeting that was taken, or `whole` ones instead of it."""

    name: str
    said: bytes
    whole: bool = False
    table: bool = True
    """Whether nghttp2, too, gives its peer a table of 0. Then each first block must say that it knows."""


def field(name: bytes, value: bytes) -> bytes:
    """A literal field without Huffman coding."""
    return b"\x00" + http2.integer(len(name), 7) + name + http2.integer(len(value), 7) + value


def with_field(name: bytes, value: bytes) -> bytes:
    """A request that is whole but for its DATA, with one more field."""
    return begun(head=HEAD + field(name, value), flags=4)


def without(part: bytes) -> bytes:
    """A request that lacks a field."""
    assert HEAD.count(part) == 1
    return begun(head=HEAD.replace(part, b""), flags=5)


def reset(stream: int = 1) -> bytes:
    """A client gives a call up."""
    return http2.reset(stream, http2.CANCEL)


PATH_FIELD = b"\x04" + http2.literal(PATH)
LENGTH = HEAD + b"\x0f\x0d"
EIGHT = b"\0\0\0\0\x03abc"


def of_frames() -> Iterable[Case]:
    """What concerns a connection, in either direction: frames, settings, windows."""
    for number, (said, code) in enumerate(FAULTS):
        _, _, kind, flags, stream = http2.FRAME_HEADER.unpack_from(said)
        yield Case(f"fault {number}: type {kind} flags {flags} on {stream}, {NAMES[code]}", said)
    yield Case("an unknown frame", frame(0x20, 0xFF, 1, b"x"))
    yield Case("an unknown frame on no stream", frame(0xFA, 0, 0, b"x"))
    yield Case("an unknown setting", setting(0xFF, 7))
    yield Case("a setting twice", setting(http2.MAX_FRAME_SIZE, 16_384) + setting(http2.MAX_FRAME_SIZE, 2**24 - 1))
    yield Case("no table", setting(http2.HEADER_TABLE_SIZE, 0))
    yield Case("an acknowledgement that nobody awaits", ACK)
    yield Case("a pong that nobody awaits", frame(http2.PING, http2.ACK, 0, bytes(8)))
    yield Case("a ping with unknown flags", frame(http2.PING, 0xFE, 0, bytes(8)))
    yield Case("a priority of an idle stream", frame(http2.PRIORITY_FRAME, 0, 99, bytes(5)))
    yield Case("a goodbye", http2.goaway(0, http2.NO_ERROR, b"bye"))
    yield Case("the reserved bit of a stream", frame(http2.PING, 0, 2**31, bytes(8)))
    yield Case("the reserved bit of a window", frame(http2.WINDOW_UPDATE, 0, 0, UINT32(2**31 | 5)))


def of_a_client() -> Iterable[Case]:
    """Requests, streams and header blocks, to a server."""
    yield Case("HTTP/1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + bytes(20), whole=True)
    yield Case("the preface, then a ping", http2.PREFACE + frame(http2.PING, 0, 0, bytes(8)), whole=True)
    yield Case("the preface, then an ACK", http2.PREFACE + ACK, whole=True)
    yield Case("ENABLE_PUSH 1", setting(http2.ENABLE_PUSH, 1))
    yield Case("a call", begun() + data(EIGHT))
    yield Case("a padded call", begun() + data(b"\x02" + EIGHT + b"\0\0", flags=9))
    yield Case("padding as long as the frame", begun() + data(b"\x05abcd", flags=8))
    yield Case("padding of nothing", begun() + data(b"", flags=8))
    yield Case("padding in HEADERS that is too long", begun(head=b"\xff" + HEAD, flags=0xC))
    yield Case("priority in HEADERS, cut short", begun(head=b"\0\0", flags=0x24))
    yield Case("a stream that depends on itself", begun(head=UINT32(1) + b"\x10" + HEAD, flags=0x24))
    yield Case("an even stream", begun(2))
    yield Case("a lower stream", begun(5) + begun(3))
    yield Case("data on a stream that was passed over", begun(5) + data(b"", stream=3))
    yield Case("data after END_STREAM", begun() + data(EIGHT) + data(b""))
    yield Case("headers after END_STREAM", begun(flags=5) + begun(flags=5))
    yield Case("a window after END_STREAM", begun(flags=5) + http2.window_update(1, 5))
    yield Case("data after a reset", begun() + reset() + data(b""))
    yield Case("headers after a reset", begun() + reset() + begun())
    yield Case("a window after a reset", begun() + reset() + http2.window_update(1, 5))
    yield Case("a reset after a reset", begun() + reset() + reset())
    yield Case("no window on a stream", begun() + http2.window_update(1, 0))
    yield Case("too much window on a stream", begun() + http2.window_update(1, 2**31 - 1))
    yield Case(
        "too much window by a setting", begun() + http2.window_update(1, 2**30) + setting(4, 2**31 - 1)
    )  # fmt: skip
    yield Case("trailers", begun() + data(EIGHT, flags=0) + begun(head=field(b"x", b"1"), flags=5))
    yield Case("trailers without an end", begun() + begun(head=field(b"x", b"1"), flags=4))
    yield Case("a pseudo-header in trailers", begun() + begun(head=b"\x83", flags=5))
    yield Case("upper case in trailers", begun() + begun(head=field(b"X", b"1"), flags=5))
    yield Case("a block in two frames", begun(head=HEAD[:9], flags=1) + frame(9, 4, 1, HEAD[9:]))
    yield Case("a block in two frames, another stream", begun(head=HEAD[:9], flags=1) + frame(9, 4, 3, HEAD[9:]))
    yield Case("a ping inside a block", begun(head=HEAD[:9], flags=1) + frame(6, 0, 0, bytes(8)))
    yield Case("an unknown frame inside a block", begun(head=HEAD[:9], flags=1) + frame(0x20, 0, 1))
    yield Case("a frame of 16,385 bytes", begun() + data(bytes(16_385), flags=0))
    for name, head in (
        ("no :method", without(b"\x83")),
        ("no :scheme", without(b"\x86")),
        ("no :path", without(PATH_FIELD)),
        ("an empty :path", begun(head=HEAD.replace(PATH_FIELD, b"\x04\x00"), flags=5)),
        ("two :method", begun(head=b"\x83" + HEAD, flags=5)),
        ("two :path", begun(head=PATH_FIELD + HEAD, flags=5)),
        ("a pseudo-header after a field", begun(head=field(b"a", b"1") + HEAD, flags=5)),
        ("an unknown pseudo-header", begun(head=field(b":x", b"1") + HEAD, flags=5)),
        (":status in a request", begun(head=b"\x88" + HEAD, flags=5)),
    ):
        yield Case(name, head)
    for key, value in (
        (b"X", b"1"),
        (b"", b"1"),
        (b"a b", b"1"),
        (b"a:b", b"1"),
        (b"a\x00", b"1"),
        (b"\xc3\xa9", b"1"),
        (b"x", b"a\x00"),
        (b"x", b"a\r"),
        (b"x", b"a\n"),
        (b"x", b" a"),
        (b"x", b"a\t"),
        (b"x", b"a\tb"),
        (b"x", b"\xe9"),
        (b"x", b"\x7f"),
        (b"x", b"\x01"),
        (b"connection", b"close"),
        (b"keep-alive", b"1"),
        (b"proxy-connection", b"1"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"host", b"server"),
        (b"cookie", b"a=b"),
    ):
        yield Case(f"field {key!r}: {value!r}", with_field(key, value) + data(EIGHT))
    for text, body in ((b"8", EIGHT), (b"9", EIGHT), (b"7", EIGHT), (b"x", EIGHT), (b"", EIGHT), (b"+8", EIGHT)):
        yield Case(f"content-length {text!r} of 8", begun(head=LENGTH + http2.literal(text.decode())) + data(body))
    yield Case("content-length 8 twice", begun(head=LENGTH + b"\x018" + b"\x0f\x0d\x018") + data(EIGHT))
    yield Case("content-length 8 and no data", begun(head=LENGTH + b"\x018", flags=5))
    yield Case("content-length 7 and already 8", begun(head=LENGTH + b"\x017") + data(EIGHT, flags=0))
    yield from of_header_blocks()


def of_header_blocks() -> Iterable[Case]:
    """RFC 7541, where the table has a size of 0."""
    for name, block in (
        ("index 0", b"\x80"),
        ("an index past the table", b"\xbe"),
        ("an index far past the table", b"\xff\xff\xff\xff\x0f"),
        ("a name past the table", b"\x7f\x00\x011"),
        ("a table of 0", b"\x20" + HEAD),
        ("a table of 0, three times", b"\x20\x20\x20" + HEAD),
        ("a table of 1", b"\x21" + HEAD),
        ("a table of 4,096", b"\x3f\xe1\x1f" + HEAD),
        ("a table of 0 at the end", HEAD + b"\x20"),
        ("a field for a table that is not there", HEAD + b"\x40\x01x\x011"),
        ("that field by its index", HEAD + b"\x40\x01x\x011\xbe"),
        ("a field cut short", HEAD + b"\x00\x05x"),
        ("a length cut short", HEAD + b"\x00\x7f\xff"),
        ("no word of a table of 0", HEAD),
        ("a length past 2^31", HEAD + b"\x00\x7f\xff\xff\xff\xff\xff\x0f"),
        ("Huffman code padded with zeros", HEAD + b"\x00\x01x\x81\x00"),
        ("Huffman code padded with eight ones", HEAD + b"\x00\x01x\x82\x1f\xff"),
        ("Huffman code of EOS", HEAD + b"\x00\x01x\x84\xff\xff\xff\xff"),
        ("Huffman code", HEAD + b"\x00\x01x\x81\x1f"),
        ("an empty value in Huffman code", HEAD + b"\x00\x01x\x80"),
        ("never indexed", HEAD + b"\x10\x01x\x011"),
    ):
        known = b"" if "table of" in name else http2.NO_TABLE
        yield Case(f"block: {name}", begun(head=known + block, flags=5), table=False)


OK_HEADERS = b"\x88\x0f\x10" + http2.literal("application/grpc")
TRAILERS = field(b"grpc-status", b"0")


def answer(block: bytes = OK_HEADERS, flags: int = 4, stream: int = 1) -> bytes:
    """Response headers."""
    return frame(http2.HEADERS, flags, stream, block)


def of_a_server() -> Iterable[Case]:
    """Answers, to a client whose request on stream 1 is whole."""
    whole = answer() + data(EIGHT, flags=0) + answer(TRAILERS, 5)
    yield Case("the first frame is a ping", frame(http2.PING, 0, 0, bytes(8)), whole=True)
    yield Case("ENABLE_PUSH 0", setting(http2.ENABLE_PUSH, 0))
    yield Case("ENABLE_PUSH 1", setting(http2.ENABLE_PUSH, 1))
    yield Case("an answer", whole)
    yield Case("103, then an answer", answer(field(b":status", b"103")) + whole)
    yield Case("103 with END_STREAM", answer(field(b":status", b"103"), 5))
    yield Case("101", answer(field(b":status", b"101")) + whole)
    yield Case("103 after 200", answer() + answer(field(b":status", b"103")))
    yield Case("data before headers", data(EIGHT, flags=0))
    yield Case("two headers", answer() + answer())
    yield Case("trailers without an end", answer() + answer(TRAILERS, 4))
    yield Case("trailers with :status", answer() + answer(b"\x88", 5))
    yield Case("no :status", answer(field(b"a", b"1"), 4))
    yield Case("two :status", answer(b"\x88\x88"))
    yield Case(":status after a field", answer(field(b"a", b"1") + b"\x88"))
    yield Case(":status of two digits", answer(field(b":status", b"20")))
    yield Case(":status of four digits", answer(field(b":status", b"2000")))
    yield Case(":status of letters", answer(field(b":status", b"2xx")))
    yield Case(":path in an answer", answer(b"\x88" + PATH_FIELD))
    for key, value in (
        *((b"X", b"1"), (b"", b"1"), (b"a b", b"1"), (b"x", b"a\x00"), (b"x", b"a\n"), (b"x", b" a"), (b"x", b"\xe9")),
        *((b"connection", b"close"), (b"transfer-encoding", b"chunked"), (b"te", b"gzip"), (b"te", b"trailers")),
    ):
        yield Case(f"field {key!r}: {value!r}", answer(OK_HEADERS + field(key, value)))
    for text in ("8", "9", "7", "x"):
        sized = answer(OK_HEADERS + b"\x0f\x0d" + http2.literal(text))
        yield Case(f"content-length {text} of 8", sized + data(EIGHT, flags=0) + answer(TRAILERS, 5))
    yield Case("data after the end", whole + data(b"", flags=0))
    yield Case("headers after the end", whole + answer())
    yield Case("a reset after the end", whole + http2.reset(1, http2.NO_ERROR))
    yield Case("a window after the end", whole + http2.window_update(1, 5))
    yield Case("data after a reset", answer() + reset() + data(b"", flags=0))
    yield Case("an answer on a stream that is idle", answer(stream=3))
    yield Case("an answer on an even stream", answer(stream=2))
    yield Case("a window of a stream that is idle", http2.window_update(3, 5))
    yield Case("no window on a stream", http2.window_update(1, 0))
    yield Case("too much window on a stream", http2.window_update(1, 2**31 - 1))
    yield Case("padding as long as the frame", answer() + data(b"\x05abcd", flags=8))
    yield Case("a block in two frames", answer(OK_HEADERS[:4], 0) + frame(9, 4, 1, OK_HEADERS[4:]))
    yield Case("a ping inside a block", answer(OK_HEADERS[:4], 0) + frame(6, 0, 0, bytes(8)))
    for name, block in (
        ("no word of a table of 0", OK_HEADERS),
        ("a table of 0", b"\x20" + OK_HEADERS),
        ("a table of 1", b"\x21" + OK_HEADERS),
        ("index 0", b"\x20\x80"),
        ("an index past the table", b"\x20" + OK_HEADERS + b"\xbe"),
        ("Huffman code of EOS", b"\x20" + OK_HEADERS + b"\x00\x01x\x84\xff\xff\xff\xff"),
        ("a field cut short", b"\x20" + OK_HEADERS + b"\x00\x05x"),
    ):
        yield Case(f"block: {name}", answer(block), table=False)


NOT_SAID = "the RFC says nothing of it, and it changes nothing"
CLOSED = """5.1: "An endpoint MAY treat receipt of any other type of frame on a closed stream as a connection error
(Section 5.4.1) of type STREAM_CLOSED\""""
NO_WINDOW = "6.9: an increment of 0 is a stream error of type PROTOCOL_ERROR, on the connection's window alone another"
LOWER = "5.1.1: an unexpected stream identifier is a connection error of type PROTOCOL_ERROR"
SPACE = """8.2.1: "A field value MUST NOT start or end with an ASCII whitespace character"; gRPC lets who reads it strip
it, and a header that nobody reads harms no call"""
OTHERS = "8.2.1: of a value's characters NUL, LF and CR make a message malformed, and no others"
HALF_CLOSED = "5.1, half-closed (remote): a stream error of type STREAM_CLOSED"
TOO_WIDE = "6.9.2: a setting that lets any window exceed the maximum is a connection error of type FLOW_CONTROL_ERROR"
TABLE = """4.3.1: a block without a table size update after the acknowledgement is a connection error of type
COMPRESSION_ERROR, but an encoder owes that only where the maximum has come "below the current size of the dynamic
table": who uses none says the same with it and without"""
KNOWN = {
    ("server", "an acknowledgement that nobody awaits"): NOT_SAID,
    ("client", "an acknowledgement that nobody awaits"): NOT_SAID,
    ("server", "HTTP/1"): "the library leaves it to its user to end the connection",
    ("server", "a stream that depends on itself"): "5.3.2: priorities are deprecated; what they say is not read",
    ("server", "a lower stream"): LOWER,
    ("server", "data on a stream that was passed over"): LOWER,
    ("server", "data after END_STREAM"): HALF_CLOSED,
    ("server", "no window on a stream"): NO_WINDOW,
    ("client", "no window on a stream"): NO_WINDOW,
    ("server", "too much window by a setting"): TOO_WIDE,
    ("server", r"field b'x': b' a'"): SPACE,
    ("server", r"field b'x': b'a\t'"): SPACE,
    ("client", r"field b'x': b' a'"): SPACE,
    ("server", r"field b'x': b'\x7f'"): OTHERS,
    ("server", r"field b'x': b'\x01'"): OTHERS,
    ("client", "data before headers"): "8.1.1: a malformed response is a stream error of type PROTOCOL_ERROR",
    ("client", "data after the end"): CLOSED,
    ("client", "headers after the end"): CLOSED,
    ("client", "data after a reset"): CLOSED,
    ("server", "block: no word of a table of 0"): TABLE,
    ("client", "block: no word of a table of 0"): TABLE,
}
"""Where ours differs from nghttp2, and what RFC 9113 says of it."""


def verdict(frames: Iterable[Frame]) -> str:
    """How a side has taken what it was told, by what it says then."""
    resets = []
    for got in frames:
        if got.kind == http2.GOAWAY and (code := http2.UINT32.unpack_from(got.payload, 4)[0]) != http2.NO_ERROR:
            return f"ends: {NAMES.get(code, code)}"
        if got.kind == http2.RST_STREAM:
            resets.append(f"stream {got.stream}: {NAMES.get(http2.UINT32.unpack(got.payload)[0])}")
        if got.kind == http2.HEADERS and got.payload == BAD_REQUEST:
            resets.append(f"stream {got.stream}: PROTOCOL_ERROR")
    return ", ".join(dict.fromkeys(resets)) or GOES_ON


def read(written: bytes) -> list[Frame]:
    """The frames that a side has written."""
    return list(FrameReader(2**24).feed(written.removeprefix(http2.PREFACE)))


async def our_server(case: Case) -> str:
    """A server of ours."""
    client = Client(greeting=case.said if case.whole else GREETING + ACK, max_concurrent_streams=100)
    before = await client.heard()
    return verdict(before if case.whole else await client.say(case.said))


def their_server(library: ctypes.CDLL, case: Case) -> str:
    """The library as a server."""
    session = nghttp2.Session(library, server=True, settings=SETTINGS if case.table else (*SETTINGS, NO_TABLE))
    try:
        if not case.whole:
            session.take(GREETING + ACK)
            session.said()
        if not session.take(case.said):
            return NO_PREFACE
        return verdict(read(session.said()))
    finally:
        session.close()


class Written:
    """Keeps what a client writes."""

    def __init__(self) -> None:
        self.written = b""

    def put(self, data: bytes) -> None:
        """More of it."""
        self.written += data


async def our_client(case: Case) -> str:
    """A client of ours, with one call under way."""
    pipe = Written()
    client = ClientConnection("server", lambda connection: None)
    client.connection_made(cast(asyncio.Transport, ClientWire(pipe)))  # type: ignore[arg-type]
    client.call(PATH, b"abc", None, lambda end: None)
    if not case.whole:
        client.data_received(frame(http2.SETTINGS, 0, 0) + ACK)
    pipe.written = b""
    client.data_received(case.said)
    found = verdict(read(pipe.written))
    client.close()
    return found


def their_client(library: ctypes.CDLL, case: Case) -> str:
    """The library as a client, with one call under way."""
    settings = ((http2.ENABLE_PUSH, 0),) if case.table else ((http2.ENABLE_PUSH, 0), NO_TABLE)
    session = nghttp2.Session(library, server=False, settings=settings)
    try:
        fields = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", PATH.encode()), (b":authority", b"server"))
        assert session.request(fields) == 1
        if not case.whole:
            session.take(frame(http2.SETTINGS, 0, 0) + ACK)
        session.said()
        session.take(case.said)
        return verdict(read(session.said()))
    finally:
        session.close()


async def compared(library: ctypes.CDLL) -> list[tuple[str, Case, str, str]]:
    """Each case: on which side, what ours has said, and what theirs."""
    found = []
    with capture_logs():
        for case in (*of_frames(), *of_a_client()):
            found.append(("server", case, await our_server(case), their_server(library, case)))
        for case in (*of_frames(), *of_a_server()):
            found.append(("client", case, await our_client(case), their_client(library, case)))
    return found


def main() -> int:
    """All of them."""
    library = nghttp2.loaded()
    if library is None:
        print(f"skipped: {nghttp2.NAME} is not installed (Debian: libnghttp2-14)")
        return 0
    found = asyncio.run(compared(library))
    differing = [one for one in found if one[2] != one[3]]
    unknown = 0
    for side, case, ours, theirs in differing:
        why = KNOWN.get((side, case.name))
        unknown += why is None
        print(f"{side:<7} {case.name[:LONGEST_NAME]:<{LONGEST_NAME}} ours {ours:<36} nghttp2 {theirs}")
        print(f"        {' '.join((why or 'BROKEN: not known').split())}")
    print(f"{len(found)} cases, {len(found) - len(differing)} alike, {len(differing)} not, {unknown} of them not known")
    return 1 if unknown else 0


if __name__ == "__main__":
    sys.exit(main())
