"""How much a client may have in memory: what is too much waits, and one message alone always goes through."""

from __future__ import annotations

import asyncio

from lstm_engine.server.allowance import Allowance


def test_what_is_too_much_waits() -> None:
    async def main() -> None:
        allowance = Allowance(10)
        await allowance.take(6)
        second, third = (asyncio.create_task(allowance.take(size)) for size in (5, 4))
        await asyncio.sleep(0.01)
        assert (second.done(), third.done()) == (False, True)
        allowance.give(4)
        await asyncio.sleep(0.01)
        assert not second.done()
        allowance.give(6)
        await asyncio.wait_for(second, 10)

    asyncio.run(main())


def test_one_that_is_larger_goes_alone() -> None:
    async def main() -> None:
        allowance = Allowance(10)
        await asyncio.wait_for(allowance.take(100), 10)
        waiting = [asyncio.create_task(allowance.take(1)) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in waiting)
        waiting[0].cancel()
        allowance.give(100)
        await asyncio.wait_for(asyncio.gather(*waiting[1:]), 10)

    asyncio.run(main())


def test_taking_at_once_and_waiting_for_all() -> None:
    async def main() -> None:
        allowance = Allowance(10)
        await asyncio.wait_for(allowance.returned(), 10)
        assert [allowance.take_now(size) for size in (6, 5, 4, 1)] == [True, False, True, False]
        waiting = asyncio.create_task(allowance.returned())
        allowance.give(6)
        await asyncio.sleep(0.01)
        assert not waiting.done()
        allowance.give(4)
        await asyncio.wait_for(waiting, 10)

    asyncio.run(main())
