"""lstm_engine as a contender: both backends, streams for single steps and whole calls for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final, Literal

import numpy as np

import lstm_engine as le

from .cells import Cell
from .contender import Array, Contender, Outputs

__all__ = ["CONTENDERS", "Blas", "Fused"]


class _Ours(Contender):
    backend: ClassVar[Literal["fused", "blas"]]
    variant = "Stream.step, LSTM"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self._lstm = le.LSTM(cell.weights(), backend=self.backend)
        outputs = cell.directions * cell.hidden
        self._stream = self._lstm.stream() if cell.group == "step" else None
        if self._stream is not None:
            self._x = np.zeros(cell.features, np.float32)
            self._out = np.zeros(outputs, np.float32)
        else:
            self._x = np.zeros((cell.batch, cell.time, cell.features), np.float32)
            self._out = np.zeros((cell.batch, cell.time, outputs), np.float32)

    @property
    def statement(self) -> str:
        return "call(x, out=o)"

    @property
    def names(self) -> Mapping[str, object]:
        call = self._lstm if self._stream is None else self._stream.step
        return {"call": call, "x": self._x, "o": self._out}

    def feed(self, x: Array) -> None:
        self._x[...] = x.reshape(self._x.shape)

    def reset(self) -> None:
        if self._stream is not None:
            self._stream.reset()

    def advance(self) -> Outputs:
        if self._stream is None:
            y, (h, c) = self._lstm(self._x, out=self._out)
        else:
            y = self._stream.step(self._x, out=self._out)
            h, c = self._stream.state
        cell = self.cell
        state = (cell.layers * cell.directions, cell.batch, cell.hidden)
        return Outputs(
            np.array(y).reshape(cell.batch, cell.time, -1), np.array(h).reshape(state), np.array(c).reshape(state)
        )


class Fused(_Ours):
    """Our own kernels."""

    engine = "ours fused"
    backend = "fused"


class Blas(_Ours):
    """Matrix products by SciPy's BLAS."""

    engine = "ours blas"
    backend = "blas"


CONTENDERS: Final[tuple[type[Contender], ...]] = (Fused, Blas)
