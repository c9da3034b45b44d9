"""What a stream still has to send: as much as both windows and the largest frame allow, and the end after it."""

import asyncio
from dataclasses import dataclass

from abfleet_transport.http2 import frames as http2
from abfleet_transport.http2.flow_control import SendBuffer
from hypothesis import given
from hypothesis import strategies as st


@dataclass
class Stream:
    """A stream with a window, as `FlowControlled` has it."""

    stream: int = 1
    window: int = 0


@given(
    st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(-20, 60), st.integers(0, 60)), max_size=8),
    st.integers(1, 30),
)
def test_windows_are_kept_and_all_of_it_comes(
    messages: list[bytes], rooms: list[tuple[int, int]], max_frame: int
) -> None:
    """Never more than there is room for, in order, and the end once, after the last byte."""
    owner, written = Stream(), list[bytes]()
    buffer = SendBuffer(owner)
    for message in messages:
        buffer.add(message)
    buffer.end(b"END")
    for more, window in [*rooms, (400, 400)]:
        owner.window += more
        before, begun = owner.window, len(written)
        sent = buffer.send(written.append, window, max_frame)
        new = [one for one in written[begun:] if one != b"END"]
        assert sum(len(one) - 9 for one in new) == sent <= max(0, min(window, before))
        assert all(0 < len(one) - 9 <= max_frame for one in new)
        assert owner.window == before - sent
    assert buffer.finished
    assert written[-1] == b"END"
    assert b"".join(one[9:] for one in written[:-1]) == b"".join(messages)
    assert buffer.send(written.append, 100, max_frame) == 0


async def test_who_waits_is_told_when_it_is_sent_and_when_it_is_dropped() -> None:
    """Nobody waits for ever for a client that has gone."""
    for dropped in (False, True):
        owner = Stream()
        buffer = SendBuffer(owner)
        await buffer.drained()  # nothing to wait for
        buffer.add(b"message")
        waiting = asyncio.ensure_future(buffer.drained())
        await asyncio.sleep(0)
        assert not waiting.done()
        if dropped:
            buffer.dropped()
        else:
            owner.window = 100
            buffer.send(lambda data: None, 100, http2.DEFAULT_MAX_FRAME)
        await asyncio.wait_for(waiting, 30)
        assert buffer.finished
