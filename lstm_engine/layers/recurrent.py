"""LSTM layers of a model: Keras's LSTM and Bidirectional, PyTorch's stacks, and the state at their ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError
from lstm_engine.lstm import LSTM, MergeMode, merge
from lstm_engine.weights import CellWeights, Direction, LSTMWeights

from .base import Array, Context, Layer, Mask, Shape, State, Tensor
from .numerics import Numerics

__all__ = ["BidirectionalLSTM", "FinalHidden", "LSTMLayer", "LSTMStack"]


def _run(
    lstm: LSTM,
    x: Array,
    state: tuple[Array, Array] | None,
    mask: Mask | None,
    context: Context,
    *,
    zero_masked: bool,
    sequences: bool = True,
) -> tuple[Array, Array, Array]:
    """Run a stack on (batch, time, features); returns y with both directions side by side, h and c."""
    h0, c0 = state or (None, None)
    if mask is not None and mask.shape != x.shape[:2]:
        raise ShapeError(
            f"mask: expected shape {x.shape[:2]}, (batch, time) of the recurrent input, found {mask.shape}"
        )
    if mask is not None and (lengths := context.lengths_of(mask)) is not None:
        # The caller's own lengths, unchanged by the layers in between: the core then skips the padding.
        return lstm.core.run(x, h0, c0, lengths=lengths, sequences=sequences)
    y, h, c = lstm.core.run(x, h0, c0, mask=mask, zero_masked=zero_masked, sequences=sequences)
    if mask is not None and sequences and not zero_masked:
        # Masks of the model joined in: within a row's length they mean what they always do, past it there are zeros.
        y = _zeroed(y, context.padding_of(mask))
    return y, h, c


def _zeroed(y: Array, mask: Mask | None, *, flipped: bool = False) -> Array:
    """Return (batch, time, features) with zeros at masked steps, or at those that are masked when time is flipped."""
    if mask is None:
        return y
    return np.where((mask[:, ::-1] if flipped else mask)[..., None], y, np.zeros((), y.dtype))


def _flipped(y: Array) -> Array:
    """Return (batch, time, ...) with time running the other way."""
    return np.ascontiguousarray(y[:, ::-1])


def _repeat_before(y: Array, mask: Mask | None, output: Array) -> None:
    """Let the masked steps of a chunk ahead of its first real one repeat ``output``, the one from before the chunk."""
    if mask is not None:
        none_yet = ~np.logical_or.accumulate(mask, axis=1)
        np.copyto(y, output[:, None, :], where=none_yet[..., None])


class _Recurrent(Layer):
    """What the recurrent layers share.

    Their inputs are the sequence and, if given, the tensors of the initial state.
    """

    uses_mask: ClassVar[bool] = True
    untimed_obstacle = "its input comes from the end of a sequence, so it has no time axis to stream over"

    def _sequence(self, shapes: Sequence[Shape], features: int, states: int) -> Shape:
        """Return the shape of the sequence, checked; ``states`` is the number of initial-state tensors allowed."""
        shape = shapes[0]
        if len(shape) != 3 or shape[2] not in (None, features):
            raise FormatError(
                f"its kernel takes {features} features, expected an input of shape (batch, time, {features}), "
                f"found {shape}"
            )
        if len(shapes) not in (1, 1 + states):
            raise FormatError(f"expected 1 input, or {1 + states} with an initial state, found {len(shapes)}")
        return shape

    @staticmethod
    def _check_initial(shapes: Sequence[Shape], sizes: Sequence[int]) -> None:
        for shape, size in zip(shapes[1:], sizes, strict=False):
            if len(shape) != 2 or shape[1] not in (None, size):
                raise FormatError(f"expected an initial state of shape (batch, {size}), found {shape}")


class LSTMLayer(_Recurrent):
    """One LSTM cell over time with the semantics of Keras's LSTM layer.

    Inputs: the sequence (batch, time, features) and, if given, h0 and c0, (batch, units). Outputs: the
    sequence of outputs or the last one, and h and c if the state is returned.

    Parameters
    ----------
    cell
        The weights.
    return_sequences, return_state, go_backwards
        As in Keras: ``go_backwards`` runs time backward and returns the outputs in that order.
    zero_masked
        Whether masked steps give zeros instead of the previous output.
    unrolled
        Whether Keras unrolls the loop: then, going backwards, it zeroes the sequence by the mask of the other end.
    mask_with_state
        Whether the mask that comes with the sequence is looked at if an initial state is given. Keras 3 does not; a
        mask given as an argument it does.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "LSTM"
    _prepared: ClassVar[tuple[str, ...]] = ("lstm",)

    def __init__(
        self,
        cell: CellWeights,
        *,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        zero_masked: bool = False,
        unrolled: bool = False,
        mask_with_state: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.cell = cell
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.zero_masked = go_backwards, zero_masked
        self.unrolled, self.mask_with_state = unrolled, mask_with_state
        self.lstm: LSTM

    def weights(self) -> dict[str, Array]:
        return self.cell.arrays()

    def memory_bytes(self) -> int:
        return super().memory_bytes() + (self.lstm.memory_bytes() if self.numerics is not None else 0)

    def _prepare(self, numerics: Numerics) -> None:
        weights = LSTMWeights(((self.cell,),), "reverse" if self.go_backwards else "forward")
        self.lstm = numerics.lstm(weights)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        batch, time, _ = self._sequence(shapes, self.cell.input_size, 2)
        self._check_initial(shapes, (self.cell.output_size, self.cell.hidden_size))
        last: Shape = (batch, self.cell.output_size)
        first: Shape = (batch, time, self.cell.output_size) if self.return_sequences else last
        return (first, last, (batch, self.cell.hidden_size)) if self.return_state else (first,)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        x, mask = inputs[0]
        state: tuple[Array, Array] | None = None
        if len(inputs) > 1:
            state = (inputs[1].values[None], inputs[2].values[None])
        if context.states is not None:
            return self._call_in_stream(x, mask, context)
        used = mask if state is None or self.mask_with_state or context.explicit_mask else None
        # The one case in which unrolling changes a result: see ``unrolled``.
        by_other_end = self.unrolled and self.go_backwards and self.zero_masked and self.return_sequences
        zero_masked = self.zero_masked and not by_other_end
        y, h, c = _run(self.lstm, x, state, used, context, zero_masked=zero_masked, sequences=self.return_sequences)
        if by_other_end:
            y = _zeroed(y, used, flipped=True)
        if self.return_sequences and self.go_backwards:
            y = _flipped(y)
        first = Tensor(y, mask if self.return_sequences else None)
        return (first, Tensor(h[0]), Tensor(c[0])) if self.return_state else (first,)

    def _call_in_stream(self, x: Array, mask: Mask | None, context: Context) -> tuple[Tensor, ...]:
        """Run a chunk from the stream's state; every output has all steps."""
        assert context.states is not None
        batch, time, _ = x.shape
        h, c = context.states[context.node]
        y = np.empty((batch, time, self.cell.output_size), dtype=x.dtype)
        hs, cs = np.empty_like(y), np.empty((batch, time, self.cell.hidden_size), dtype=x.dtype)
        # The core returns the state of the last step alone: where it is wanted after each step, the chunk is one step.
        chunk = 1 if self.return_state else max(time, 1)
        for first in range(0, time, chunk):
            now = slice(first, first + chunk)
            before, now_mask = h, None if mask is None else np.ascontiguousarray(mask[:, now])
            now_y, h, c = _run(
                self.lstm, np.ascontiguousarray(x[:, now]), (h, c), now_mask, context, zero_masked=self.zero_masked
            )
            if not self.zero_masked:
                _repeat_before(now_y, now_mask, before[0])
            y[:, now] = now_y
            if self.return_state:
                hs[:, first], cs[:, first] = h[0], c[0]
        context.new_states[context.node] = (h, c)
        output = Tensor(y, mask if self.return_sequences else None)
        return (output, Tensor(hs), Tensor(cs)) if self.return_state else (output,)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.go_backwards:
            raise UnsupportedModelError("go_backwards=True begins at the end of the sequence")
        if len(shapes) > 1:
            raise UnsupportedModelError("its initial state is computed by the model from whole sequences")
        return (self.return_sequences, False, False) if self.return_state else (self.return_sequences,)

    def initial_state(self, batch: int, shapes: Sequence[Shape]) -> State:
        assert self.numerics is not None
        return tuple(
            np.zeros((1, batch, size), dtype=self.numerics.dtype)
            for size in (self.cell.output_size, self.cell.hidden_size)
        )


class BidirectionalLSTM(_Recurrent):
    """Two LSTM cells over time, with the semantics of Keras's Bidirectional layer.

    Inputs: the sequence and, if given, h0 and c0 of the forward cell, then of the backward cell. Outputs: the
    merged output, or that of each cell if the merge mode is None; then h and c of each if the state is
    returned.

    Parameters
    ----------
    forward, backward
        The cells. Outputs of both are aligned with time.
    merge_mode
        ``"concat"``, ``"sum"``, ``"mul"``, ``"ave"`` or None.
    return_sequences, return_state
        As in Keras.
    flipped
        Whether the forward cell is the one that runs time backward: all sequences come out reversed then.
    zero_masked
        Whether masked steps give zeros instead of the previous output.
    unrolled
        As in :class:`LSTMLayer`, of the cell that runs time backward.
    mask_with_state
        As in :class:`LSTMLayer`.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "Bidirectional"
    _prepared: ClassVar[tuple[str, ...]] = ("_stacks",)

    def __init__(
        self,
        forward: CellWeights,
        backward: CellWeights,
        *,
        merge_mode: MergeMode | None = "concat",
        return_sequences: bool = False,
        return_state: bool = False,
        flipped: bool = False,
        zero_masked: bool = False,
        unrolled: bool = False,
        mask_with_state: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        if merge_mode not in ("concat", "sum", "mul", "ave", None):
            raise UnsupportedModelError(
                f"merge_mode: expected 'concat', 'sum', 'mul', 'ave' or None, found {merge_mode!r}"
            )
        if forward.input_size != backward.input_size:
            raise FormatError(
                f"its cells take {forward.input_size} and {backward.input_size} features, expected the same number"
            )
        if merge_mode in ("sum", "mul", "ave") and forward.output_size != backward.output_size:
            raise FormatError(
                f"merge_mode {merge_mode!r}: expected cells of one size, found {forward.output_size} and "
                f"{backward.output_size} units"
            )
        self.forward, self.backward = forward, backward
        self.merge_mode: MergeMode | None = merge_mode
        self.return_sequences, self.return_state = return_sequences, return_state
        self.flipped, self.zero_masked = flipped, zero_masked
        self.unrolled, self.mask_with_state = unrolled, mask_with_state
        self._stacks: tuple[LSTM, ...]

    @property
    def one_stack(self) -> bool:
        """Whether both cells fit in one bidirectional stack."""
        sizes = {(cell.hidden_size, cell.output_size) for cell in (self.forward, self.backward)}
        return len(sizes) == 1 and not self.flipped

    def weights(self) -> dict[str, Array]:
        cells = {"forward": self.forward, "backward": self.backward}
        return {f"{place}_{name}": array for place, cell in cells.items() for name, array in cell.arrays().items()}

    def memory_bytes(self) -> int:
        packed = sum(stack.memory_bytes() for stack in self._stacks) if self.numerics is not None else 0
        return super().memory_bytes() + packed

    def _prepare(self, numerics: Numerics) -> None:
        if self.one_stack:
            self._stacks = (numerics.lstm(LSTMWeights(((self.forward, self.backward),), "bidirectional")),)
            return
        directions: tuple[Direction, Direction] = ("reverse", "forward") if self.flipped else ("forward", "reverse")
        self._stacks = tuple(
            numerics.lstm(LSTMWeights(((cell,),), direction))
            for cell, direction in zip((self.forward, self.backward), directions, strict=True)
        )

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        batch, time, _ = self._sequence(shapes, self.forward.input_size, 4)
        cells = (self.forward, self.backward)
        state_sizes = [size for cell in cells for size in (cell.output_size, cell.hidden_size)]
        self._check_initial(shapes, state_sizes)
        lead: Shape = (batch, time) if self.return_sequences else (batch,)
        sizes = [cell.output_size for cell in cells]
        if self.merge_mode is not None:
            sizes = [sum(sizes)] if self.merge_mode == "concat" else sizes[:1]
        outputs: list[Shape] = [(*lead, size) for size in sizes]
        if self.return_state:
            outputs += [(batch, size) for size in state_sizes]
        return tuple(outputs)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        x, mask = inputs[0]
        initial = [tensor.values for tensor in inputs[1:]]
        used = mask if not initial or self.mask_with_state or context.explicit_mask else None
        both, (forward, backward), states = self._outputs(x, initial, used, context)
        output_mask = mask if self.return_sequences else None
        if self.merge_mode == "concat" and both is not None:
            merged: list[Array] = [both]
        else:
            with np.errstate(all="ignore"):
                combined = merge(forward, backward, self.merge_mode)
            merged = [combined] if isinstance(combined, np.ndarray) else list(combined)
        outputs = [Tensor(np.ascontiguousarray(values), output_mask) for values in merged]
        return (*outputs, *(Tensor(state) for state in states)) if self.return_state else tuple(outputs)

    def _outputs(
        self, x: Array, initial: Sequence[Array], mask: Mask | None, context: Context
    ) -> tuple[Array | None, tuple[Array, Array], list[Array]]:
        """Return both outputs side by side if they come so, each of them, and h, c of each."""
        by_other_end = self.unrolled and self.zero_masked and self.return_sequences
        zero_masked = self.zero_masked and not by_other_end

        def run(lstm: LSTM, state: tuple[Array, Array] | None) -> tuple[Array, Array, Array]:
            return _run(lstm, x, state, mask, context, zero_masked=zero_masked, sequences=self.return_sequences)

        both: Array | None = None
        sides: list[Array] = []
        states: list[Array] = []
        if self.one_stack:
            state = (np.stack(initial[::2]), np.stack(initial[1::2])) if initial else None
            both, h, c = run(self._stacks[0], state)
            size = self.forward.output_size
            sides, states = [both[..., :size], both[..., size:]], [h[0], c[0], h[1], c[1]]
        else:
            for place, lstm in enumerate(self._stacks):
                pair = initial[2 * place : 2 * place + 2]
                y, h, c = run(lstm, (pair[0][None], pair[1][None]) if pair else None)
                sides.append(y)
                states += [h[0], c[0]]
        if by_other_end and mask is not None:
            both = None
            # The cell that runs time backward is the second, unless the two are flipped.
            sides = [_zeroed(y, mask, flipped=(place == 1) != self.flipped) for place, y in enumerate(sides)]
        if self.flipped and self.return_sequences:
            sides = [_flipped(y) for y in sides]
        return both, (sides[0], sides[1]), states

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        raise UnsupportedModelError("its backward half begins at the end of the sequence")


class LSTMStack(_Recurrent):
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
        batch, time, _ = self._sequence(shapes, self.lstm.input_size, 0)
        return ((batch, time, self._output_size),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        x, mask = inputs[0]
        zero_masked = self.lstm.zero_masked
        if context.states is None:
            y, _, _ = _run(self.lstm, x, None, mask, context, zero_masked=zero_masked)
            return (Tensor(self._merged(y), mask),)
        h, c = before = context.states[context.node]
        y, h, c = _run(self.lstm, x, (h, c), mask, context, zero_masked=zero_masked)
        if not zero_masked:
            _repeat_before(y, mask, before[0][-1])
        context.new_states[context.node] = (h, c)
        return (Tensor(y, mask),)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        direction = self.lstm.weights.direction
        if direction != "forward":
            raise UnsupportedModelError(f"its direction is {direction!r}, which begins at the end of the sequence")
        return (True,)

    def initial_state(self, batch: int, shapes: Sequence[Shape]) -> State:
        return tuple(
            np.zeros((self.lstm.num_layers, batch, size), dtype=self.lstm.compute_type)
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
        _, h, _ = _run(self.lstm, x, None, mask, context, zero_masked=False, sequences=False)
        last = np.ascontiguousarray(h[-self.lstm.num_directions :].swapaxes(0, 1))
        return (Tensor(self._merged(last.reshape(x.shape[0], -1))),)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        super().stream(shapes)
        return (False,)
