"""What the worker's thread does: rounds of steps and rows over one model and its pool of streams.

A round that fails has moved no stream, so each of its pieces is then computed alone: an error reaches the call that it
is of, and the others get their answers.
"""

from __future__ import annotations

from collections.abc import Sequence as Several
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_engine.arrays import as_float_array, as_index_array
from lstm_engine.errors import ShapeError, StateError, UnsupportedModelError
from lstm_engine.lstm import LSTM
from lstm_engine.options import dtype_of

from .work import Change, Rows, Sequence, StreamEntry, Work

if TYPE_CHECKING:
    from lstm_engine._core import StreamPool
    from lstm_engine.model import Model

__all__ = ["Engine", "Round", "Taken"]

Array = NDArray[Any]


class Taken:
    """What a model takes, a step and a call: arguments are checked on the event loop, where their callers are.

    Parameters
    ----------
    source
        The model.
    capacity
        Most streams that its pool holds.

    Attributes
    ----------
    pool
        Its pool; None where the model cannot run in a stream, for the reason in ``obstacle``.
    by_step
        Whether whole sequences can be computed step by step in streams, with the same bits.
    last
        Whether the model's output is that of the last step.
    """

    def __init__(self, source: Model | LSTM, capacity: int) -> None:
        self.source = source
        self.pool: StreamPool | None = None
        self.obstacle: UnsupportedModelError | None = None
        self.dtype = dtype_of(source.compute_type)
        chain = None
        try:
            chain = source._stream_chain()
            self.pool = source.stream_pool(capacity)
        except UnsupportedModelError as error:
            self.obstacle = error
        self.specs: list[tuple[str, tuple[int | None, ...], bool]]
        if isinstance(source, LSTM):
            self.specs = [("x", (source.input_size,), False)]
            self.last, self.merged = False, True
            # Unlike a model's, a chain of an LSTM alone is one for whole sequences without conditions.
            self.by_step = self.pool is not None
        else:
            self.specs = [
                (spec.name, spec.shape[2:] if spec.sequence else spec.shape[1:], spec.indices) for spec in source.inputs
            ]
            self.last, self.merged = len(source.outputs[0].shape) == 2, source._rows_apart
            self.by_step = chain is not None and self.pool is not None and source.inputs[0].sequence

        _, shape, indices = self.specs[0]
        #: Of the only input, if it is of floats; None where the model has others.
        self._step_shape = None if indices or len(self.specs) > 1 else shape

    def step_inputs(self, x: Any, time: bool) -> list[Array]:
        """Return checked inputs of steps, (time, ...) for each: of one step without a time axis if not ``time``."""
        if not time and self._fits(x):
            return [x[None]]
        values = [x] if isinstance(self.source, LSTM) else self.source._arguments.gathered((x,))
        arrays: list[Array] = []
        for value, (name, shape, indices) in zip(values, self.specs, strict=True):
            sizes: list[int | str] = [f"size {axis}" if size is None else size for axis, size in enumerate(shape)]
            axes = ["time", *sizes] if time else sizes
            array = as_index_array(value, name, axes) if indices else as_float_array(value, name, axes, self.dtype)
            arrays.append(array if time else array[None])
        if len({len(array) for array in arrays}) > 1:
            raise ShapeError(f"inputs: expected the same number of steps, found {[len(array) for array in arrays]}")
        return arrays

    def _fits(self, x: Any) -> bool:
        """Return whether ``x`` is the only input of a step, as the pool takes it: what all checks would give back."""
        return (
            type(x) is np.ndarray
            and x.shape == self._step_shape
            and x.dtype is self.dtype
            and x.flags.c_contiguous
            and x.flags.aligned
        )

    def rows(self, x: Any) -> tuple[list[Any], bool]:
        """Return checked inputs of a call, (rows, ...) for each, and whether the caller's had no axis of rows."""
        if not self.merged:
            return [x], False
        if isinstance(self.source, LSTM):
            array = as_float_array(x, "x", None, self.dtype)
            unbatched = array.ndim == 2
            axes = ("time", self.source.input_size) if unbatched else ("batch", "time", self.source.input_size)
            array = as_float_array(array, "x", axes, self.dtype)
            return [array[None] if unbatched else array], unbatched
        tensors, _ = self.source._arguments.tensors((x,), None, None)
        return [tensor.values for tensor in tensors], False

    def differences(self, other: Taken) -> list[str]:
        """Return what keeps ``other`` from taking over the calls of this one: a sentence for each difference."""
        found = []
        if self.dtype != other.dtype:
            found.append(f"its arrays are {other.dtype}, expected {self.dtype}")
        names = len(self.specs) > 1
        ours, theirs = ([spec if names else spec[1:] for spec in one.specs] for one in (self, other))
        if ours != theirs:
            found.append(f"it takes {_described(other.specs)} a step, expected {_described(self.specs)}")
        ours_out, theirs_out = _outputs(self.source), _outputs(other.source)
        if ours_out != theirs_out:
            found.append(f"its outputs have the shapes {theirs_out}, expected {ours_out}")
        if self.pool is not None and other.obstacle is not None:
            found.append(str(other.obstacle))
        elif (self.by_step, self.merged) != (other.by_step, other.merged):
            found.append(
                "its sequences cannot be computed in the same way (one is a chain of LSTM, dense layers and "
                "activations, or an ONNX graph, and the other is not)"
            )
        return found


