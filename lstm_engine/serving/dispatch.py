"""The event loop's queue of calls: their order, when the next round begins, and who gets what it has computed."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lstm_engine.errors import DeadlineError, StateError

from .engine import Engine, Round
from .metrics import Metrics
from .ready import ReadyQueue
from .work import Change, Sequences, Steps, StreamEntry, Work

__all__ = ["Dispatcher", "progress"]


class Dispatcher:
    """Queues works, lets a thread compute them round by round, and answers.

    Parameters
    ----------
    engine
        What computes.
    max_batch, max_delay, max_queue, idle_timeout, on_evict
        As of the Batcher.
    """

    def __init__(
        self,
        engine: Engine,
        max_batch: int,
        max_delay: float,
        max_queue: int,
        idle_timeout: float | None,
        on_evict: Callable[[Hashable, bytes], Any] | None,
    ) -> None:
        self._engine = engine
        self._max_delay = max_delay
        self._max_queue = max_queue
        self._idle_timeout = idle_timeout
        self._on_evict = on_evict
        self._places = [max_batch]
        self._metrics = Metrics()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False
        self._draining = False
        self._streams: dict[Hashable, StreamEntry] = {}
        self._idle: OrderedDict[Hashable, StreamEntry] = OrderedDict()
        self._ready = ReadyQueue(max_batch)
        self._admitted = 0
        self._running: Round | None = None
        self._abandoned: list[int] = []
        self._timer: asyncio.Handle | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._room: deque[asyncio.Future[None]] = deque()
        self._quiet: list[asyncio.Future[None]] = []

    def _works(self) -> list[Work]:
        """Return all calls that have been taken and not answered."""
        works = {id(work): work for work in self._ready}
        if self._running is not None:
            works |= {id(work): work for work in self._running.works}
        for entry in self._streams.values():
            works |= {id(work): work for work in entry.waiting}
        return list(works.values())

    async def _submit(self, work: Work, timeout: float | None) -> Any:
        """Queue a call and wait for its answer."""
        self._queue(work, timeout)
        return await self._answer(work)

    async def _answer(self, work: Work) -> Any:
        """Wait for the answer of a call that is queued."""
        try:
            return await work.future
        except asyncio.CancelledError:
            if work.future.cancelled():
                await self._cancelled(work)
                self._metrics.cancelled += 1
            else:
                work.future.exception()  # the answer came in the same moment; nobody will look at an error
            raise asyncio.CancelledError(progress(work)) from None

    def _queue(self, work: Work, timeout: float | None) -> None:
        """Queue a call."""
        loop = work.future.get_loop()
        entry = work.entry
        self._admitted += 1
        if entry is None:
            self._ready.push(work)
        else:
            self._idle.pop(entry.id, None)
            entry.waiting.append(work)
            if len(entry.waiting) == 1:
                self._ready.push(work)
        if timeout is not None:
            work.timer = loop.call_later(timeout, self._expire, work)
        self._consider()

    async def _abandon(self, work: Work) -> None:
        """Cancel a call that no task waits for; returns when it is known what has happened of it."""
        if work.future.cancel():
            await self._cancelled(work)
            self._metrics.cancelled += 1

    async def _cancelled(self, work: Work) -> None:
        """Take a cancelled call out; one that is being computed is waited for, which tells what has happened."""
        while work.running:
            work.settled = work.future.get_loop().create_future()
            with contextlib.suppress(asyncio.CancelledError):
                await work.settled
        self._remove(work)
        self._consider()

    # --- The queue ------------------------------------------------------------------------------------------------

    def _remove(self, work: Work) -> None:
        """Take a call that is not running out of the queue, whatever became of it; once."""
        if work.timer is not None:
            work.timer.cancel()
            work.timer = None
        self._abandoned += work.streams()
        self._ready.remove(work)
        entry = work.entry
        if entry is not None:
            first = entry.waiting[0] is work
            entry.waiting.remove(work)
            if not entry.waiting:
                self._rest(entry)
            elif first:
                self._ready.push(entry.waiting[0])
        self._admitted -= 1
        self._wake()

    def _rest(self, entry: StreamEntry) -> None:
        """Note that nobody waits for a stream; one that is closed, or was never begun, is forgotten."""
        assert self._loop is not None
        if entry.number is None:
            self._streams.pop(entry.id, None)
            return
        entry.used = self._loop.time()
        self._idle[entry.id] = entry
        self._sweep_later()

    def _wake(self) -> None:
        """Let the next producer go on, and whoever waits for the end."""
        if self._admitted < self._max_queue:
            while self._room:
                waiter = self._room.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    break
        if not self._admitted and self._running is None:
            for quiet in self._quiet:
                if not quiet.done():
                    quiet.set_result(None)
            self._quiet.clear()

    def _expire(self, work: Work) -> None:
        work.timer = None
        if work.running:
            work.expired = True
        elif not work.future.done():
            self._refuse_late(work)

    def _refuse_late(self, work: Work) -> None:
        self._metrics.expired += 1
        self._fail(work, DeadlineError(f"timeout: the time of the call is over; {progress(work)}", work.done()))

    def _fail(self, work: Work, error: BaseException) -> None:
        work.future.set_exception(error)
        self._remove(work)

    # --- Rounds ---------------------------------------------------------------------------------------------------

    def _consider(self) -> None:
        """Begin a round, now or when the calls that are there have waited long enough for others."""
        if self._running is not None or not self._ready or self._loop is None:
            return
        waits = isinstance(self._timer, asyncio.TimerHandle)
        if self._timer is not None and not (waits and self._enough()):
            return
        if self._timer is not None:
            self._timer.cancel()
        due = 0.0 if self._enough() else self._ready.oldest + self._max_delay - self._loop.time()
        # Not at once: what other tasks ask for in this turn of the loop joins.
        self._timer = self._loop.call_later(due, self._begin) if due > 0 else self._loop.call_soon(self._begin)

    def _enough(self) -> bool:
        """Return whether waiting for others is of no use."""
        if self._closed or self._max_delay == 0 or self._ready.urgent:
            return True
        return 0 < len(self._streams) == self._ready.of_streams

    def _begin(self) -> None:
        self._timer = None
        if self._running is not None or not self._ready:
            return
        assert self._loop is not None
        assert self._executor is not None
        current = self._ready.choose(self._abandoned)
        if not current.works:
            return
        self._abandoned = []
        self._running = current
        now = self._loop.time()
        for work in current.works:
            work.running = True
            if not work.begun:
                work.begun = now
                if not isinstance(work, Change):
                    self._metrics.queue_seconds.add(now - work.since)
        self._metrics.rounds += 1
        if current.size:
            self._metrics.steps += current.size
            self._metrics.batch_size.add(current.size)
        self._executor.submit(_compute, self._engine, current, self._loop, self._end)

    def _end(self, error: BaseException | None) -> None:
        """Give out what a round has computed."""
        assert self._loop is not None
        current, self._running = self._running, None
        assert current is not None
        now = self._loop.time()
        swapped = False
        for work in current.works:
            work.running = False
            work.error = work.error or error
            if isinstance(work, Sequences):
                work.collect()
            swapped |= isinstance(work, Change) and work.entry is None and work.error is None
        if swapped:
            self._metrics.swaps += 1
            self._abandoned = []  # they were of the old model
            for work in {id(one): one for one in (*self._ready, *current.works)}.values():
                work.restart()
        for work in current.works:
            if work.future.cancelled():
                if work.settled is not None and not work.settled.done():
                    work.settled.set_result(None)
            elif work.error is not None:
                self._metrics.failed += 1
                self._fail(work, work.error)
            elif not work.left():
                if not isinstance(work, Change):
                    self._metrics.answered += 1
                    self._metrics.call_seconds.add(now - work.since)
                work.future.set_result(work.answer())
                self._remove(work)
            elif work.expired:
                self._refuse_late(work)
            elif self._closed and not self._draining:
                self._fail(work, StateError(f"Batcher: closed before the call was finished; {progress(work)}"))
            else:
                self._ready.push(work)
        self._wake()
        self._consider()

    # --- Idle streams ---------------------------------------------------------------------------------------------

    def _sweep_later(self) -> None:
        if self._idle_timeout is None or self._sweeper is not None or not self._idle or self._closed:
            return
        assert self._loop is not None
        oldest = next(iter(self._idle.values()))
        self._sweeper = self._loop.call_at(oldest.used + self._idle_timeout, self._sweep)

    def _sweep(self) -> None:
        """Close the streams that were idle for long enough."""
        self._sweeper = None
        assert self._loop is not None
        assert self._idle_timeout is not None
        now = self._loop.time()
        while self._idle and not self._closed:
            entry = next(iter(self._idle.values()))
            if entry.used + self._idle_timeout > now:
                break
            del self._idle[entry.id]
            self._evict(entry)
        self._sweep_later()
        self._consider()

    def _evict(self, entry: StreamEntry) -> None:
        assert self._loop is not None
        loop, told = self._loop, self._on_evict
        change = Change(loop.create_future(), loop.time(), lambda engine: engine.close(entry, told is not None), entry)

        def closed(future: asyncio.Future[bytes | None]) -> None:
            if future.cancelled() or future.exception() is not None:
                return
            self._metrics.evicted += 1
            snapshot = future.result()
            if told is not None and snapshot is not None:
                told(entry.id, snapshot)

        change.future.add_done_callback(closed)
        self._admitted += 1
        entry.waiting.append(change)
        self._ready.push(change)


def _compute(engine: Engine, current: Round, loop: asyncio.AbstractEventLoop, end: Callable[[Any], None]) -> None:
    """Compute a round in the worker's thread, and tell the event loop."""
    failure = None
    try:
        engine.compute(current)
    except BaseException as error:
        failure = error
    # A loop that was closed has nobody left who waits.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(end, failure)


def progress(work: Work) -> str:
    """Say what has happened of a call that came to no answer."""
    if isinstance(work, Steps):
        done, length = work.done(), work.sequence.length
        if done == 0:
            return "it did not happen: the stream has not moved"
        if done == length:
            return f"it happened: the stream has moved by {'its step' if length == 1 else f'all {length} steps'}"
        return f"the stream has moved by {done} of {length} steps"
    if isinstance(work, Change):
        return "it did not happen" if work.left() else "it happened"
    return "it was not finished, and no stream has moved"
