"""The calls that a batcher takes: checked and admitted on the event loop, then queued in ``dispatch.py``."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from lstm_engine.errors import OverloadError, ShapeError, StateError, UnsupportedModelError

from .dispatch import Dispatcher, progress
from .engine import Engine, Taken
from .work import Change, Rows, Sequence, Sequences, Steps, StreamEntry, Work

if TYPE_CHECKING:
    from lstm_engine.lstm import LSTM
    from lstm_engine.model import Model

__all__ = ["Batcher"]

#: Steps of one round: of 256 at 2 to 10 us each, a round takes a millisecond or two, for which the next call waits.
_MOST_BATCH: Final = 65_536


class Batcher(Dispatcher):
    """Merges concurrent calls to one model into batched ones, for asyncio.

    ::

        async with le.serving.Batcher(model) as batcher:
            y_t = await batcher.step(stream_id, x_t)
            y = await batcher.predict(x)

    Work goes in rounds. Each advances the calls that are waiting by some steps, in one call of the model, and what is
    not finished takes part in the next: calls of different lengths join and leave between rounds, and a short one does
    not wait for a long one. Rounds run in a thread of their own with the GIL released. Results have the bits that
    each stream or sequence gives alone (backend ``"fused"``).

    Parameters
    ----------
    model
        A Model or an LSTM. One that cannot run in a stream serves :meth:`predict` alone.
    max_batch
        Most steps (or rows) of a round, shared fairly by the calls that take part.
    max_delay
        Seconds that a call waits for others to join. It does not wait if ``max_batch`` calls are there, or one to
        every open stream.
    max_queue
        Most calls that are waiting or running; more are refused with OverloadError.
    max_streams
        Most streams that are open at a time; memory for all is set aside at once.
    idle_timeout
        Seconds after which a stream that nobody used is closed; None for never.
    on_evict
        Called on the event loop as ``on_evict(stream_id, snapshot)`` when a stream was closed for being idle.

    Raises
    ------
    ShapeError
        If an argument is not as above.

    Notes
    -----
    A batcher belongs to one event loop, that of its ``async with``. Arrays must not change while a call is waiting.
    """

    def __init__(
        self,
        model: Model | LSTM,
        max_batch: int = 256,
        max_delay: float = 0.001,
        *,
        max_queue: int = 4096,
        max_streams: int = 10_000,
        idle_timeout: float | None = None,
        on_evict: Callable[[Hashable, bytes], Any] | None = None,
    ) -> None:
        _check_model(model, "model")
        _whole(max_batch, "max_batch", _MOST_BATCH)
        _seconds(max_delay, "max_delay")
        _whole(max_queue, "max_queue", 1 << 30)
        self._max_streams = _whole(max_streams, "max_streams", 1 << 20)
        if idle_timeout is not None:
            _seconds(idle_timeout, "idle_timeout")
        if on_evict is not None and not callable(on_evict):
            raise ShapeError(f"on_evict: expected something to call or None, found {on_evict!r}")
        capacity = self._max_streams + max_batch  # whole sequences run in streams of their own
        super().__init__(
            Engine(Taken(model, capacity), capacity), max_batch, max_delay, max_queue, idle_timeout, on_evict
        )

    # --- Beginning and end ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._loop is not None or self._closed:
            raise StateError("Batcher: expected to be entered once, found it in use or closed; make another")
        self._loop = asyncio.get_running_loop()
        # The thread begins with the first round, and ends with the batcher, or when nobody holds it any more.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="lstm_engine.serving")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose(drain=kind is None)

    async def aclose(self, *, drain: bool = True) -> None:
        """Take no more calls, and end.

        Parameters
        ----------
        drain
            Whether the calls that were taken are finished first. If not they get a StateError that says how far they
            came; what is being computed is finished in any case.
        """
        self._closed, self._draining = True, drain
        if self._loop is None:
            return
        if asyncio.get_running_loop() is not self._loop:
            raise StateError("Batcher: expected to be closed by the event loop that entered it, found another")
        for waiter in self._room:
            if not waiter.done():
                waiter.set_result(None)
        self._room.clear()
        if not drain:
            for work in self._works():
                if not work.running and not work.future.done():
                    self._fail(work, StateError(f"Batcher: closed before the call was finished; {progress(work)}"))
        self._consider()
        while self._admitted or self._running is not None:
            quiet = self._loop.create_future()
            self._quiet.append(quiet)
            await quiet
        for handle in (self._timer, self._sweeper):
            if handle is not None:
                handle.cancel()
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    # --- Calls ----------------------------------------------------------------------------------------------------

    async def step(self, stream_id: Hashable, x: Any, *, timeout: float | None = None) -> Any:
        """Advance a stream by one step.

        Parameters
        ----------
        stream_id
            The stream. One that is not open is opened, at the zero state. Calls to one stream run in their order.
        x
            (features,), or as ``model.stream().step`` takes it.
        timeout
            Seconds. A step that has not begun by then does not happen; one that has is finished and answered.

        Returns
        -------
        numpy.ndarray
            (outputs,), or as of ``model.stream().step``.

        Raises
        ------
        OverloadError
            At once, if the queue is full or as many streams are open as may be; nothing has happened.
        DeadlineError
            If it did not begin in time.
        ShapeError
            If ``x`` does not fit.
        UnsupportedModelError
            If the model cannot run in a stream, naming the layer.
        StateError
            If the batcher is closed, or used from another event loop.
        asyncio.CancelledError
            If the calling task was cancelled. The step has then happened or not, and the message says which; so does
            :meth:`steps`.
        """
        return await self._steps(stream_id, x, timeout, single=True)

    async def run(self, stream_id: Hashable, x: Any, *, timeout: float | None = None) -> Any:
        """Advance a stream by a chunk of any length, some steps in each round.

        Parameters
        ----------
        stream_id, timeout
            As of :meth:`step`.
        x
            (time, features), or as ``model.stream().run`` takes it.

        Returns
        -------
        numpy.ndarray
            (time, outputs), or as of ``model.stream().run``.

        Raises
        ------
        OverloadError, ShapeError, UnsupportedModelError, StateError
            As :meth:`step`.
        DeadlineError, asyncio.CancelledError
            If it was not finished in time, or cancelled. The stream stands behind the last step that was made; the
            message says how many were.
        """
        return await self._steps(stream_id, x, timeout, single=False)

    def _begin_step(self, stream_id: Hashable, x: Any, timeout: float | None = None) -> Work:
        """Queue a step without waiting for it: a task for each costs a server with many more than the step.

        Arguments and errors are those of :meth:`step`; the errors of its arguments and of a full queue are raised.

        Returns
        -------
        Work
            Its ``future`` gets the answer. It must not be cancelled but by ``_abandon``.
        """
        return self._queued_steps(stream_id, x, timeout, single=True)

    @property
    def _full(self) -> bool:
        """Whether who calls now would be refused, or come before somebody who waits in :meth:`room`."""
        return self._admitted >= self._max_queue or bool(self._room)

    async def _steps(self, stream_id: Hashable, x: Any, timeout: float | None, *, single: bool) -> Any:
        return await self._answer(self._queued_steps(stream_id, x, timeout, single=single))

    def _queued_steps(self, stream_id: Hashable, x: Any, timeout: float | None, *, single: bool) -> Work:
        loop = self._admit(timeout)
        if self.obstacle is not None:
            raise self.obstacle
        inputs = self._engine.taken.step_inputs(x, time=not single)
        if not len(inputs[0]):
            raise ShapeError("x: expected at least one step, found none")
        entry = self._entry(stream_id)
        sequence = Sequence(inputs, len(inputs[0]), entry)
        work = Steps(loop.create_future(), loop.time(), sequence, single)
        self._queue(work, timeout)
        return work

    async def predict(self, x: Any, *, timeout: float | None = None) -> Any:
        """Compute whole sequences from a zero state, merged with what others ask for.

        Parameters
        ----------
        x
            As in a call of the model, with its axis of rows.
        timeout
            Seconds, in which all of it has to be computed.

        Returns
        -------
        numpy.ndarray or tuple of numpy.ndarray
            As of the call; of an LSTM ``y`` alone.

        Raises
        ------
        OverloadError
            At once, if the queue is full.
        DeadlineError
            If it was not finished in time.
        ShapeError
            If ``x`` does not fit.
        StateError
            If the batcher is closed, or used from another event loop.

        Notes
        -----
        Chains of LSTM, dense layers and activations are computed step by step, so that sequences of different lengths
        share rounds. Any other model computes whole rows, those of the same length together; one row is then the least
        that a round computes.
        """
        loop = self._admit(timeout)
        taken = self._engine.taken
        inputs, unbatched = taken.rows(x)
        work: Work
        if taken.by_step and all(inputs[0].shape[:2]):
            work = Sequences(loop.create_future(), loop.time(), inputs[0], taken.last, self._places)
        else:
            work = Rows(loop.create_future(), loop.time(), inputs, taken.merged)
        y = await self._submit(work, timeout)
        return y[0] if unbatched else y

    async def close(self, stream_id: Hashable) -> bool:
        """Close a stream, behind the calls to it that are waiting; a later step opens it anew at the zero state.

        Returns
        -------
        bool
            Whether there was one.

        Raises
        ------
        StateError
            If the batcher is closed, or used from another event loop.
        """
        loop = self._here()
        entry = self._streams.get(_hashable(stream_id))
        if entry is None:
            return False
        await self._submit(Change(loop.create_future(), loop.time(), lambda engine: engine.close(entry), entry), None)
        return True

    async def snapshot(self, stream_id: Hashable) -> bytes:
        """Return the state of a stream, behind the calls to it that are waiting, as ``Stream.snapshot`` does.

        Raises
        ------
        OverloadError
            If the queue is full.
        StateError
            If there is no such stream; if the batcher is closed, or used from another event loop.
        """
        loop = self._admit(None)
        entry = self._streams.get(_hashable(stream_id))
        if entry is None:
            raise StateError(f"stream_id: expected an open stream, found {stream_id!r}, which is not open")
        change = Change(loop.create_future(), loop.time(), lambda engine: engine.snapshot(entry), entry)
        result: bytes = await self._submit(change, None)
        return result

    async def restore(self, stream_id: Hashable, snapshot: bytes) -> None:
        """Let a stream go on from a snapshot of the same model, of another batcher, stream or pool too.

        Raises
        ------
        OverloadError
            If the queue is full, or as many streams are open as may be.
        FormatError, StateError, UnsupportedModelError
            If the snapshot does not fit; the stream stays as it was, and a new one is not opened.
        """
        loop = self._admit(None)
        if self.obstacle is not None:
            raise self.obstacle
        entry = self._entry(stream_id)
        change = Change(loop.create_future(), loop.time(), lambda engine: engine.restore(entry, snapshot), entry)
        await self._submit(change, None)

    async def swap(self, model: Model | LSTM) -> None:
        """Let another model take over between two rounds, such as a new training of the same layers.

        Streams go on with their states. Sequences of :meth:`predict` that have begun begin anew, so that each answer is
        of one model.

        Parameters
        ----------
        model
            The new one.

        Raises
        ------
        StateError
            With all reasons, if its inputs, its outputs or the states of open streams have other shapes. Nothing has
            changed then.
        """
        loop = self._here()
        _check_model(model, "swap")

        def swap(engine: Engine) -> None:
            engine.swap(model, list(self._streams.values()))

        await self._submit(Change(loop.create_future(), loop.time(), swap), None)

    async def room(self) -> None:
        """Wait until the queue has room: for a producer that should be slowed down rather than refused.

        A call that follows at once is not refused for the queue. Waiting tasks go on in their order.

        Raises
        ------
        StateError
            If the batcher is closed, or used from another event loop.
        """
        loop = self._here()
        while self._admitted >= self._max_queue:
            waiter = loop.create_future()
            self._room.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                with contextlib.suppress(ValueError):
                    self._room.remove(waiter)
                self._wake()
                raise
            self._here()
        # The next one too if there still is room when the caller has gone on.
        loop.call_soon(self._wake)

    def __reduce__(self) -> Any:
        raise TypeError(
            "cannot copy or pickle 'Batcher' object: its streams are its own; restore snapshots of them in another"
        )

    # --- What it is -----------------------------------------------------------------------------------------------

    @property
    def model(self) -> Model | LSTM:
        """The model in use."""
        return self._engine.taken.source

    @property
    def obstacle(self) -> UnsupportedModelError | None:
        """Why the model in use cannot run in streams, naming the layer; None if it can."""
        return self._engine.taken.obstacle

    def __len__(self) -> int:
        """Return the number of open streams."""
        return len(self._streams)

    def __contains__(self, stream_id: Hashable) -> bool:
        return stream_id in self._streams

    def steps(self, stream_id: Hashable) -> int:
        """Return how many steps a stream has made since it was opened or restored; 0 if it is not open."""
        entry = self._streams.get(_hashable(stream_id))
        return 0 if entry is None else entry.steps

    def metrics(self) -> dict[str, Any]:
        """Return what has been counted since the beginning, as plain numbers.

        Returns
        -------
        dict
            Counts of calls: ``answered``, ``refused`` (OverloadError), ``expired`` (DeadlineError), ``cancelled``,
            ``failed`` (another error, arguments excepted). ``rounds``, and the ``steps`` and rows that they computed;
            streams ``evicted``; ``swaps``. At this moment: ``queue_depth``, the calls that are waiting or running, and
            ``streams``. Histograms, each a dict of ``bounds``, ``counts`` (of values up to each bound and above the one
            before; one more than bounds), ``sum`` and ``count``: ``batch_size`` in steps a round, ``queue_seconds``
            from a call to its first round, ``call_seconds`` from a call to its answer.
        """
        return {**self._metrics.as_dict(), "queue_depth": self._admitted, "streams": len(self._streams)}

    # --- Admission ------------------------------------------------------------------------------------------------

    def _here(self) -> asyncio.AbstractEventLoop:
        """Return the loop if the batcher may be used now and here."""
        if self._closed:
            raise StateError("Batcher: expected an open one, found it closed; make another")
        if self._loop is None:
            raise StateError("Batcher: expected to be used inside of `async with batcher:`, found it not entered")
        if asyncio.get_running_loop() is not self._loop:
            raise StateError(
                "Batcher: expected the event loop that entered it, found another; give each loop a batcher of its own"
            )
        return self._loop

    def _admit(self, timeout: float | None) -> asyncio.AbstractEventLoop:
        loop = self._here()
        if timeout is not None:
            _seconds(timeout, "timeout")
        if self._admitted >= self._max_queue:
            self._metrics.refused += 1
            raise OverloadError(
                f"queue: expected fewer than max_queue={self._max_queue} calls at a time, found {self._admitted}; try "
                "again later, or await room()"
            )
        return loop

    def _entry(self, stream_id: Hashable) -> StreamEntry:
        """Return the stream of an id, opened if need be."""
        entry = self._streams.get(_hashable(stream_id))
        if entry is None:
            if len(self._streams) >= self._max_streams:
                self._metrics.refused += 1
                raise OverloadError(
                    f"stream_id: expected at most max_streams={self._max_streams} open streams, found them open when "
                    f"{stream_id!r} asked for one more; close some, or give an idle_timeout"
                )
            entry = StreamEntry(stream_id)
            self._streams[stream_id] = entry
        return entry


def _hashable(stream_id: Any) -> Hashable:
    try:
        hash(stream_id)
    except TypeError:
        raise ShapeError(
            f"stream_id: expected something hashable, such as text or a number, found {type(stream_id).__name__}"
        ) from None
    result: Hashable = stream_id
    return result


def _check_model(model: Any, name: str) -> None:
    from lstm_engine.lstm import LSTM
    from lstm_engine.model import Model

    if not isinstance(model, (Model, LSTM)):
        raise ShapeError(
            f"{name}: expected a Model or an LSTM, found {type(model).__name__}; le.load makes one of a file"
        )


def _whole(value: Any, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ShapeError(f"{name}: expected a whole number from 1 to {most}, found {value!r}")
    return value


def _seconds(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ShapeError(f"{name}: expected seconds, 0 or more, found {value!r}")
    return float(value)