def _described(specs: Several[tuple[str, tuple[int | None, ...], bool]]) -> str:
    return ", ".join(f"{name} {shape}{' of token numbers' if indices else ''}" for name, shape, indices in specs)


def _outputs(source: Model | LSTM) -> list[tuple[int | None, ...]]:
    if isinstance(source, LSTM):
        return [(None, None, source.num_directions * source.output_size)]
    return [spec.shape for spec in source.outputs]


@dataclass(slots=True)
class Round:
    """What is computed at once: changes, then steps of sequences, then rows of calls of one key.

    Attributes
    ----------
    works
        All that take part.
    changes, steps, rows
        Their pieces.
    abandoned
        Numbers of streams that nobody needs any more, to be closed first.
    """

    works: list[Work] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    steps: list[tuple[Work, Sequence, int]] = field(default_factory=list)
    rows: list[tuple[Rows, int, int]] = field(default_factory=list)
    abandoned: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Steps (and rows) that it computes."""
        return sum(count for _, _, count in self.steps) + sum(count for _, _, count in self.rows)


class Engine:
    """The model that is in use, and its streams."""

    def __init__(self, taken: Taken, capacity: int) -> None:
        self.taken = taken
        self.capacity = capacity

    @property
    def pool(self) -> StreamPool:
        """The streams of a model that has some."""
        assert self.taken.pool is not None
        return self.taken.pool

    def compute(self, current: Round) -> None:
        """Compute a round; errors are left in the works that they are of."""
        for number in current.abandoned:
            self.pool.close(number)
        for change in current.changes:
            try:
                change.act(self)
            except Exception as error:
                change.error = error
        if current.steps:
            self._steps(current.steps)
        if current.rows:
            self._rows(current.rows)

    # --- Steps ----------------------------------------------------------------------------------------------------

    def _steps(self, pieces: list[tuple[Work, Sequence, int]]) -> None:
        try:
            self._advance(pieces)
        except Exception as error:
            for piece in pieces:
                if len(pieces) == 1:
                    piece[0].error = error
                elif piece[0].error is None:
                    try:
                        self._advance([piece])
                    except Exception as own:
                        piece[0].error = own
        for _, sequence, _ in pieces:
            if sequence.entry is None and sequence.done == sequence.length and sequence.number is not None:
                self.pool.close(sequence.number)
                sequence.number = None

    def _advance(self, pieces: list[tuple[Work, Sequence, int]]) -> None:
        """Advance sequences together; all move or none."""
        numbers = np.array([self._number(sequence) for _, sequence, _ in pieces], np.int64)
        steps = np.array([count for _, _, count in pieces], np.int64)
        inputs = [
            np.concatenate([one.inputs[place][one.done : one.done + count] for _, one, count in pieces])
            for place in range(len(self.taken.specs))
        ]
        x = inputs[0] if len(inputs) == 1 else tuple(inputs)
        y = self.pool.step(numbers, x, steps=None if (steps == 1).all() else steps)
        outputs = list(y) if isinstance(y, tuple) else [y]
        begin = 0
        for _, sequence, count in pieces:
            sequence.store(outputs, begin, count)
            begin += count
            if sequence.entry is not None:
                sequence.entry.steps += count

    def _number(self, sequence: Sequence) -> int:
        """Return the number of a sequence's stream in the pool, which is opened if there is none."""
        owner: Sequence | StreamEntry = sequence.entry or sequence
        if owner.number is None:
            owner.number = self.pool.open()
        return owner.number

    # --- Rows -----------------------------------------------------------------------------------------------------

    def _rows(self, pieces: list[tuple[Rows, int, int]]) -> None:
        try:
            self._call(pieces)
        except Exception as error:
            for piece in pieces:
                if len(pieces) == 1:
                    piece[0].error = error
                else:
                    try:
                        self._call([piece])
                    except Exception as own:
                        piece[0].error = own

    def _call(self, pieces: list[tuple[Rows, int, int]]) -> None:
        source = self.taken.source
        first = pieces[0][0]
        if first.key is None:
            first.store(source(*first.inputs), 0, 1)
            return
        parts = [
            [work.inputs[place][begin : begin + count] for work, begin, count in pieces]
            for place in range(len(first.inputs))
        ]
        inputs = [part[0] if len(part) == 1 else np.concatenate(part) for part in parts]
        outputs = source(inputs[0])[0] if isinstance(source, LSTM) else source(*inputs)
        begin = 0
        for work, _, count in pieces:
            work.store(outputs, begin, count)
            begin += min(count, len(work.inputs[0]))

    # --- Changes --------------------------------------------------------------------------------------------------

    def close(self, entry: StreamEntry, snapshot: bool = False) -> bytes | None:
        """Close a stream, so that its next step begins anew; returns its snapshot if asked for and there is one."""
        if entry.number is None:
            return None
        kept = self.pool.snapshot(entry.number) if snapshot else None
        self.pool.close(entry.number)
        entry.number, entry.steps = None, 0
        return kept

    def snapshot(self, entry: StreamEntry) -> bytes:
        """Return the state of a stream."""
        if entry.number is None:
            raise StateError(f"stream_id: expected an open stream, found {entry.id!r}, which is closed")
        return self.pool.snapshot(entry.number)

    def restore(self, entry: StreamEntry, snapshot: bytes) -> None:
        """Let a stream go on from a snapshot; it is opened if it is closed."""
        if entry.number is None:
            entry.number = self.pool.open(snapshot)
        else:
            self.pool.restore(entry.number, snapshot)
        entry.steps = 0

    def swap(self, source: Model | LSTM, entries: list[StreamEntry]) -> None:
        """Let another model take the place of this one, with the streams' states.

        Raises
        ------
        StateError
            If it does not fit, with the reasons. Nothing has changed then.
        """
        new = Taken(source, self.capacity)
        problems = self.taken.differences(new)
        held = [entry for entry in entries if entry.number is not None]
        numbers: list[int] = []
        if not problems and held:
            assert new.pool is not None
            ours = None
            for entry in held:
                assert entry.number is not None
                state = [
                    np.ascontiguousarray(array)
                    for arrays in self.pool._named_state(entry.number).values()
                    for array in arrays
                ]
                numbers.append(new.pool.open())
                if ours is None:
                    ours = [array.shape for array in state]
                    theirs = [a.shape for arrays in new.pool._named_state(numbers[0]).values() for a in arrays]
                    if ours != theirs:
                        problems.append(
                            f"its streams carry arrays of the shapes {theirs}, expected {ours}, those of the "
                            f"{len(held)} open streams; close them, or begin another Batcher"
                        )
                        break
                new.pool._set_state(numbers[-1], state)
        if problems:
            raise StateError("swap: the new model cannot take over: " + "; ".join(problems))
        for entry, number in zip(held, numbers, strict=True):
            entry.number = number
        self.taken = new
