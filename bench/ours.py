"""lstm_engine as a contender: streams for single steps, whole calls for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np

import lstm_engine as le

from .cells import Cell
from .contender import Array, Contender, Outputs

__all__ = ["Blas", "Fused", "OneThread", "Padded", "contenders"]


def contenders(cell: Cell) -> tuple[type[Contender], ...]:
    """Return our ways to run a cell: our kernels, and what a cell's own question is compared with."""
    kinds: list[type[Contender]] = [Fused]
    if cell.compute_type == "float32" and cell.threads == 1 and not cell.cold:
        kinds.append(Blas)
    if cell.ragged:
        kinds.append(Padded)
    if cell.threads > 1:
        kinds.append(OneThread)
    return tuple(kinds)


class _Ours(Contender):
    backend: ClassVar[Literal["fused", "blas"]] = "fused"
    variant = "Stream.step, LSTM"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        options: dict[str, Any] = {"backend": self.backend, "compute_type": cell.compute_type}
        self._lstm = le.LSTM(cell.weights(), num_threads=self._threads(), **options)
        self._stream: Any = None
        if cell.dense:
            kernel, bias = cell.dense_weights()
            self._stream = le.Sequential([self._lstm, le.Dense(kernel, bias)], backend=self.backend).stream()
        elif cell.streaming:
            self._stream = self._lstm.stream()
        if cell.streaming:
            self._x = np.zeros(cell.features, np.float32)
            self._out = np.zeros(cell.output_size, np.float32)
        else:
            self._x = np.zeros((cell.batch, cell.time, cell.features), np.float32)
            self._out = np.zeros((cell.batch, cell.time, cell.output_size), np.float32)
        self._lengths = self._given_lengths()

    def _threads(self) -> int:
        return self.cell.threads

    def _given_lengths(self) -> Any:
        return self.cell.lengths()

    @property
    def statement(self) -> str:
        return "call(x, out=o)" if self._lengths is None else "call(x, lengths=lengths, out=o)"

    @property
    def names(self) -> Mapping[str, object]:
        call = self._lstm if self._stream is None else self._stream.step
        return {"call": call, "x": self._x, "o": self._out, "lengths": self._lengths}

    def feed(self, x: Array) -> None:
        self._x[...] = x.reshape(self._x.shape)

    def reset(self) -> None:
        if self._stream is not None:
            self._stream.reset()

    def advance(self) -> Outputs:
        cell = self.cell
        if self._stream is None:
            y, (h, c) = self._lstm(self._x, lengths=self._lengths, out=self._out)
        else:
            y = self._stream.step(self._x, out=self._out)
            if cell.dense:
                return Outputs(np.array(y).reshape(cell.batch, cell.time, -1))
            h, c = self._stream.state
        state = (cell.layers * cell.directions, cell.batch, cell.hidden)
        return Outputs(
            np.array(y).reshape(cell.batch, cell.time, -1), np.array(h).reshape(state), np.array(c).reshape(state)
        )


class Fused(_Ours):
    """Our own kernels."""

    engine = "ours fused"


class Blas(_Ours):
    """Matrix products by SciPy's BLAS."""

    engine = "ours blas"
    backend = "blas"


class OneThread(_Ours):
    """Our own kernels on one of the threads that the cell has."""

    engine = "ours one thread"

    def _threads(self) -> int:
        return 1


class Padded(_Ours):
    """Our own kernels without knowing the lengths, so that all padding is computed."""

    engine = "ours padded"

    def __init__(self, cell: Cell) -> None:
        super().__init__(replace(cell, ragged=False))

    def _given_lengths(self) -> Any:
        return None
