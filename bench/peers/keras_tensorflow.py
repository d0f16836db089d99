"""Keras on TensorFlow, as one who has trained the model there would go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.cells import Cell
from bench.contender import Array, Contender, Outputs

from .tensorflow_threads import tensorflow

__all__ = ["contenders"]


def contenders(cell: Cell) -> tuple[type[Contender], ...] | str:
    """Return the ways that are worth timing on a cell, or why there is none."""
    if cell.compute_type != "float32":
        return "float32 only"
    if cell.dense or cell.cold:
        return "timed on plain cells only"
    return (KerasPredict, KerasFunction)


class _Keras(Contender):
    engine = "keras"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self._tf = tensorflow(cell.threads)
        import keras

        inputs = keras.Input(batch_shape=(cell.batch, cell.time, cell.features))
        mask = keras.Input(batch_shape=(cell.batch, cell.time), dtype="bool") if cell.ragged else None
        y, layers = inputs, []
        for _ in range(cell.layers):
            layer = keras.layers.LSTM(
                cell.hidden, return_sequences=True, stateful=cell.streaming, zero_output_for_mask=cell.ragged
            )
            layers.append(keras.layers.Bidirectional(layer) if cell.bidirectional else layer)
            y = layers[-1](y) if mask is None else layers[-1](y, mask=mask)
        self._model: Any = keras.Model(inputs if mask is None else [inputs, mask], y)
        for layer, cells in zip(layers, cell.weights().cells, strict=True):
            layer.set_weights([array for own in cells for array in (own.kernel, own.recurrent_kernel, own.bias)])
        self._layers = layers
        self._x = np.zeros((cell.batch, cell.time, cell.features), np.float32)
        lengths = cell.lengths()
        self._mask = None if lengths is None else np.arange(cell.time) < lengths[:, None]

    def reset(self) -> None:
        if self.cell.streaming:
            for layer in self._layers:
                layer.reset_states()


class KerasPredict(_Keras):
    """``model.predict_on_batch``."""

    variant = "predict_on_batch"

    @property
    def statement(self) -> str:
        return "call(x)"

    @property
    def names(self) -> Mapping[str, object]:
        return {"call": self._model.predict_on_batch, "x": self._given}

    @property
    def _given(self) -> Any:
        return self._x if self._mask is None else [self._x, self._mask]

    def feed(self, x: Array) -> None:
        self._x[...] = x

    def advance(self) -> Outputs:
        return Outputs(np.array(self._model.predict_on_batch(self._given)))


class KerasFunction(_Keras):
    """The model's call inside a ``tf.function``, on tensors."""

    variant = "tf.function"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        model = self._model
        self._call = self._tf.function(lambda given: model(given, training=False))
        self.feed(self._x)

    @property
    def statement(self) -> str:
        return "call(x)"

    @property
    def names(self) -> Mapping[str, object]:
        return {"call": self._call, "x": self._given}

    def feed(self, x: Array) -> None:
        x = self._tf.constant(x)
        self._given = x if self._mask is None else [x, self._tf.constant(self._mask)]

    def advance(self) -> Outputs:
        return Outputs(np.array(self._call(self._given)))
