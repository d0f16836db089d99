"""Recurrent layers of a model in one direction, PyTorch's stacks, and the state at their ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError
from lstm_engine.lstm import LSTM, merge
from lstm_engine.options import dtype_of

from .base import Array, Context, Layer, Mask, Shape, State, Tensor
from .lstm_cells import LSTMCells, LSTMRunner, stacked, unstacked
from .numerics import Numerics
from .recurrence import Recurrence, Runner, States

__all__ = [
    "FinalHidden",
    "LSTMLayer",
    "LSTMStack",
    "RecurrentLayer",
    "RecurrentOptions",
    "SequenceLayer",
    "flipped",
    "run_masked",
    "time_first",
]


def run_masked(
    runner: Runner,
    x: Array,
    states: States,
    mask: Mask | None,
    context: Context,
    *,
    zero_masked: bool,
    sequences: bool = True,
) -> tuple[Array, States]:
    """Run a recurrence on (batch, time, features); returns its outputs, aligned with time, and its states."""
    if mask is not None and mask.shape != x.shape[:2]:
        raise ShapeError(
            f"mask: expected shape {x.shape[:2]}, (batch, time) of the recurrent input, found {mask.shape}"
        )
    if mask is not None and (lengths := context.lengths_of(mask)) is not None:
        # The caller's own lengths, unchanged by the layers in between: the core then skips the padding.
        return runner.run(x, states, lengths=lengths, sequences=sequences)
    y, states = runner.run(x, states, mask=mask, zero_masked=zero_masked, sequences=sequences)
    if mask is not None and sequences and not zero_masked:
        # Masks of the model joined in: within a row's length they mean what they always do, past it there are zeros.
        y = _zeroed(y, context.padding_of(mask))
    return y, states


def _zeroed(y: Array, mask: Mask | None, *, flipped: bool = False) -> Array:
    """Return (batch, time, features) with zeros at masked steps, or at those that are masked when time is flipped."""
    if mask is None:
        return y
    return np.where((mask[:, ::-1] if flipped else mask)[..., None], y, np.zeros((), y.dtype))


def flipped(y: Array) -> Array:
    """Return (batch, time, ...) with time running the other way."""
    return np.ascontiguousarray(y[:, ::-1])


def time_first(
    call: Callable[[Sequence[Tensor], Context], tuple[Tensor, ...]], inputs: Sequence[Tensor], context: Context
) -> tuple[Tensor, ...]:
    """Call what takes and gives sequences (batch, time, ...) with a sequence, and its mask, of (time, batch, ...)."""
    (x, mask), *states = inputs
    paddings = [(np.ascontiguousarray(padding.T), lengths) for padding, lengths in context.paddings]
    turned = None if mask is None else np.ascontiguousarray(mask.T)
    for (padding, _), (padding_turned, _) in zip(context.paddings, paddings, strict=True):
        turned = padding_turned if padding is mask else turned
    outputs = call(
        [Tensor(np.ascontiguousarray(x.swapaxes(0, 1)), turned), *states], replace(context, paddings=paddings)
    )
    # States have two axes, sequences three.
    return tuple(
        Tensor(np.ascontiguousarray(y.swapaxes(0, 1)), None if y_mask is None else mask) if y.ndim == 3 else Tensor(y)
        for y, y_mask in outputs
    )


def _repeat_before(y: Array, mask: Mask | None, output: Array) -> None:
    """Let the masked steps of a chunk ahead of its first real one repeat ``output``, the one from before the chunk."""
    if mask is not None:
        none_yet = ~np.logical_or.accumulate(mask, axis=1)
        np.copyto(y, output[:, None, :], where=none_yet[..., None])


class SequenceLayer(Layer):
    """What the recurrent layers share.

    Their inputs are the sequence and, if given, the tensors of the initial state.
    """

    uses_mask: ClassVar[bool] = True
    untimed_obstacle = "its input comes from the end of a sequence, so it has no time axis to stream over"

    @staticmethod
    def sequence_shape(
        shapes: Sequence[Shape], features: int, states: Sequence[int], time_major: bool = False
    ) -> Shape:
        """Return batch, time and features of the sequence; checked, as is an initial state of the sizes ``states``."""
        shape = shapes[0]
        if len(shape) != 3 or shape[2] not in (None, features):
            raise FormatError(
                f"its kernel takes {features} features, expected an input of shape (batch, time, {features}), "
                f"found {shape}"
            )
        if len(shapes) not in (1, 1 + len(states)):
            expected = f"1 input, or {1 + len(states)} with an initial state" if states else "1 input"
            raise FormatError(f"expected {expected}, found {len(shapes)}")
        for initial, size in zip(shapes[1:], states, strict=False):
            if len(initial) != 2 or initial[1] not in (None, size):
                raise FormatError(f"expected an initial state of shape (batch, {size}), found {initial}")
        return (shape[1], shape[0], shape[2]) if time_major else shape


@dataclass(frozen=True, slots=True)
class RecurrentOptions:
    """What Keras's recurrent layers can be told.

    Parameters
    ----------
    return_sequences, return_state, go_backwards
        As in Keras: ``go_backwards`` runs time backward and returns the outputs in that order.
    zero_masked
        Whether masked steps give zeros instead of the previous output.
    unrolled
        Whether Keras unrolls the loop: then, going backwards, it zeroes the sequence by the mask of the other end.
    mask_with_state
        Whether the mask that comes with the sequence is looked at if an initial state is given. Keras 3 does not; a
        mask given as an argument it does.
    time_major
        Whether sequences, and masks, have time in front of the batch.
    """

    return_sequences: bool = False
    return_state: bool = False
    go_backwards: bool = False
    zero_masked: bool = False
    unrolled: bool = False
    mask_with_state: bool = True
    time_major: bool = False

    def sequence_shape(self, batch: int | None, time: int | None) -> Shape:
        """Return the leading axes of the output."""
        if not self.return_sequences:
            return (batch,)
        return (time, batch) if self.time_major else (batch, time)

    @property
    def zeroed_by_other_end(self) -> bool:
        """Whether unrolling changes the result: see ``unrolled``."""
        return self.unrolled and self.go_backwards and self.zero_masked and self.return_sequences

    def mask_for(self, mask: Mask | None, states: States, context: Context) -> Mask | None:
        """Return the mask that the loop looks at."""
        return mask if not states or self.mask_with_state or context.explicit_mask else None


class RecurrentLayer(SequenceLayer):
    """A cell, or several behind one another, over time, with the semantics of Keras's RNN layer.

    Inputs: the sequence (batch, time, features) and, if given, the initial states, each (batch, size). Outputs: the
    sequence of outputs or the last one, and the states if they are returned.

    Parameters
    ----------
    recurrence
        The weights.
    options
        What the layer was told.
    kind
        Name of the kind of layer.
    name
        The layer's name; a model gives it one if None.
    """

    _prepared: ClassVar[tuple[str, ...]] = ("runner",)

    def __init__(
        self, recurrence: Recurrence, options: RecurrentOptions, *, kind: str = "RNN", name: str | None = None
    ) -> None:
        super().__init__(name)
        self.recurrence, self.options, self.kind = recurrence, options, kind
        self.runner: Runner

    def weights(self) -> dict[str, Array]:
        return self.recurrence.arrays()

    def memory_bytes(self) -> int:
        return super().memory_bytes() + (self.runner.memory_bytes if self.numerics is not None else 0)

    def _prepare(self, numerics: Numerics) -> None:
        self.runner = self.recurrence.prepare(numerics, reverse=self.options.go_backwards)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        cell, options = self.recurrence, self.options
        batch, time, _ = self.sequence_shape(shapes, cell.input_size, cell.state_sizes, self.time_major)
        lead = options.sequence_shape(batch, time)
        states: list[Shape] = [(batch, size) for size in cell.state_sizes] if options.return_state else []
        return ((*lead, cell.output_size), *states)

    def run(self, x: Array, states: States, mask: Mask | None, context: Context) -> tuple[Array, States]:
        """Run whole sequences; returns the outputs aligned with time, or the last one, and the states."""
        options = self.options
        by_other_end = options.zeroed_by_other_end
        y, states = run_masked(
            self.runner,
            x,
            states,
            mask,
            context,
            zero_masked=options.zero_masked and not by_other_end,
            sequences=options.return_sequences,
        )
        return (_zeroed(y, mask, flipped=True) if by_other_end else y), states

    @property
    def time_major(self) -> bool:
        return self.options.time_major

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        return time_first(self._call, inputs, context) if self.time_major else self._call(inputs, context)

    def _call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        (x, mask), options = inputs[0], self.options
        if context.states is not None:
            return self._call_in_stream(x, mask, context)
        initial = tuple(tensor.values for tensor in inputs[1:])
        y, states = self.run(x, initial, options.mask_for(mask, initial, context), context)
        if options.return_sequences and options.go_backwards:
            y = flipped(y)
        first = Tensor(y, mask if options.return_sequences else None)
        return (first, *map(Tensor, states)) if options.return_state else (first,)

    def _call_in_stream(self, x: Array, mask: Mask | None, context: Context) -> tuple[Tensor, ...]:
        """Run a chunk from the stream's state; every output has all steps."""
        assert context.states is not None
        batch, time, _ = x.shape
        options, cell = self.options, self.recurrence
        states = self._from_stream(context.states[context.node])
        y = np.empty((batch, time, cell.output_size), dtype=x.dtype)
        all_states = [np.empty((batch, time, size), dtype=x.dtype) for size in cell.state_sizes]
        # The state of the last step alone is returned: where it is wanted after each step, the chunk is one step.
        chunk = 1 if options.return_state else max(time, 1)
        for first in range(0, time, chunk):
            now = slice(first, first + chunk)
            before, now_mask = states, None if mask is None else np.ascontiguousarray(mask[:, now])
            now_y, states = run_masked(
                self.runner, np.ascontiguousarray(x[:, now]), states, now_mask, context, zero_masked=options.zero_masked
            )
            if not options.zero_masked:
                _repeat_before(now_y, now_mask, before[cell.output_state])
            y[:, now] = now_y
            if options.return_state:
                for target, state in zip(all_states, states, strict=True):
                    target[:, first] = state
        context.new_states[context.node] = self._to_stream(states)
        output = Tensor(y, mask if options.return_sequences else None)
        return (output, *map(Tensor, all_states)) if options.return_state else (output,)

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("h",) if len(self.recurrence.state_sizes) == 1 else ()

    def _to_stream(self, states: States) -> State:
        """Return the states in the form in which a stream carries them: the batch is axis 1."""
        return tuple(state[None] for state in states)

    def _from_stream(self, state: State) -> States:
        return tuple(array[0] for array in state)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.options.go_backwards:
            raise UnsupportedModelError("go_backwards=True begins at the end of the sequence")
        if self.time_major:
            raise UnsupportedModelError("time_major=True puts time in front of the batch")
        if len(shapes) > 1:
            raise UnsupportedModelError("its initial state is computed by the model from whole sequences")
        states = len(self.recurrence.state_sizes) if self.options.return_state else 0
        return (self.options.return_sequences, *(False,) * states)

    def initial_state(self, batch: int, shapes: Sequence[Shape]) -> State:
        assert self.numerics is not None
        sizes = self.recurrence.state_sizes
        return self._to_stream(tuple(np.zeros((batch, size), dtype=self.numerics.dtype) for size in sizes))


