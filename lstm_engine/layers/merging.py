"""Layers that make one tensor out of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError

from .base import Array, Context, Layer, Mask, Shape, Tensor, same_shape
from .normalization import unit_norm

__all__ = ["MERGES", "Concatenate", "Dot", "Merge", "broadcast_shapes", "concatenated_shape", "matmul"]


def _add(left: Array, right: Array) -> Array:
    return np.asarray(left + right)


def _subtract(left: Array, right: Array) -> Array:
    return np.asarray(left - right)


def _multiply(left: Array, right: Array) -> Array:
    return np.asarray(left * right)


def _maximum(left: Array, right: Array) -> Array:
    return np.asarray(np.maximum(left, right))


def _minimum(left: Array, right: Array) -> Array:
    return np.asarray(np.minimum(left, right))


#: The elementwise merges by the framework's class name.
MERGES: Final[dict[str, Callable[[Array, Array], Array]]] = {
    "Add": _add,
    "Average": _add,
    "Maximum": _maximum,
    "Minimum": _minimum,
    "Multiply": _multiply,
    "Subtract": _subtract,
}


def broadcast_shapes(shapes: Sequence[Shape]) -> Shape:
    """Return the shape of an elementwise operation on inputs of ``shapes``, of one rank; sizes of 1 are broadcast.

    Raises
    ------
    FormatError
        If they do not go together.
    """
    merged: list[int | None] = []
    if len({len(shape) for shape in shapes}) > 1:
        raise FormatError(f"its inputs have different ranks: {', '.join(map(str, shapes))}")
    for sizes in zip(*shapes, strict=True):
        fixed = {size for size in sizes if size not in (None, 1)}
        if len(fixed) > 1:
            raise FormatError(f"its inputs have the shapes {', '.join(map(str, shapes))}, which do not go together")
        merged.append(fixed.pop() if fixed else None if None in sizes else 1)
    return tuple(merged)


def concatenated_shape(shapes: Sequence[Shape], axis: int) -> Shape:
    """Return the shape of inputs of ``shapes`` one behind the other along ``axis``, counted from 0.

    Raises
    ------
    FormatError
        If they do not go together.
    """
    if any(len(shape) != len(shapes[0]) for shape in shapes):
        raise FormatError(f"its inputs have different ranks: {', '.join(map(str, shapes))}")
    # The other axes must agree: compare the shapes with this one left open.
    common = same_shape(*((*shape[:axis], None, *shape[axis + 1 :]) for shape in shapes))
    total: int | None = 0
    for shape in shapes:
        size = shape[axis]
        total = None if total is None or size is None else total + size
    return (*common[:axis], total, *common[axis + 1 :])


def _any(mask: Mask | None, other: Mask | None) -> Mask | None:
    """Keras 3.4 and later: a step counts if it counts in any input; an input without a mask ends the masking."""
    return None if mask is None or other is None else mask | other


def _all(mask: Mask | None, other: Mask | None) -> Mask | None:
    """Keras before 3.4: a step counts if it counts in all inputs that have a mask."""
    if mask is None or other is None:
        return other if mask is None else mask
    return mask & other


class Merge(Layer):
    """Add, subtract, multiply, average, maximum or minimum, elementwise, inputs from left to right.

    Inputs of lower rank gain axes of size 1 behind the batch, and sizes of 1 are broadcast.

    Parameters
    ----------
    kind
        A key of :data:`MERGES`.
    any_mask
        Whether masks are joined by "or", and masked values stay out of products, maxima and minima, as since
        Keras 3.4; else they are joined by "and" and no value is left out.
    drops_mask
        Whether the output has no mask, as in Keras 3.0 to 3.3.
    name
        The layer's name; a model gives it one if None.
    """

    def __init__(self, kind: str, *, any_mask: bool = True, drops_mask: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        self.kind = kind
        self.any_mask = any_mask
        self.drops_mask = drops_mask
        self._operation = MERGES[kind]

    @property
    def _leaves_out_masked(self) -> bool:
        return self.any_mask and self.kind in ("Maximum", "Minimum", "Multiply")

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        if not shapes or (self.kind == "Subtract" and len(shapes) != 2):
            raise FormatError(
                f"expected {'2' if self.kind == 'Subtract' else 'at least 1'} inputs, found {len(shapes)}"
            )
        rank = max(map(len, shapes))
        raised: list[Shape] = [(shape[0], *[1] * (rank - len(shape)), *shape[1:]) for shape in shapes]
        return (broadcast_shapes(raised),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        rank = max(tensor.values.ndim for tensor in inputs)
        tensors = [self._raised(tensor, rank) for tensor in inputs]
        with np.errstate(all="ignore"):
            if self._leaves_out_masked and any(tensor.mask is not None for tensor in tensors):
                values = self._product(tensors) if self.kind == "Multiply" else self._extremes(tensors)
            else:
                values = tensors[0].values
                for tensor in tensors[1:]:
                    values = self._operation(values, tensor.values)
            if self.kind == "Average":
                values = np.asarray(values / values.dtype.type(len(tensors)))
        mask = tensors[0].mask
        for tensor in tensors[1:]:
            mask = (_any if self.any_mask else _all)(mask, tensor.mask)
        return (Tensor(values, None if self.drops_mask else mask),)

    @staticmethod
    def _raised(tensor: Tensor, rank: int) -> Tensor:
        """Return ``tensor`` with axes of size 1 behind the batch up to ``rank``; the new tensor carries no mask."""
        values = tensor.values
        if values.ndim == rank:
            return tensor
        return Tensor(values.reshape(values.shape[0], *[1] * (rank - values.ndim), *values.shape[1:]))

    @staticmethod
    def _over(tensor: Tensor) -> Mask:
        """Return the tensor's mask with the trailing axes that its values have."""
        values, mask = tensor
        assert mask is not None
        return mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))

    def _product(self, tensors: Sequence[Tensor]) -> Array:
        """Multiply with 1 in place of masked values, then 0 where all inputs are masked."""
        product: Array | None = None
        counts: Mask | None = None
        for tensor in tensors:
            values = tensor.values
            if tensor.mask is not None:
                over = self._over(tensor)
                values = np.where(over, values, values.dtype.type(1.0))
                counts = over if counts is None else counts | over
            product = values if product is None else _multiply(product, values)
        assert product is not None
        if counts is not None and all(tensor.mask is not None for tensor in tensors):
            product = np.where(counts, product, product.dtype.type(0.0))
        return product

    def _extremes(self, tensors: Sequence[Tensor]) -> Array:
        """Take the extreme of what is not masked, as Keras does it: each side stands in for a masked other."""
        values = tensors[0].values
        counts = None if tensors[0].mask is None else self._over(tensors[0])
        for tensor in tensors[1:]:
            other = tensor.values
            over = None if tensor.mask is None else self._over(tensor)
            if over is not None:
                other = np.where(over, other, values)
            if counts is not None:
                values = np.where(counts, values, other)
            counts = None if counts is None or over is None else counts | over
            values = self._operation(values, other)
        return values

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if len({len(shape) for shape in shapes}) > 1:
            raise UnsupportedModelError("it merges inputs of different rank along the time axis")
        return (True,)


