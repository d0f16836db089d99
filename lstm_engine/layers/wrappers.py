"""TimeDistributed: a layer applied to every step on its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lstm_engine.errors import FormatError, UnsupportedModelError

from .base import Array, Context, Layer, Mask, Shape, State, Tensor
from .numerics import Numerics

__all__ = ["TimeDistributed"]


class TimeDistributed(Layer):
    """A layer applied to every step of (batch, time, ...), as if each step were a row.

    Parameters
    ----------
    layer
        The wrapped layer, with one output.
    keeps_mask
        Whether the mask goes out as it came in, as in Keras 3; else the wrapped layer has a say, as before.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "TimeDistributed"
    _prepared: ClassVar[tuple[str, ...]] = ()

    def __init__(self, layer: Layer, *, keeps_mask: bool = True, name: str | None = None) -> None:
        super().__init__(name)
        self.layer = layer
        self.keeps_mask = keeps_mask
        self.takes_indices = layer.takes_indices

    @property
    def time_major(self) -> bool:
        return self.layer.time_major  # whose time is then the rows and the steps together, as in tf-keras

    def weights(self) -> dict[str, Array]:
        return self.layer.weights()

    def memory_bytes(self) -> int:
        return self.layer.memory_bytes()

    def _prepare(self, numerics: Numerics) -> None:
        self.layer = self.layer.prepare(numerics)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        batch, *rest = shapes[0]
        if not rest:
            raise FormatError(f"expected an input with a time axis, found shape {shapes[0]}")
        inner = self.layer.output_shapes([(batch, *rest[1:])])
        if len(inner) != 1:
            raise UnsupportedModelError(f"a TimeDistributed layer with {len(inner)} outputs is not supported")
        return ((batch, rest[0], *inner[0][1:]),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        values, mask = inputs[0]
        batch, time = values.shape[:2]
        # A mask of (batch, time) says nothing about the inside of a step.
        inner_mask = None if mask is None or mask.ndim < 3 else self._merged(mask)
        # A stream is one of steps, and the wrapped layer sees one step alone: a context of its own.
        ((y, y_mask),) = self.layer.call([Tensor(self._merged(values), inner_mask)], Context())
        output = Tensor(np.ascontiguousarray(y).reshape(batch, time, *y.shape[1:]))
        if self.keeps_mask:
            return (output._replace(mask=mask),)
        if y_mask is not None:
            return (output._replace(mask=y_mask.reshape(batch, time, *y_mask.shape[1:])),)
        return (output._replace(mask=None if mask is None else self._any(mask)),)

    @staticmethod
    def _merged(array: Any) -> Any:
        """Return (batch, time, ...) as (batch * time, ...)."""
        return array.reshape(math.prod(array.shape[:2]), *array.shape[2:])

    @staticmethod
    def _any(mask: Mask) -> Mask:
        """Reduce a mask to (batch, time)."""
        return np.asarray(mask.any(axis=tuple(range(2, mask.ndim))))

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.time_major:
            raise UnsupportedModelError("time_major=True of its layer takes the batch and the steps for time")
        return (True,)

    def initial_state(self, batch: int, shapes: Sequence[Shape]) -> State:
        return ()