class LSTMLayer(RecurrentLayer):
    """LSTM cells over time: Keras's LSTM layer, or its RNN layer with LSTM cells of one size behind one another.

    A stream carries (h, c), each (cells, batch, size).

    Parameters
    ----------
    recurrence
        The cells.
    options, kind, name
        As in :class:`RecurrentLayer`.
    """

    recurrence: LSTMCells
    runner: LSTMRunner

    def __init__(
        self, recurrence: LSTMCells, options: RecurrentOptions, *, kind: str = "LSTM", name: str | None = None
    ) -> None:
        super().__init__(recurrence, options, kind=kind, name=name)

    @property
    def lstm(self) -> LSTM:
        """The packed LSTM."""
        return self.runner.lstm

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("h", "c")

    def _to_stream(self, states: States) -> State:
        return stacked(states)

    def _from_stream(self, state: State) -> States:
        return unstacked(state)


class LSTMStack(SequenceLayer):
    """An :class:`~lstm_engine.LSTM` as a layer: every step of its last layer goes on, as in PyTorch.

    Parameters
    ----------
    lstm
        The LSTM. It computes in its own compute type, which the model takes on.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "LSTM"

    def __init__(self, lstm: LSTM, *, name: str | None = None) -> None:
        super().__init__(name)
        self.lstm = lstm
        if lstm.num_directions == 2 and lstm.merge_mode is None:
            raise UnsupportedModelError(
                "merge_mode: expected a mode with one output for an LSTM in a chain of layers, found None"
            )

    @property
    def _output_size(self) -> int:
        directions = self.lstm.num_directions if self.lstm.merge_mode == "concat" else 1
        return directions * self.lstm.output_size

    def weights(self) -> dict[str, Array]:
        return {
            f"{name}_l{layer}{'_reverse' if place else ''}": array
            for layer, cells in enumerate(self.lstm.weights.cells)
            for place, cell in enumerate(cells)
            for name, array in cell.arrays().items()
        }

    def memory_bytes(self) -> int:
        return super().memory_bytes() + self.lstm.memory_bytes()

    def _merged(self, y: Array) -> Array:
        """Merge the directions of (..., directions * output size)."""
        if self.lstm.num_directions == 1 or self.lstm.merge_mode == "concat":
            return y
        size = self.lstm.output_size
        with np.errstate(all="ignore"):
            return np.asarray(merge(y[..., :size], y[..., size:], self.lstm.merge_mode))

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        batch, time, _ = self.sequence_shape(shapes, self.lstm.input_size, ())
        return ((batch, time, self._output_size),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        x, mask = inputs[0]
        zero_masked = self.lstm.zero_masked
        if context.states is None:
            y, _ = run_masked(LSTMRunner(self.lstm), x, (), mask, context, zero_masked=zero_masked)
            return (Tensor(self._merged(y), mask),)
        before = unstacked(context.states[context.node])
        y, states = run_masked(LSTMRunner(self.lstm), x, before, mask, context, zero_masked=zero_masked)
        if not zero_masked:
            _repeat_before(y, mask, before[-2])
        context.new_states[context.node] = stacked(states)
        return (Tensor(y, mask),)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        direction = self.lstm.weights.direction
        if direction != "forward":
            raise UnsupportedModelError(f"its direction is {direction!r}, which begins at the end of the sequence")
        return (True,)

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("h", "c")

    def initial_state(self, batch: int, shapes: Sequence[Shape]) -> State:
        return tuple(
            np.zeros((self.lstm.num_layers, batch, size), dtype=dtype_of(self.lstm.compute_type))
            for size in (self.lstm.output_size, self.lstm.hidden_size)
        )


class FinalHidden(LSTMStack):
    """The final hidden state of an LSTM's last layer: (batch, directions * output size), forward before reverse.

    What ``_, (h, _) = lstm(x)`` and ``h[-1]``, or ``torch.cat((h[-2], h[-1]), 1)`` for a bidirectional stack, are
    in PyTorch. Mask and lengths are looked at; a row without a real step gives zeros.

    Parameters
    ----------
    lstm
        The :class:`~lstm_engine.LSTM`; its merge mode combines the directions.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "FinalHidden"

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        ((batch, _, size),) = super().output_shapes(shapes)
        return ((batch, size),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        if context.states is not None:
            ((y, _),) = super().call(inputs, context)
            return (Tensor(y),)
        x, mask = inputs[0]
        _, states = run_masked(LSTMRunner(self.lstm), x, (), mask, context, zero_masked=False, sequences=False)
        h, _ = stacked(states[-2 * self.lstm.num_directions :])
        last = np.ascontiguousarray(h.swapaxes(0, 1))
        return (Tensor(self._merged(last.reshape(x.shape[0], -1))),)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        super().stream(shapes)
        return (False,)
