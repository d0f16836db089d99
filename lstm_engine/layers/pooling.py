"""Pooling over windows of time, and over all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lstm_engine.errors import FormatError, UnsupportedModelError

from .base import Array, Context, Layer, Shape, Tensor
from .windows import Windows

__all__ = ["AveragePooling1D", "GlobalAveragePooling1D", "GlobalMaxPooling1D", "MaxPooling1D"]


class _GlobalPooling(Layer):
    """Pooling of (batch, time, features) into (batch, features).

    Parameters
    ----------
    channels_first
        Whether the input is (batch, features, time).
    keep_axis
        Whether the time axis stays, with size 1.
    name
        The layer's name; a model gives it one if None.
    """

    def __init__(self, *, channels_first: bool = False, keep_axis: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        self.channels_first, self.keep_axis = channels_first, keep_axis

    @property
    def _time_axis(self) -> int:
        return 2 if self.channels_first else 1

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = list(shapes[0])
        if len(shape) != 3:
            raise FormatError(f"expected an input of rank 3, found shape {shapes[0]}")
        shape[self._time_axis : self._time_axis + 1] = [1] if self.keep_axis else []
        return (tuple(shape),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        pooled = self._pool(inputs[0])
        return (Tensor(np.expand_dims(pooled, self._time_axis) if self.keep_axis else pooled),)

    def _pool(self, tensor: Tensor) -> Array:
        """Return (batch, features)."""
        raise NotImplementedError

    def _steps(self, values: Array) -> list[Array]:
        # One step at a time, rising: the order of additions is then ours and never depends on the batch.
        return [values.take(step, axis=self._time_axis) for step in range(values.shape[self._time_axis])]

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.channels_first:
            raise UnsupportedModelError(f"a {self.kind} layer over the feature axis is not supported in a stream")
        return super().stream(shapes)


class GlobalAveragePooling1D(_GlobalPooling):
    """Mean over the steps that count. Without any, 0 / 0 is NaN, as in the framework."""

    kind = "GlobalAveragePooling1D"
    uses_mask: ClassVar[bool] = True

    def _pool(self, tensor: Tensor) -> Array:
        values, mask = tensor
        batch, features = values.shape[0], values.shape[3 - self._time_axis]
        total = np.zeros((batch, features), dtype=np.float64)
        for place, step in enumerate(self._steps(values)):
            total += step if mask is None else np.where(mask[:, place, None], step, np.zeros((), step.dtype))
        count = values.shape[self._time_axis] if mask is None else mask.sum(axis=1, dtype=np.int64)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((total / count).astype(values.dtype))


class GlobalMaxPooling1D(_GlobalPooling):
    """Maximum over all steps; a mask is not looked at, as in the framework. Without any step, -infinity."""

    kind = "GlobalMaxPooling1D"

    def _pool(self, tensor: Tensor) -> Array:
        values = tensor.values
        batch, features = values.shape[0], values.shape[3 - self._time_axis]
        greatest = np.full((batch, features), -np.inf, dtype=values.dtype)
        for step in self._steps(values):
            np.maximum(greatest, step, out=greatest)
        return greatest


class _WindowPooling(Layer):
    """Pooling of each window of steps into one; a mask ends here, as in the framework.

    Parameters
    ----------
    windows
        Where the windows lie. Their padding counts for nothing.
    name
        The layer's name; a model gives it one if None.
    """

    def __init__(self, windows: Windows, *, name: str | None = None) -> None:
        super().__init__(name)
        self.windows = windows

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        channels = shapes[0][1 if self.windows.channels_first else -1]
        return (self.windows.output_shape(shapes[0], channels),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        return (Tensor(self.windows.outwards(self._pool(self.windows.inwards(inputs[0].values)))),)

    def _pool(self, values: Array) -> Array:
        """Return (batch, windows, channels) of (batch, time, channels)."""
        raise NotImplementedError


class MaxPooling1D(_WindowPooling):
    """The maximum of each window."""

    kind = "MaxPooling1D"

    def _pool(self, values: Array) -> Array:
        first, *rest = self.windows.of(values, -np.inf, self.name)
        greatest = first.copy()
        for tap in rest:
            np.maximum(greatest, tap, out=greatest)
        return greatest


class AveragePooling1D(_WindowPooling):
    """The mean of the steps that each window has, padding not counted."""

    kind = "AveragePooling1D"

    def _pool(self, values: Array) -> Array:
        taps = self.windows.of(values, 0.0, self.name)
        total = np.zeros(taps[0].shape, dtype=np.float64)
        for tap in taps:
            total += tap
        counted = self.windows.of(np.ones((1, values.shape[1], 1)), 0.0, self.name)
        return np.asarray((total / sum(counted)).astype(values.dtype))
