"""PyTorch's GRU and RNN as layers: stacks of cells in one direction or two, over the plain loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lstm_engine.activations import Activation
from lstm_engine.errors import UnsupportedModelError
from lstm_engine.formats.limits import Limits, reading

from .base import Array, Mask, Shape
from .gru import GRUCell
from .numerics import Numerics
from .recurrence import Chain, Recurrence, Runner, States
from .recurrent import RecurrentLayer, RecurrentOptions
from .simple_rnn import SimpleCell

__all__ = ["GRU", "RNN", "BothDirections"]


class BothDirections(Recurrence):
    """Two recurrences over one sequence, the second with time running backward, their outputs side by side.

    Parameters
    ----------
    forward, backward
        The two.
    """

    def __init__(self, forward: Recurrence, backward: Recurrence) -> None:
        self.sides = (forward, backward)
        self.input_size = forward.input_size
        self.output_size = forward.output_size + backward.output_size
        self.state_sizes = (*forward.state_sizes, *backward.state_sizes)

    def arrays(self) -> dict[str, Array]:
        ends = ("", "_reverse")
        return {
            f"{name}{end}": array
            for side, end in zip(self.sides, ends, strict=True)
            for name, array in side.arrays().items()
        }

    def prepare(self, numerics: Numerics, *, reverse: bool = False) -> Runner:
        forward, backward = self.sides
        pair = (forward.prepare(numerics, reverse=reverse), backward.prepare(numerics, reverse=not reverse))
        return _BothRunner(pair, len(forward.state_sizes))


class _BothRunner:
    def __init__(self, sides: tuple[Runner, Runner], states: int) -> None:
        self._sides, self._states = sides, states
        self.memory_bytes = sides[0].memory_bytes + sides[1].memory_bytes

    def run(
        self,
        x: Array,
        states: States = (),
        *,
        lengths: NDArray[np.int64] | None = None,
        mask: Mask | None = None,
        zero_masked: bool = False,
        sequences: bool = True,
    ) -> tuple[Array, States]:
        parts = (states[: self._states], states[self._states :])
        outputs = [
            side.run(x, part, lengths=lengths, mask=mask, zero_masked=zero_masked, sequences=sequences)
            for side, part in zip(self._sides, parts, strict=True)
        ]
        (y, after), (back_y, back_after) = outputs
        return np.concatenate([y, back_y], axis=-1), after + back_after


class _Stack(RecurrentLayer):
    """What the two share: every step of the last layer goes on, or its final hidden state."""

    def __init__(
        self, cells: Sequence[Sequence[Recurrence]], *, return_sequences: bool = True, name: str | None = None
    ) -> None:
        layers = [BothDirections(*pair) if len(pair) == 2 else pair[0] for pair in cells]
        super().__init__(
            layers[0] if len(layers) == 1 else Chain(layers),
            RecurrentOptions(return_sequences=return_sequences),
            kind=type(self).__name__,
            name=name,
        )
        self.num_directions = len(cells[0])
        self.cells, self.return_sequences = tuple(tuple(pair) for pair in cells), return_sequences

    @classmethod
    def _of(
        cls,
        make: Callable[[dict[str, Array]], Recurrence],
        source: Any,
        prefix: str | None,
        return_sequences: bool,
        limits: Limits | None,
        allow_nonfinite: bool,
    ) -> Self:
        from lstm_engine.formats.torch_recurrent import recurrent_weights_from_torch

        with reading(limits, allow_nonfinite):
            weights = recurrent_weights_from_torch(source, cls.__name__, prefix)
            cells = [[make(arrays) for arrays in directions] for directions in weights]
            return cls(cells, return_sequences=return_sequences, name=(prefix or "").rpartition(".")[2] or None)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.num_directions == 2:
            raise UnsupportedModelError("its reverse direction begins at the end of the sequence")
        return super().stream(shapes)


class GRU(_Stack):
    """A stack of gated recurrent units, as ``torch.nn.GRU``: made by :meth:`from_torch`.

    Parameters
    ----------
    cells
        For each layer its :class:`~lstm_engine.layers.gru.GRUCell`, or two, forward and reverse.
    return_sequences
        Whether every step of the last layer goes on, (batch, time, directions * hidden size); or its final hidden
        state, (batch, directions * hidden size).
    name
        The layer's name; a model gives it one if None.
    """

    @classmethod
    def from_torch(
        cls,
        source: Any,
        prefix: str | None = None,
        *,
        return_sequences: bool = True,
        limits: Limits | None = None,
        allow_nonfinite: bool = False,
    ) -> GRU:
        """Return the layer of a ``torch.nn.GRU`` or ``torch.nn.GRUCell``.

        Parameters
        ----------
        source
            Path of a ``.pt`` or ``.safetensors`` file, a state dict, or the module itself.
        prefix
            Name of the layer in the state dict, such as ``"gru"``; None if there is only one.
        return_sequences
            As in :class:`GRU`.
        limits, allow_nonfinite
            As in :func:`lstm_engine.load`.
        """

        def cell(arrays: dict[str, Array]) -> GRUCell:
            # PyTorch has the gates in the order reset, update, new.
            def ordered(array: Array | None) -> Array | None:
                if array is None:
                    return None
                reset, update, new = np.split(array, 3, axis=-1)
                return np.concatenate([update, reset, new], axis=-1)

            kernel, recurrent = ordered(arrays["weight_ih"]), ordered(arrays["weight_hh"])
            assert kernel is not None
            assert recurrent is not None
            return GRUCell(kernel, recurrent, ordered(arrays.get("bias_ih")), ordered(arrays.get("bias_hh")))

        return cls._of(cell, source, prefix, return_sequences, limits, allow_nonfinite)


class RNN(_Stack):
    """A stack of simple recurrent cells, as ``torch.nn.RNN``: made by :meth:`from_torch`.

    Parameters
    ----------
    cells
        For each layer its :class:`~lstm_engine.layers.simple_rnn.SimpleCell`, or two, forward and reverse.
    return_sequences, name
        As in :class:`GRU`.
    """

    @classmethod
    def from_torch(
        cls,
        source: Any,
        prefix: str | None = None,
        *,
        nonlinearity: str | None = None,
        return_sequences: bool = True,
        limits: Limits | None = None,
        allow_nonfinite: bool = False,
    ) -> RNN:
        """Return the layer of a ``torch.nn.RNN`` or ``torch.nn.RNNCell``.

        Parameters
        ----------
        source, prefix, return_sequences, limits, allow_nonfinite
            As of :meth:`GRU.from_torch`.
        nonlinearity
            ``"tanh"`` or ``"relu"``, as it was given to the module: a state dict does not have it. If None, that of a
            live module, else PyTorch's default, tanh.
        """
        chosen = nonlinearity or getattr(source, "nonlinearity", "tanh")
        if chosen not in ("tanh", "relu"):
            raise UnsupportedModelError(f"nonlinearity: expected 'tanh' or 'relu', found {chosen!r:.60}")

        def cell(arrays: dict[str, Array]) -> SimpleCell:
            biases = [arrays[name].astype(np.float64) for name in ("bias_ih", "bias_hh") if name in arrays]
            bias = None if not biases else sum(biases[1:], start=biases[0]).astype(arrays["bias_ih"].dtype)
            return SimpleCell(arrays["weight_ih"], arrays["weight_hh"], bias, activation=Activation(chosen))

        return cls._of(cell, source, prefix, return_sequences, limits, allow_nonfinite)
