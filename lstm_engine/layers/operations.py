"""The operations by which a Keras 3 graph computes masks between its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from lstm_engine.errors import FormatError, UnsupportedModelError

from .base import Array, Context, Layer, Shape, Tensor
from .merging import broadcast_shapes, concatenated_shape

__all__ = ["OPERATIONS", "Operation"]

#: Every operation by Keras's class name, with the numbers of inputs that it takes.
OPERATIONS: Final[dict[str, range]] = {
    "All": range(1, 2),
    "Any": range(1, 2),
    "Concatenate": range(1, 1 << 16),
    "ConvertToTensor": range(1, 2),
    "ExpandDims": range(1, 2),
    "LogicalAnd": range(2, 3),
    "LogicalOr": range(2, 3),
    "NotEqual": range(1, 3),
    "OnesLike": range(1, 2),
    "ZerosLike": range(1, 2),
}


class Operation(Layer):
    """One operation on masks, or on the values that masks are made from; what comes out carries no mask.

    Parameters
    ----------
    kind
        A key of :data:`OPERATIONS`.
    axes
        Of All and Any, None for all axes; the one axis of Concatenate and ExpandDims.
    keep_axes
        Whether All and Any keep the axes, with size 1.
    operand
        The number that a NotEqual of one input compares with.
    name
        The operation's name in the graph.
    """

    takes_indices = None

    def __init__(
        self,
        kind: str,
        *,
        axes: Sequence[int] | None = None,
        keep_axes: bool = False,
        operand: float = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.kind = kind
        self.axes = None if axes is None else tuple(int(axis) for axis in axes)
        self.keep_axes, self.operand = keep_axes, operand

    def _places(self, rank: int) -> tuple[int, ...]:
        """Return the axes counted from 0, for an input of ``rank``."""
        if self.kind == "ExpandDims":
            rank += 1
        axes = range(rank) if self.axes is None else self.axes
        if any(not -rank <= axis < rank for axis in axes) or 0 in (places := {axis % rank for axis in axes}):
            raise FormatError(
                f"{self.kind}: expected axes of an input of rank {rank}, the batch excluded, found {axes}"
            )
        return tuple(sorted(places))

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(shapes) not in OPERATIONS[self.kind]:
            raise FormatError(f"{self.kind}: expected another number of inputs, found {len(shapes)}")
        first = shapes[0]
        match self.kind:
            case "Any" | "All":
                places = self._places(len(first))
                kept = [1 if axis in places else size for axis, size in enumerate(first)]
                return (tuple(size for axis, size in enumerate(kept) if self.keep_axes or axis not in places),)
            case "ExpandDims":
                (place,) = self._places(len(first))
                return ((*first[:place], 1, *first[place:]),)
            case "Concatenate":
                (place,) = self._places(len(first))
                return (concatenated_shape(shapes, place),)
            case "LogicalAnd" | "LogicalOr" | "NotEqual":
                return (broadcast_shapes(shapes),)
            case _:
                return (first,)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        arrays = [tensor.values for tensor in inputs]
        return (Tensor(np.ascontiguousarray(self._compute(arrays, arrays[0].ndim))),)

    def _compute(self, arrays: Sequence[Array], rank: int) -> Array:
        first = arrays[0]
        match self.kind:
            case "Any":
                return np.asarray(first.any(axis=self._places(rank), keepdims=self.keep_axes))
            case "All":
                return np.asarray(first.all(axis=self._places(rank), keepdims=self.keep_axes))
            case "ExpandDims":
                return np.expand_dims(first, self._places(rank))
            case "Concatenate":
                return np.concatenate(arrays, axis=self._places(rank)[0])
            case "LogicalAnd":
                return np.asarray(np.logical_and(first, arrays[1]))
            case "LogicalOr":
                return np.asarray(np.logical_or(first, arrays[1]))
            case "NotEqual":
                other: Any = arrays[1] if len(arrays) > 1 else first.dtype.type(self.operand)
                return np.asarray(first != other)
            case "ConvertToTensor":
                return first
            case "OnesLike":
                return np.ones(first.shape, dtype=np.bool_)
            case _:
                return np.zeros(first.shape, dtype=np.bool_)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        rank = len(shapes[0])
        along = self.kind in ("All", "Any", "Concatenate", "ExpandDims") and 1 in self._places(rank)
        if along or len({len(shape) for shape in shapes}) > 1:
            raise UnsupportedModelError(f"the operation {self.kind} works along the time axis")
        return (True,)
