"""Bidirectional: two recurrent layers over the same sequence, one of them backward in time."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lstm_engine.errors import FormatError, UnsupportedModelError
from lstm_engine.lstm import MergeMode, merge

from .base import Array, Context, Mask, Shape, Tensor
from .lstm_cells import LSTMCells, LSTMRunner
from .numerics import Numerics
from .recurrence import States
from .recurrent import RecurrentLayer, RecurrentOptions, SequenceLayer, flipped, run_masked, time_first

__all__ = ["BidirectionalLayer"]


class BidirectionalLayer(SequenceLayer):
    """Two recurrent layers over time, with the semantics of Keras's Bidirectional layer.

    Inputs: the sequence and, if given, the initial states of the forward layer, then of the backward one. Outputs:
    the merged output, or that of each layer if the merge mode is None; then the states of both if they are returned.

    Parameters
    ----------
    forward, backward
        The layers; either may be the one that runs time backward. If it is the forward one, all sequences come out
        reversed.
    merge_mode
        ``"concat"``, ``"sum"``, ``"mul"``, ``"ave"`` or None.
    zero_masked
        Whether masked steps give zeros instead of the previous output, whatever the two layers were told.
    name
        The layer's name; a model gives it one if None.

    Raises
    ------
    FormatError
        If the two layers do not fit together.
    """

    kind = "Bidirectional"
    _prepared: ClassVar[tuple[str, ...]] = ("_pair",)

    def __init__(
        self,
        forward: RecurrentLayer,
        backward: RecurrentLayer,
        *,
        merge_mode: MergeMode | None = "concat",
        zero_masked: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        first, second = forward.recurrence, backward.recurrence
        if first.input_size != second.input_size:
            raise FormatError(
                f"its cells take {first.input_size} and {second.input_size} features, expected the same number"
            )
        if merge_mode in ("sum", "mul", "ave") and first.output_size != second.output_size:
            raise FormatError(
                f"merge_mode {merge_mode!r}: expected cells of one size, found {first.output_size} and "
                f"{second.output_size} units"
            )
        for option in ("return_sequences", "return_state", "go_backwards", "time_major"):
            same = getattr(forward.options, option) == getattr(backward.options, option)
            if same is (option == "go_backwards"):
                raise FormatError(
                    f"expected {option} to be {'different' if same else 'the same'} in its two layers, found "
                    f"{getattr(forward.options, option)!r} and {getattr(backward.options, option)!r}"
                )
        self.forward, self.backward = (
            _with_options(layer, dataclasses.replace(layer.options, zero_masked=zero_masked))
            for layer in (forward, backward)
        )
        self.merge_mode: MergeMode | None = merge_mode
        self._pair: LSTMRunner | None

    @property
    def options(self) -> RecurrentOptions:
        """Those of the forward layer."""
        return self.forward.options

    def one_stack(self) -> LSTMCells | None:
        """Return both layers as the two directions of one LSTM, if that is what they are."""
        pair = [layer.recurrence for layer in (self.forward, self.backward)]
        cells = [part.cells[0] for part in pair if isinstance(part, LSTMCells) and len(part.cells) == 1]
        fits = len({(cell.hidden_size, cell.output_size) for cell in cells}) == 1 and len(cells) == 2
        if not fits or self.options.go_backwards or self.backward.options.zeroed_by_other_end:
            return None
        return LSTMCells(cells, bidirectional=True)

    def weights(self) -> dict[str, Array]:
        layers = {"forward": self.forward, "backward": self.backward}
        return {f"{place}_{name}": array for place, layer in layers.items() for name, array in layer.weights().items()}

    def memory_bytes(self) -> int:
        if self.numerics is not None and self._pair is not None:
            return super().memory_bytes() + self._pair.memory_bytes
        return self.forward.memory_bytes() + self.backward.memory_bytes()

    def _prepare(self, numerics: Numerics) -> None:
        stack = self.one_stack()
        self._pair = None if stack is None else stack.prepare(numerics)
        if stack is None:
            self.forward, self.backward = self.forward.prepare(numerics), self.backward.prepare(numerics)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        options, cells = self.options, (self.forward.recurrence, self.backward.recurrence)
        state_sizes = [size for cell in cells for size in cell.state_sizes]
        batch, time, _ = self.sequence_shape(shapes, cells[0].input_size, state_sizes, self.time_major)
        lead = options.sequence_shape(batch, time)
        sizes = [cell.output_size for cell in cells]
        if self.merge_mode is not None:
            sizes = [sum(sizes)] if self.merge_mode == "concat" else sizes[:1]
        states: list[Shape] = [(batch, size) for size in state_sizes] if options.return_state else []
        return (*((*lead, size) for size in sizes), *states)

    @property
    def time_major(self) -> bool:
        return self.options.time_major

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        return time_first(self._call, inputs, context) if self.time_major else self._call(inputs, context)

    def _call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        (x, mask), options = inputs[0], self.options
        initial = tuple(tensor.values for tensor in inputs[1:])
        merged, states = self._outputs(x, initial, options.mask_for(mask, initial, context), context)
        output_mask = mask if options.return_sequences else None
        outputs = [Tensor(np.ascontiguousarray(values), output_mask) for values in merged]
        return (*outputs, *map(Tensor, states)) if options.return_state else tuple(outputs)

    def _outputs(
        self, x: Array, initial: States, mask: Mask | None, context: Context
    ) -> tuple[Sequence[Array], States]:
        """Return the merged output, or both, and the states of both."""
        options = self.options
        if self._pair is not None:
            both, states = run_masked(
                self._pair,
                x,
                initial,
                mask,
                context,
                zero_masked=options.zero_masked,
                sequences=options.return_sequences,
            )
            if self.merge_mode == "concat":
                return [both], states
            size = self.forward.recurrence.output_size
            sides = [both[..., :size], both[..., size:]]
        else:
            half = len(self.forward.recurrence.state_sizes) if initial else 0
            y, states = self.forward.run(x, initial[:half], mask, context)
            back_y, back_states = self.backward.run(x, initial[half:], mask, context)
            sides, states = [y, back_y], states + back_states
            if options.go_backwards and options.return_sequences:
                sides = [flipped(side) for side in sides]
        with np.errstate(all="ignore"):
            combined = merge(sides[0], sides[1], self.merge_mode)
        return ([combined] if isinstance(combined, np.ndarray) else combined), states

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        raise UnsupportedModelError("its backward half begins at the end of the sequence")


def _with_options(layer: RecurrentLayer, options: RecurrentOptions) -> RecurrentLayer:
    changed = copy.copy(layer)
    changed.options = options
    return changed
