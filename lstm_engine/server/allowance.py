"""How much of something may be held at a time: who wants more waits until others have given theirs back."""

from __future__ import annotations

import asyncio

__all__ = ["Allowance"]


class Allowance:
    """Bytes, or messages, that one client may have in memory.

    Parameters
    ----------
    most
        How much; one alone may be larger.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def take(self, size: int) -> None:
        """Take a part, as soon as there is room for it."""
        while not self.take_now(size):
            await self._change()

    def take_now(self, size: int) -> bool:
        """Take a part if there is room for it, and return whether there was."""
        if self._held and self._held + size > self._most:
            return False
        self._held += size
        return True

    async def returned(self) -> None:
        """Wait until all is given back."""
        while self._held:
            await self._change()

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def give(self, size: int) -> None:
        """Give a part back."""
        self._held -= size
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
