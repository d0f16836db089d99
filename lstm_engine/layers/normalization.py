"""Normalization: by moving statistics, by given ones, of a row by itself, and scaling by numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError

from .base import Array, Context, Pointwise, Shape, Tensor, frozen_copy
from .numerics import LinearMap, Numerics

__all__ = ["BatchNormalization", "LayerNormalization", "Normalization", "Rescaling", "UnitNormalization", "unit_norm"]


def _named(**arrays: Array | None) -> dict[str, Array]:
    return {name: array for name, array in arrays.items() if array is not None}


class BatchNormalization(Pointwise):
    """Batch normalization with its moving statistics (Ioffe and Szegedy 2015).

    ``(x - mean) * (gamma / sqrt(variance + epsilon)) + beta``

    Parameters
    ----------
    mean, variance
        Moving statistics, (features,).
    gamma, beta
        Scale and shift, (features,), or None.
    epsilon
        Added to the variance.
    axis
        The axis of the features.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "BatchNormalization"
    _prepared: ClassVar[tuple[str, ...]] = ("_mean", "_scale", "_shift")

    def __init__(
        self,
        mean: Array,
        variance: Array,
        gamma: Array | None = None,
        beta: Array | None = None,
        *,
        epsilon: float = 1e-3,
        axis: int = -1,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.mean, self.variance = frozen_copy(mean), frozen_copy(variance)
        self.gamma = None if gamma is None else frozen_copy(gamma)
        self.beta = None if beta is None else frozen_copy(beta)
        self.epsilon, self.axis = float(epsilon), int(axis)
        if np.any(self.variance.astype(np.float64) + self.epsilon <= 0.0):
            raise UnsupportedModelError("moving_variance plus epsilon: expected positive numbers, found zero or less")
        self._mean: Array
        self._scale: Array
        self._shift: Array | None

    def weights(self) -> dict[str, Array]:
        return _named(gamma=self.gamma, beta=self.beta, moving_mean=self.mean, moving_variance=self.variance)

    def _prepare(self, numerics: Numerics) -> None:
        # The scale is worked out in float64 and rounded once. x - mean comes first: folding the mean into the shift
        # would cancel where the mean is large against the deviation.
        scale = 1.0 / np.sqrt(self.variance.astype(np.float64) + self.epsilon)
        if self.gamma is not None:
            scale = scale * self.gamma.astype(np.float64)
        self._mean = frozen_copy(self.mean, numerics.dtype)
        self._scale = frozen_copy(scale, numerics.dtype)
        self._shift = None if self.beta is None else frozen_copy(self.beta, numerics.dtype)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = shapes[0]
        if not -len(shape) <= self.axis < len(shape) or self.axis % len(shape) == 0:
            raise FormatError(f"axis {self.axis} is no axis of an input of shape {shape}, the batch excluded")
        if shape[self.axis] not in (None, self.mean.shape[0]):
            raise FormatError(
                f"its weights are for {self.mean.shape[0]} features, axis {self.axis} of its input of shape {shape} "
                f"has {shape[self.axis]}"
            )
        return (shape,)

    def apply(self, values: Array) -> Array:
        trailing = values.ndim - 1 - self.axis % values.ndim
        broadcast = (-1, *[1] * trailing)
        y = values - self._mean.reshape(broadcast)
        y *= self._scale.reshape(broadcast)
        if self._shift is not None:
            y += self._shift.reshape(broadcast)
        return np.asarray(y)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.axis % len(shapes[0]) == 1:
            raise UnsupportedModelError("it normalizes each step of a sequence of fixed length by weights of its own")
        return (True,)


class LayerNormalization(Pointwise):
    """Layer normalization over one axis or several (Ba, Kiros and Hinton 2016).

    Parameters
    ----------
    gamma, beta
        Scale and shift, of the sizes of the normalized axes in rising order, or None.
    epsilon
        Added to the variance.
    axes
        The normalized axes; the batch axis is none of them.
    by_variance
        Keras's ``rms_scaling``: the mean is not taken off, ``x / sqrt(variance + epsilon) * gamma``. (The variance
        is about the mean all the same: this is not root mean square normalization, whatever the option's name.)
    name
        The layer's name; a model gives it one if None.
    """

    kind = "LayerNormalization"
    _prepared: ClassVar[tuple[str, ...]] = ("_gamma", "_beta", "_mean_of")

    def __init__(
        self,
        gamma: Array | None = None,
        beta: Array | None = None,
        *,
        epsilon: float = 1e-3,
        axes: Sequence[int] = (-1,),
        by_variance: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.gamma = None if gamma is None else frozen_copy(gamma)
        self.beta = None if beta is None else frozen_copy(beta)
        self.epsilon, self.axes, self.by_variance = float(epsilon), tuple(int(axis) for axis in axes), by_variance
        self._gamma: Array | None
        self._beta: Array | None
        self._mean_of: LinearMap | None
        if not self.epsilon >= 0.0:
            raise FormatError(f"epsilon: expected a number that is not negative, found {epsilon}")
        if by_variance and gamma is None:
            raise FormatError("rms_scaling: expected a gamma, found none")

    def weights(self) -> dict[str, Array]:
        return _named(gamma=self.gamma, beta=self.beta)

    def _prepare(self, numerics: Numerics) -> None:
        self._gamma = None if self.gamma is None else frozen_copy(self.gamma.ravel(), numerics.dtype)
        self._beta = None if self.beta is None else frozen_copy(self.beta.ravel(), numerics.dtype)
        self._mean_of = None
        if self.by_variance and self._gamma is not None:
            # The sums are the core's: NumPy's own order of adding is not promised to be the same for every batch.
            self._mean_of = numerics.linear(np.full((self._gamma.size, 1), 1.0 / self._gamma.size))

    def _rising(self, rank: int) -> tuple[int, ...]:
        return tuple(sorted({axis % rank for axis in self.axes}))

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = shapes[0]
        rank = len(shape)
        rising = self._rising(rank)
        if not self.axes or any(not -rank <= axis < rank for axis in self.axes) or 0 in rising:
            raise FormatError(f"axis {self.axes} are no axes of an input of shape {shape}, the batch excluded")
        sizes = tuple(shape[axis] for axis in rising)
        for name, weight in self.weights().items():
            if weight.ndim != len(sizes) or any(
                size not in (None, found) for size, found in zip(sizes, weight.shape, strict=True)
            ):
                raise FormatError(f"its {name} has shape {weight.shape}, the normalized axes have sizes {sizes}")
        return (shape,)

    def apply(self, values: Array) -> Array:
        assert self.numerics is not None
        rising = self._rising(values.ndim)
        if rising == (values.ndim - 1,):
            return self._normalize(values)
        last = tuple(range(values.ndim - len(rising), values.ndim))
        moved = np.ascontiguousarray(np.moveaxis(values, rising, last))
        rows = moved.reshape(*moved.shape[: last[0]], -1)
        return np.ascontiguousarray(np.moveaxis(self._normalize(rows).reshape(moved.shape), last, rising))

    def _normalize(self, x: Array) -> Array:
        """Normalize over the last axis."""
        assert self.numerics is not None
        if self._mean_of is None:
            return self.numerics.layer_norm(x, self._gamma, self._beta, self.epsilon)
        centred = x - self._mean_of(x)
        variance = self._mean_of(centred * centred)
        return np.asarray(x / np.sqrt(variance + x.dtype.type(self.epsilon)) * self._gamma)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if 1 in self._rising(len(shapes[0])):
            raise UnsupportedModelError("it normalizes over the time axis and needs the whole sequence")
        return (True,)


class _Scaling(Pointwise):
    """A layer that scales by numbers that it is given.

    Parameters
    ----------
    ends_mask
        Whether the output has no mask, as in Keras 2.
    name
        The layer's name; a model gives it one if None.
    """

    def __init__(self, *, ends_mask: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        self.ends_mask = ends_mask

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        values, mask = inputs[0]
        return (Tensor(self.apply(values), None if self.ends_mask else mask),)


class Normalization(_Scaling):
    """``(x - mean) / max(sqrt(variance), 1e-7)`` with statistics of the data, or the way back.

    Parameters
    ----------
    mean, variance
        Statistics: of the sizes of ``axes`` in rising order, or of what is broadcast to that.
    axes
        Axes with statistics of their own; the batch axis is none of them.
    invert
        Whether it is ``mean + x * max(sqrt(variance), 1e-7)``.
    ends_mask, name
        As in :class:`_Scaling`.
    """

    kind = "Normalization"
    _prepared: ClassVar[tuple[str, ...]] = ("_mean", "_scale")

    def __init__(
        self,
        mean: Array,
        variance: Array,
        *,
        axes: Sequence[int] = (-1,),
        invert: bool = False,
        ends_mask: bool = False,
        name: str | None = None,
    ) -> None:
        super().__init__(ends_mask=ends_mask, name=name)
        self.mean, self.variance = frozen_copy(mean), frozen_copy(variance)
        self.axes, self.invert = tuple(int(axis) for axis in axes), invert
        self._mean: Array
        self._scale: Array
        if self.mean.shape != self.variance.shape or self.mean.ndim > len(self.axes):
            raise FormatError(
                f"expected a mean and a variance of one shape with at most {len(self.axes)} axes, found "
                f"{self.mean.shape} and {self.variance.shape}"
            )
        if (self.variance < 0.0).any():
            raise UnsupportedModelError("variance: expected numbers that are not negative, found less than zero")

    def weights(self) -> dict[str, Array]:
        return {"mean": self.mean, "variance": self.variance}

    def _prepare(self, numerics: Numerics) -> None:
        # 1e-7 is the framework's own smallest deviation.
        deviation = np.maximum(np.sqrt(self.variance.astype(np.float64)), 1e-7)
        self._mean = frozen_copy(self.mean, numerics.dtype)
        self._scale = frozen_copy(deviation, numerics.dtype)

    def _over(self, rank: int) -> tuple[int, ...]:
        """Return the shape by which the statistics are broadcast over an input of ``rank``."""
        places = sorted({axis % rank for axis in self.axes})
        shape = [1] * rank
        for place, size in zip(reversed(places), reversed(self.mean.shape), strict=False):
            shape[place] = size
        return tuple(shape)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = shapes[0]
        rank = len(shape)
        if any(not -rank <= axis < rank or axis % rank == 0 for axis in self.axes):
            raise FormatError(f"axis {self.axes} are no axes of an input of shape {shape}, the batch excluded")
        if any(a not in (1, b) for a, b in zip(self._over(rank), shape, strict=True) if b is not None):
            raise FormatError(f"its mean has shape {self.mean.shape}, its input has shape {shape}")
        return (shape,)

    def apply(self, values: Array) -> Array:
        shape = self._over(values.ndim)
        if any(a not in (1, b) for a, b in zip(shape, values.shape, strict=True)):
            raise ShapeError(f"input of {self.name}: expected sizes {shape} where not 1, found shape {values.shape}")
        mean, scale = self._mean.reshape(shape), self._scale.reshape(shape)
        return np.asarray(mean + values * scale if self.invert else (values - mean) / scale)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self._over(len(shapes[0]))[1] != 1:
            raise UnsupportedModelError("it normalizes each step of a sequence of fixed length by numbers of its own")
        return (True,)


class Rescaling(_Scaling):
    """``x * scale + offset``.

    Parameters
    ----------
    scale, offset
        Numbers, or arrays of the last axis's size.
    ends_mask, name
        As in :class:`_Scaling`.
    """

    kind = "Rescaling"

    def __init__(self, scale: Array, offset: Array, *, ends_mask: bool = False, name: str | None = None) -> None:
        super().__init__(ends_mask=ends_mask, name=name)
        self.scale, self.offset = frozen_copy(scale), frozen_copy(offset)
        if self.scale.ndim > 1 or self.offset.ndim > 1:
            raise UnsupportedModelError(
                f"expected numbers or one for each feature, found scale {self.scale.shape}, offset {self.offset.shape}"
            )

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        sizes = {size for array in (self.scale, self.offset) for size in array.shape} - {1}
        if len(sizes | {shapes[0][-1]} - {None}) > 1 and sizes:
            raise FormatError(
                f"its scale has shape {self.scale.shape}, its offset {self.offset.shape}, its input {shapes[0]}"
            )
        return (shapes[0],)

    def apply(self, values: Array) -> Array:
        scale, offset = self.scale.astype(values.dtype), self.offset.astype(values.dtype)
        return np.asarray(values * scale + offset)


def unit_norm(values: Array, axes: Sequence[int], least: float) -> Array:
    """Return ``values / max(norm, least)`` with the L2 norm over ``axes``; computed in float64, rounded once."""
    places = tuple(sorted({axis % values.ndim for axis in axes}))
    last = tuple(range(values.ndim - len(places), values.ndim))
    moved = np.moveaxis(values, places, last).astype(np.float64)
    rows = moved.reshape(*moved.shape[: last[0]], math.prod(moved.shape[last[0] :]))
    # A product of each row with itself: its order of adding depends on the row's length alone.
    squares = np.matmul(rows[..., None, :], rows[..., :, None])[..., 0]
    unit = (rows / np.maximum(np.sqrt(squares), least)).reshape(moved.shape)
    return np.ascontiguousarray(np.moveaxis(unit, last, places).astype(values.dtype))


class UnitNormalization(Pointwise):
    """Rows of length one: ``x / max(norm, least)`` with the L2 norm over some axes.

    Parameters
    ----------
    axes
        The axes; the batch axis is none of them.
    least
        Smallest norm that is divided by.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "UnitNormalization"

    def __init__(self, axes: Sequence[int] = (-1,), *, least: float = 1e-12, name: str | None = None) -> None:
        super().__init__(name)
        self.axes, self.least = tuple(int(axis) for axis in axes), float(least)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        rank = len(shapes[0])
        if not self.axes or any(not -rank <= axis < rank or axis % rank == 0 for axis in self.axes):
            raise FormatError(f"axis {self.axes} are no axes of an input of shape {shapes[0]}, the batch excluded")
        return (shapes[0],)

    def apply(self, values: Array) -> Array:
        return unit_norm(values, self.axes, self.least)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if any(axis % len(shapes[0]) == 1 for axis in self.axes):
            raise UnsupportedModelError("it normalizes over the time axis and needs the whole sequence")
        return (True,)
