"""What a call asks for, cut into pieces that rounds compute: steps of streams, rows of batches, changes of streams.

The event loop owns a work and its ``future``; the worker's thread touches one only while its ``running`` is set.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["Change", "Piece", "Rows", "Sequence", "Sequences", "Steps", "StreamEntry", "Work"]

Array = NDArray[Any]


class StreamEntry:
    """A stream as the event loop sees it.

    Attributes
    ----------
    id
        The caller's.
    number
        Its number in the pool; None as long as it has not begun.
    waiting
        The calls to it, in their order; the first is ready or running.
    steps
        Steps that it has made.
    used
        When the last call to it ended, on the loop's clock.
    """

    __slots__ = ("id", "number", "steps", "used", "waiting")

    def __init__(self, id: Hashable) -> None:
        self.id = id
        self.number: int | None = None
        self.waiting: deque[Work] = deque()
        self.steps = 0
        self.used = 0.0


class Sequence:
    """A sequence that is advanced some steps at a time, in a stream of the pool.

    Attributes
    ----------
    inputs
        (time, ...) for each input of the model.
    length, done
        Steps in all, and made.
    entry
        The stream that it belongs to; None if it has one of its own that ends with it, ``number``.
    """

    __slots__ = ("done", "entry", "inputs", "keep_all", "length", "number", "outputs")

    def __init__(self, inputs: list[Array], length: int, entry: StreamEntry | None, *, keep_all: bool = True) -> None:
        self.inputs = inputs
        self.length = length
        self.done = 0
        self.entry = entry
        self.number: int | None = None
        self.keep_all = keep_all
        self.outputs: list[Array] = []

    def store(self, outputs: list[Array], begin: int, count: int) -> None:
        """Take the outputs of ``count`` steps, which lie at ``begin`` of those of a round."""
        if not self.keep_all:
            self.outputs = [y[begin + count - 1].copy() for y in outputs]
        elif count == self.length:
            self.outputs = [y[begin : begin + count].copy() for y in outputs]
        else:
            if not self.outputs:
                self.outputs = [np.empty((self.length, *y.shape[1:]), y.dtype) for y in outputs]
            for kept, y in zip(self.outputs, outputs, strict=True):
                kept[self.done : self.done + count] = y[begin : begin + count]
        self.done += count


#: Of sequences: one and the number of its next steps.  Of rows: their first and their number.
Piece = tuple[Sequence, int] | tuple[int, int]


class Work:
    """One call: its pieces, its answer, and who waits for it."""

    __slots__ = ("begun", "entry", "error", "expired", "future", "queued", "running", "settled", "since", "timer")

    def __init__(self, future: asyncio.Future[Any], since: float, entry: StreamEntry | None = None) -> None:
        self.future = future
        self.entry = entry  # of the stream that it is a call to
        self.since = since  # when it was called
        self.begun = 0.0  # when its first round began
        self.queued = False  # among the calls that are ready
        self.running = False  # in the round that is being computed
        self.expired = False
        self.error: BaseException | None = None
        self.settled: asyncio.Future[None] | None = None  # of a cancelled caller who waits for the round's end
        self.timer: asyncio.TimerHandle | None = None

    def left(self) -> int:
        """Return how many steps (or rows) are to be computed still; 0 if the answer is complete."""
        raise NotImplementedError

    @property
    def blocked(self) -> bool:
        """Whether it needs a stream of its own and there is none to be had before another call has ended one."""
        return False

    def done(self) -> int:
        """Return how many steps the caller's stream has made for it."""
        return 0

    def take(self, share: int) -> list[Piece]:
        """Return pieces for the next round, of ``share`` steps together or a little more."""
        raise NotImplementedError

    def answer(self) -> Any:
        """Return what the caller gets."""
        raise NotImplementedError

    def streams(self) -> list[int]:
        """Return the numbers of streams that end with this work."""
        return []

    def restart(self) -> None:
        """Forget what was computed, if it has to be of one model throughout."""


class Steps(Work):
    """Steps of one stream."""

    __slots__ = ("_single", "sequence")

    def __init__(self, future: asyncio.Future[Any], since: float, sequence: Sequence, single: bool) -> None:
        super().__init__(future, since, sequence.entry)
        self.sequence = sequence
        self._single = single

    def left(self) -> int:
        return self.sequence.length - self.sequence.done

    def done(self) -> int:
        return self.sequence.done

    def take(self, share: int) -> list[Piece]:
        return [(self.sequence, min(share, self.left()))]

    def answer(self) -> Any:
        outputs = self.sequence.outputs
        if self._single:
            return outputs[0][0] if len(outputs) == 1 else tuple([y[0] for y in outputs])
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


