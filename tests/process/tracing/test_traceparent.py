"""W3C trace context: what is read, what is ignored, and that what is written is read again."""

import pytest
from abfleet_process.tracing.traceparent import TraceContext, parse
from hypothesis import given
from hypothesis import strategies as st

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", TraceContext(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", TraceContext(TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", TraceContext(TRACE, SPAN, True)),
        (f"01-{TRACE}-{SPAN}-01-later", TraceContext(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-later", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-4bf9-{SPAN}-01", None),
        (TRACE, None),
        (f'00-"}}{{"a":"-{SPAN}-01', None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        (b"00", None),
        (None, None),
    ],
)
def test_what_a_header_says(header: str | bytes | None, expected: TraceContext | None) -> None:
    """The examples and the rules of the standard, later versions of it included; what is malformed is none."""
    assert parse(header) == expected


@given(st.text(max_size=80))
def test_hostile_headers(header: str) -> None:
    """Whatever comes, it is none or ids of the right length."""
    found = parse(header)
    assert found is None or (len(bytes.fromhex(found.trace_id)), len(bytes.fromhex(found.span_id))) == (16, 8)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read(trace: int, span: int, sampled: bool) -> None:
    """A header of ours says what it was made from."""
    context = TraceContext(f"{trace:032x}", f"{span:016x}", sampled)
    assert parse(context.header()) == context