class Concatenate(Layer):
    """Inputs one behind the other along an axis.

    Parameters
    ----------
    axis
        The axis.
    any_mask, drops_mask
        As in :class:`Merge`.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "Concatenate"

    def __init__(
        self, axis: int = -1, *, any_mask: bool = True, drops_mask: bool = False, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.axis = int(axis)
        self.any_mask = any_mask
        self.drops_mask = drops_mask

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        rank = len(shapes[0]) if shapes else 0
        if not -rank <= self.axis < rank or self.axis % rank == 0:
            raise FormatError(f"axis {self.axis} is no axis of inputs of shapes {', '.join(map(str, shapes))}")
        return (concatenated_shape(shapes, self.axis % rank),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        values = np.concatenate([tensor.values for tensor in inputs], axis=self.axis)
        return (Tensor(values, None if self.drops_mask else self._mask(inputs)),)

    def _mask(self, inputs: Sequence[Tensor]) -> Mask | None:
        ranks = [tensor.mask.ndim for tensor in inputs if tensor.mask is not None]
        if not ranks:
            return None
        # An input without a mask counts at every step.
        covered = min(ranks)
        masks = [
            np.ones(tensor.values.shape[:covered], dtype=np.bool_)
            if tensor.mask is None
            else np.asarray(tensor.mask.any(axis=tuple(range(covered, tensor.mask.ndim))))
            for tensor in inputs
        ]
        if self.axis % inputs[0].values.ndim < covered:
            return np.concatenate(masks, axis=self.axis % inputs[0].values.ndim)
        joined = masks[0]
        for mask in masks[1:]:
            joined = joined | mask if self.any_mask else joined & mask
        return joined

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.axis % len(shapes[0]) == 1:
            raise UnsupportedModelError("it puts sequences one behind the other in time")
        return (True,)


def matmul(left: Array, right: Array) -> Array:
    """Return ``left @ right``, row by row of the batch, in the dtype of ``left``.

    The sums are in float64 and rounded once: a product of two results has no packed weights that the core could use.
    """
    product = np.matmul(left.astype(np.float64, copy=False), right.astype(np.float64, copy=False))
    return np.asarray(product.astype(left.dtype, copy=False))


class Dot(Layer):
    """Products of two inputs, summed over one axis of each; the output carries no mask.

    Parameters
    ----------
    axes
        The axis of each input.
    least_norm
        None, or: both inputs are divided by their L2 norm over the axis, or by this number if it is greater.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "Dot"

    def __init__(self, axes: tuple[int, int], *, least_norm: float | None = None, name: str | None = None) -> None:
        super().__init__(name)
        self.axes, self.least_norm = axes, least_norm

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(shapes) != 2:
            raise FormatError(f"expected 2 inputs, found {len(shapes)}")
        for axis, shape in zip(self.axes, shapes, strict=True):
            if not -len(shape) <= axis < len(shape) or axis % len(shape) == 0:
                raise FormatError(f"axis {axis} is no axis of an input of shape {shape}, the batch excluded")
        same_shape(*((shape[axis],) for axis, shape in zip(self.axes, shapes, strict=True)))
        first, second = (
            [size for place, size in enumerate(shape) if place not in (0, axis % len(shape))]
            for axis, shape in zip(self.axes, shapes, strict=True)
        )
        return ((shapes[0][0], *((first + second) or [1])),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        arrays = [tensor.values for tensor in inputs]
        sizes = [array.shape[axis] for axis, array in zip(self.axes, arrays, strict=True)]
        if sizes[0] != sizes[1]:
            raise ShapeError(f"inputs of {self.name}: expected axes of one size, found {sizes[0]} and {sizes[1]}")
        if self.least_norm is not None:
            arrays = [unit_norm(one, (axis,), self.least_norm) for axis, one in zip(self.axes, arrays, strict=True)]
        # (batch, rest, summed) of each, the rest in one axis.
        moved = [np.moveaxis(one, axis, -1) for axis, one in zip(self.axes, arrays, strict=True)]
        left, right = (one.reshape(len(one), math.prod(one.shape[1:-1]), one.shape[-1]) for one in moved)
        shape = (*moved[0].shape[1:-1], *moved[1].shape[1:-1]) or (1,)
        return (Tensor(np.ascontiguousarray(matmul(left, right.swapaxes(1, 2)).reshape(len(left), *shape))),)
