"""The end of a turn: what was added is done then, in its order and once, whoever says that the turn ends."""

import asyncio
import gc
import weakref

from abfleet_transport.end_of_turn import EndOfTurn, end_of_turn


async def test_what_is_added_is_done_at_the_end_of_the_turn() -> None:
    """Not at once; the loop is asked once, however much is added, and again in the next turn."""
    turn, done = EndOfTurn(asyncio.get_running_loop()), list[int]()
    for rounds in (1, 2):
        turn.add(lambda: done.append(1))
        turn.add(lambda: done.append(2))
        assert done == [1, 2] * (rounds - 1)
        await asyncio.sleep(0)
        assert done == [1, 2] * rounds
    await asyncio.sleep(0)
    assert done == [1, 2] * 2


async def test_who_knows_the_end_of_the_turn_says_so() -> None:
    """The loop is not asked then; what is added meanwhile is done at the same end, after what was there."""
    loop, done = asyncio.get_running_loop(), list[str]()
    turn = end_of_turn(loop)
    assert end_of_turn(loop) is turn, "sockets and queues of one loop share the end of its turns"

    def send() -> None:
        done.append("send")
        turn.add(lambda: done.append("flush"))

    turn.begin()
    turn.add(send)
    turn.add(lambda: done.append("other"))
    await asyncio.sleep(0)
    assert done == []
    turn.end()
    assert done == ["send", "other", "flush"]
    await asyncio.sleep(0)
    assert done == ["send", "other", "flush"]


async def test_one_that_fails_holds_up_nobody() -> None:
    """Neither those after it, nor the turns after this one."""
    turn, done = EndOfTurn(asyncio.get_running_loop()), list[int]()

    def fail() -> None:
        raise ValueError("our own error")

    for _ in range(2):
        turn.begin()
        turn.add(fail)
        turn.add(lambda: done.append(1))
        turn.end()
    assert done == [1, 1]


async def test_what_is_for_the_next_turn_does_not_wait_for_the_end_of_this_one() -> None:
    """A batch that follows an answer takes the calls along that were read in the same turn: it comes after them."""
    loop, done = asyncio.get_running_loop(), list[str]()
    turn = EndOfTurn(loop)
    loop.call_soon(done.append, "read")
    turn.begin()
    turn.in_next(lambda: done.append("next"))
    turn.add(lambda: done.append("end"))
    turn.end()
    assert done == ["end"]
    await asyncio.sleep(0)
    assert done == ["end", "read", "next"]


def test_a_loop_that_is_done_is_not_kept() -> None:
    """Nor anything that is on it: a program may have one loop after the other."""
    gone = []

    async def use() -> None:
        loop = asyncio.get_running_loop()
        gone.append(weakref.ref(loop))
        end_of_turn(loop).add(lambda: None)
        await asyncio.sleep(0)

    asyncio.run(use())
    gc.collect()
    assert gone[0]() is None


async def test_what_is_put_off_is_done_in_the_next_turn() -> None:
    """After that turn has added its own, and whether or not it is put off again: it waits for one turn at most."""
    loop, done = asyncio.get_running_loop(), list[int]()
    turn = EndOfTurn(loop)

    def one(number: int) -> None:
        turn.begin()
        turn.add(lambda: done.append(number))
        if number < 3:
            loop.call_soon(one, number + 1)
        turn.put_off()

    one(1)
    assert done == []
    await asyncio.sleep(0)
    assert done == [1, 2]
    await asyncio.sleep(0)
    assert done == [1, 2, 3]
    turn.begin()
    turn.put_off()
    turn.add(lambda: done.append(4))
    await asyncio.sleep(0)
    assert done == [1, 2, 3, 4], "nothing was put off, and what comes then is not forgotten"