class Sequences(Work):
    """Whole sequences (rows, time, ...) from a zero state, row by row in streams of their own.

    Parameters
    ----------
    x
        The input, checked.
    last
        Whether the answer is the outputs of the last step alone.
    places
        Streams of their own that may be open at a time: a list of one number, shared with the others.
    """

    def __init__(self, future: asyncio.Future[Any], since: float, x: Array, last: bool, places: list[int]) -> None:
        super().__init__(future, since)
        self._x = x
        self._last = last
        self._places = places
        self._next = 0
        self._active: list[Sequence] = []
        self._outputs: Array | None = None
        self._rows: dict[Sequence, int] = {}

    @property
    def blocked(self) -> bool:
        return not self._active and self._places[0] <= 0

    def left(self) -> int:
        rows, time = self._x.shape[:2]
        return int((rows - self._next) * time) + sum(one.length - one.done for one in self._active)

    def take(self, share: int) -> list[Piece]:
        rows, time = self._x.shape[:2]
        while self._next < rows and len(self._active) < share and self._places[0] > 0:
            sequence = Sequence([self._x[self._next]], time, None, keep_all=not self._last)
            self._rows[sequence] = self._next
            self._active.append(sequence)
            self._places[0] -= 1
            self._next += 1
        chosen = self._active[:share]
        each = max(share // max(len(chosen), 1), 1)
        return [(one, min(each, one.length - one.done)) for one in chosen]

    def collect(self) -> None:
        """Move the outputs of finished rows to the answer."""
        for one in self._active:
            if one.done == one.length:
                y = one.outputs[0]
                if self._outputs is None:
                    self._outputs = np.empty((self._x.shape[0], *y.shape), y.dtype)
                self._outputs[self._rows.pop(one)] = y
                self._places[0] += 1
        self._active = [one for one in self._active if one.done < one.length]

    def answer(self) -> Any:
        return self._outputs

    def streams(self) -> list[int]:
        numbers = [one.number for one in self._active if one.number is not None]
        self._places[0] += len(self._active)
        self._active = []
        return numbers

    def restart(self) -> None:
        self.streams()
        self._rows.clear()
        self._next, self._outputs = 0, None


class Rows(Work):
    """Rows for a model whose sequences cannot be cut in time.

    Parameters
    ----------
    inputs
        (rows, ...) for each input, checked; the caller's argument alone if ``merged`` is not set.
    merged
        Whether rows of several calls may be computed together.
    """

    def __init__(self, future: asyncio.Future[Any], since: float, inputs: list[Any], merged: bool) -> None:
        super().__init__(future, since)
        self.inputs = inputs
        self.count = max(inputs[0].shape[0], 1) if merged else 1
        #: Rows of one key are computed together.
        self.key: Hashable = tuple((x.shape[1:], x.dtype) for x in inputs) if merged else None
        self._next = 0
        self._outputs: list[Array] = []
        self._single = True

    def left(self) -> int:
        return self.count - self._next

    def take(self, share: int) -> list[Piece]:
        return [(self._next, min(share, self.left()))]

    def store(self, outputs: Any, begin: int, count: int) -> None:
        """Take the outputs of rows, which lie at ``begin`` of those of a round."""
        if self.key is None:
            self._outputs, self._single = [outputs], True
        else:
            parts = outputs if isinstance(outputs, tuple) else (outputs,)
            self._single = not isinstance(outputs, tuple)
            if not self._outputs:
                rows = self.inputs[0].shape[0]
                self._outputs = [np.empty((rows, *y.shape[1:]), y.dtype) for y in parts]
            for kept, y in zip(self._outputs, parts, strict=True):
                kept[self._next : self._next + count] = y[begin : begin + count]
        self._next += count

    def answer(self) -> Any:
        return self._outputs[0] if self._single else tuple(self._outputs)

    def restart(self) -> None:
        self._next, self._outputs = 0, []


class Change(Work):
    """Something else that the worker does between two rounds of steps, for a stream or for all of them.

    Parameters
    ----------
    action
        Called in the worker's thread with the engine; what it returns is the answer.
    """

    def __init__(
        self,
        future: asyncio.Future[Any],
        since: float,
        action: Callable[[Engine], Any],
        entry: StreamEntry | None = None,
    ) -> None:
        super().__init__(future, since, entry)
        self._action = action
        self._result: Any = None
        self._left = 1

    def left(self) -> int:
        return self._left

    def take(self, share: int) -> list[Piece]:
        return []

    def act(self, engine: Engine) -> None:
        """Do it."""
        self._result = self._action(engine)
        self._left = 0

    def answer(self) -> Any:
        return self._result
