"""What a stream carries for a layer: tuples of arrays with a name each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

__all__ = ["ConvolutionState", "HiddenState", "LSTMState", "LastStepState", "named_state", "part_names"]


class LSTMState(NamedTuple):
    """Of an LSTM: hidden state (layers, [batch,] output size) and cell state (layers, [batch,] hidden size)."""

    h: NDArray[Any]
    c: NDArray[Any]


class HiddenState(NamedTuple):
    """Of a GRU or a simple recurrent layer: (1, [batch,] units)."""

    h: NDArray[Any]


class ConvolutionState(NamedTuple):
    """Of a causal convolution: the inputs that later steps still look at, (steps, [batch,] channels)."""

    past: NDArray[Any]


class LastStepState(NamedTuple):
    """Of LastStep: the last real step so far, (1, [batch,] features)."""

    last: NDArray[Any]


def named_state(names: tuple[str, ...], arrays: Sequence[NDArray[Any]]) -> tuple[Any, ...]:
    """Return the arrays of a layer's state as the tuple that has these names; a plain one if there is none."""
    for kind in (LSTMState, HiddenState, ConvolutionState, LastStepState):
        if kind._fields == names:
            return kind(*arrays)
    return tuple(arrays)


def part_names(names: tuple[str, ...], count: int) -> list[str]:
    """Return a name for each of ``count`` arrays of a state: those that it has, or numbers."""
    return list(names) if names else [str(place) for place in range(count)]
