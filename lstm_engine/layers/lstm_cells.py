"""LSTM cells as a recurrence: the packed core over one cell, a stack of them, or two directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lstm_engine.lstm import LSTM
from lstm_engine.weights import CellWeights, LSTMWeights

from .base import Array, Mask
from .numerics import Numerics
from .recurrence import Chain, Recurrence, States

__all__ = ["LSTMCells", "LSTMRunner", "chained", "stacked", "unstacked"]


class LSTMCells(Recurrence):
    """LSTM cells of one size, each fed with the outputs of the one before; the states are h and c of each in turn.

    Parameters
    ----------
    cells
        At least one; from the second on they take as many features as a cell has outputs.
    bidirectional
        Whether there are two cells, which are fed with the same input instead, the second one with time running
        backward; their outputs stand side by side.

    Raises
    ------
    ShapeError
        If the cells do not fit together.
    """

    def __init__(self, cells: Sequence[CellWeights], *, bidirectional: bool = False) -> None:
        self.cells, self.bidirectional = tuple(cells), bidirectional
        weights = self.stack()
        self.input_size, self.output_size = weights.input_size, weights.num_directions * weights.output_size
        self.state_sizes = tuple(size for cell in cells for size in (cell.output_size, cell.hidden_size))
        self.output_state = len(self.state_sizes) - 2

    def stack(self, *, reverse: bool = False) -> LSTMWeights:
        """Return the cells as an LSTM's weights; time runs backward if ``reverse``."""
        if self.bidirectional:
            return LSTMWeights((self.cells,), "bidirectional")
        return LSTMWeights(tuple((cell,) for cell in self.cells), "reverse" if reverse else "forward")

    def arrays(self) -> dict[str, Array]:
        if len(self.cells) == 1:
            return self.cells[0].arrays()
        arrays = [cell.arrays() for cell in self.cells]
        return {f"{place}_{name}": array for place, part in enumerate(arrays) for name, array in part.items()}

    def prepare(self, numerics: Numerics, *, reverse: bool = False) -> LSTMRunner:
        return LSTMRunner(numerics.lstm(self.stack(reverse=reverse)))


class LSTMRunner:
    """A packed LSTM as a runner.

    Parameters
    ----------
    lstm
        The LSTM; its mask and merge options are not looked at.
    """

    def __init__(self, lstm: LSTM) -> None:
        self.lstm = lstm

    @property
    def memory_bytes(self) -> int:
        """Bytes that the packed weights take."""
        return self.lstm.memory_bytes()

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
        """Run a batch of sequences: see :meth:`Runner.run`."""
        h, c = stacked(states) if states else (None, None)
        y, h, c = self.lstm.core.run(x, h, c, lengths=lengths, mask=mask, zero_masked=zero_masked, sequences=sequences)
        return y, unstacked((h, c))


def stacked(states: States) -> tuple[Array, Array]:
    """Return h and c, (cells, batch, size), of the states h0, c0, h1, c1, ..."""
    return np.stack(states[::2]), np.stack(states[1::2])


def unstacked(state: tuple[Array, ...]) -> States:
    """Return the states h0, c0, h1, c1, ... of (h, c)."""
    return tuple(array for pair in zip(*state, strict=True) for array in pair)


def chained(parts: Sequence[Recurrence]) -> Recurrence:
    """Return recurrences behind one another; LSTM cells of one size that follow each other become a stack."""
    joined: list[Recurrence] = []
    for part in parts:
        last = joined[-1] if joined else None
        if (
            isinstance(part, LSTMCells)
            and isinstance(last, LSTMCells)
            and part.state_sizes[:2] == last.state_sizes[-2:]
        ):
            joined[-1] = LSTMCells(last.cells + part.cells)
        else:
            joined.append(part)
    return joined[0] if len(joined) == 1 else Chain(joined)
