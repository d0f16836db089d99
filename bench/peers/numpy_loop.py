"""NumPy: no engine at all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bench.cells import Cell
from bench.contender import Array, Contender, Outputs

__all__ = ["contenders"]


def contenders(cell: Cell) -> tuple[type[Contender], ...] | str:
    """Return the loop for small plain cells, or why there is none."""
    plain = (cell.batch, cell.layers, cell.directions, cell.dense, cell.cold) == (1, 1, 1, 0, False)
    if plain and cell.hidden <= 64 and cell.compute_type == "float32":
        return (NumPy,)
    return "timed on small plain cells only"


class NumPy(Contender):
    """What a careful person writes without an engine: the gates in one product, float32, one row at a time."""

    engine = "numpy"
    variant = "loop"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        ((own,),) = cell.weights().cells
        self._kernel, self._recurrent, self._bias = own.kernel, own.recurrent_kernel, own.bias
        self._x = np.zeros((cell.time, cell.features), np.float32)
        self.reset()

    @property
    def statement(self) -> str:
        return "call()"

    @property
    def names(self) -> Mapping[str, object]:
        return {"call": self._call}

    def feed(self, x: Array) -> None:
        self._x[...] = x[0]

    def reset(self) -> None:
        self._h = np.zeros(self.cell.hidden, np.float32)
        self._c = np.zeros(self.cell.hidden, np.float32)

    def _call(self) -> Array:
        units = self.cell.hidden
        if self.cell.time > 1:
            self.reset()
        h, c, recurrent = self._h, self._c, self._recurrent
        projected = self._x @ self._kernel + self._bias
        y = np.empty((self.cell.time, units), np.float32)
        for step in range(self.cell.time):
            z = projected[step] + h @ recurrent
            gates = 1.0 / (1.0 + np.exp(-z))
            # The sigmoid of the candidate's quarter is computed in vain; one call for all four is still faster.
            candidate = np.tanh(z[2 * units : 3 * units])
            c = gates[units : 2 * units] * c + gates[:units] * candidate
            h = gates[3 * units :] * np.tanh(c)
            y[step] = h
        self._h, self._c = h, c
        return y

    def advance(self) -> Outputs:
        y = self._call()
        return Outputs(y[None].copy(), self._h[None, None].copy(), self._c[None, None].copy())
