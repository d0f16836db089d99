"""What a recurrent layer runs over time: the contract that LSTM, GRU and simple cells share, and the plain loop.

A :class:`Recurrence` holds the weights of a cell; :meth:`Recurrence.prepare` gives the :class:`Runner` that computes in
one compute type and one direction. A runner is a plain function over arrays that knows nothing of models: the layers
of Keras models and the operators of ONNX graphs call the same one. ::

    gru = GRUCell(kernel, recurrent_kernel, bias)
    y, (h,) = gru.prepare(Numerics("float32"), reverse=True).run(x, (h0,), lengths=lengths)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lstm_engine.activations import Activation
from lstm_engine.arrays import Axes, as_float_array
from lstm_engine.errors import ShapeError

from .base import Array, Mask, frozen_copy
from .functions import LayerActivation
from .numerics import LinearMap, Numerics

__all__ = ["Chain", "Recurrence", "Runner", "States", "StepRunner", "activated", "cell_weight"]

#: The state of a recurrence: (batch, size) for each entry of its ``state_sizes``.
States = tuple[Array, ...]


class Runner(Protocol):
    """A recurrence that computes in one compute type and one direction; shared by any number of threads."""

    @property
    def memory_bytes(self) -> int:
        """Bytes that the packed weights take."""

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
        """Run a batch of sequences.

        Parameters
        ----------
        x
            (batch, time, features), C-contiguous, of the compute type.
        states
            The states before the first step, of the compute type; () for zero.
        lengths
            (batch,) from 0 to time: steps past them give zeros and leave the state alone (PyTorch, ONNX). None where
            all steps count.
        mask
            (batch, time), True where a step counts: others leave the state alone and repeat the previous output,
            zero before the first one (Keras). Not together with ``lengths``.
        zero_masked
            Whether masked steps give zeros instead.
        sequences
            Whether y has every step or only the last one computed.

        Returns
        -------
        y, states
            y (batch, time, output_size), aligned with time in either direction, or (batch, output_size); the states
            after the last step.
        """


class Recurrence(ABC):
    """Weights of a cell that is run over time, or of several behind one another; immutable."""

    input_size: int
    output_size: int
    #: Sizes of the states, in the framework's order.
    state_sizes: tuple[int, ...]
    #: Place of the state that is also the output of a step.
    output_state: int = 0

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """Return the weights by name."""

    @abstractmethod
    def prepare(self, numerics: Numerics, *, reverse: bool = False) -> Runner:
        """Return what computes with ``numerics``; time runs backward if ``reverse``."""


class Chain(Recurrence):
    """Recurrences behind one another, each fed with the outputs of the one before: a stack.

    Parameters
    ----------
    parts
        At least one.

    Raises
    ------
    ShapeError
        If one does not take what the one before it gives.
    """

    def __init__(self, parts: Sequence[Recurrence]) -> None:
        self.parts = tuple(parts)
        for place in range(1, len(parts)):
            found, wanted = parts[place].input_size, parts[place - 1].output_size
            if found != wanted:
                raise ShapeError(
                    f"cell {place}: expected a kernel that takes the {wanted} outputs of the cell before it, found "
                    f"one for {found} features"
                )
        self.input_size, self.output_size = self.parts[0].input_size, self.parts[-1].output_size
        self.state_sizes = tuple(size for part in self.parts for size in part.state_sizes)
        self.output_state = len(self.state_sizes) - len(self.parts[-1].state_sizes) + self.parts[-1].output_state

    def arrays(self) -> dict[str, Array]:
        return {
            f"{place}_{name}": array for place, part in enumerate(self.parts) for name, array in part.arrays().items()
        }

    def prepare(self, numerics: Numerics, *, reverse: bool = False) -> Runner:
        return _ChainRunner(
            [part.prepare(numerics, reverse=reverse) for part in self.parts],
            [len(part.state_sizes) for part in self.parts],
        )


class _ChainRunner:
    def __init__(self, runners: Sequence[Runner], counts: Sequence[int]) -> None:
        self._runners, self._counts = tuple(runners), tuple(counts)
        self.memory_bytes = sum(runner.memory_bytes for runner in runners)

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
        after: States = ()
        for place, (runner, count) in enumerate(zip(self._runners, self._counts, strict=True)):
            # What masked steps give does not matter before the last one: the next one skips the same steps.
            last = place == len(self._runners) - 1
            own, states = states[:count], states[count:]
            x, own = runner.run(
                x, own, lengths=lengths, mask=mask, zero_masked=zero_masked and last, sequences=sequences or not last
            )
            after += own
        return x, after


class StepRunner(ABC):
    """A runner of a cell whose output is its one state: a loop over the steps in NumPy.

    Parameters
    ----------
    input_map
        What the input contributes to a step: (..., features) -> (..., n).
    recurrent_maps
        The other products of the cell, for :attr:`memory_bytes`.
    units
        Size of the state.
    reverse
        Whether time runs backward.
    """

    def __init__(self, input_map: LinearMap, recurrent_maps: Sequence[LinearMap], units: int, reverse: bool) -> None:
        self._input_map, self._units, self._reverse = input_map, units, reverse
        self.memory_bytes = input_map.memory_bytes + sum(part.memory_bytes for part in recurrent_maps)

    @abstractmethod
    def step(self, projected: Array, h: Array) -> Array:
        """Return the new state, (batch, units), for the input's contribution, (batch, n), and the state before."""

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
        batch, time, _ = x.shape
        if lengths is not None:
            mask, zero_masked = np.arange(time) < lengths[:, None], sequences
        zeros = output = np.zeros((batch, self._units), x.dtype)
        h = states[0] if states else zeros
        y = np.empty((batch, time if sequences else 0, self._units), x.dtype)
        with np.errstate(all="ignore"):
            # One product for the inputs of all steps; time first, so that a step is contiguous.
            projected = self._input_map(np.ascontiguousarray(x.swapaxes(0, 1)))
            for now in reversed(range(time)) if self._reverse else range(time):
                new = self.step(projected[now], h)
                if mask is None:
                    h = output = new
                else:
                    counts = mask[:, now, None]
                    output = np.where(counts, new, zeros if zero_masked else output)
                    h = np.where(counts, new, h)
                if sequences:
                    y[:, now] = output
        return (y if sequences else output), (h,)


def cell_weight(value: ArrayLike, name: str, axes: Axes) -> Array:
    """Return a frozen copy of a cell's weight, in float64 if it came so, else in float32.

    Raises
    ------
    ShapeError
        If it has another shape than ``axes``, or is no array of real numbers.
    """
    given = np.asarray(value)
    dtype = np.dtype(np.float64 if given.dtype == np.float64 else np.float32)
    return frozen_copy(as_float_array(given, name, axes, dtype))


def activated(activation: LayerActivation, sums: Array, clip: float | None, numerics: Numerics) -> Array:
    """Return the activation of ``sums``, (..., units), C-contiguous; bounded before by ``clip`` if that is given."""
    if clip is not None:
        sums = np.clip(sums, sums.dtype.type(-clip), sums.dtype.type(clip))
    if activation is None:
        return sums
    if isinstance(activation, Activation):
        return numerics.activate(sums, activation)
    return activation(sums, numerics)
