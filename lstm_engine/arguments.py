"""The arguments of a model's call: one checked array for each input, with its mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import as_float_array, as_index_array, as_lengths, as_mask, as_plain_array
from .errors import ShapeError
from .layers.base import Context, Mask, Shape, Tensor

__all__ = ["Arguments", "TensorSpec"]

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model.

    Parameters
    ----------
    name
        Its name.
    shape
        Its shape, the batch axis included; None for a size that the model leaves open.
    dtype
        ``"float32"`` or ``"float64"``; ``"int64"`` for an input of token numbers.
    """

    name: str
    shape: Shape
    dtype: str

    @property
    def indices(self) -> bool:
        """Whether the tensor holds token numbers."""
        return self.dtype == "int64"

    @property
    def sequence(self) -> bool:
        """Whether axis 1 is time: token numbers of rank 2 and more, features of rank 3 and more."""
        return len(self.shape) >= (2 if self.indices else 3)


@lru_cache(maxsize=256)
def _axes(shape: Shape, batch_axis: int) -> tuple[int | str, ...]:
    """Return ``shape`` with a name for each open size."""
    names = ("time", "batch") if batch_axis else ("batch", "time")
    return tuple(
        size if size is not None else names[axis] if axis < 2 else f"size {axis}" for axis, size in enumerate(shape)
    )


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a model takes, and how it is made from what a caller gives.

    Parameters
    ----------
    specs
        The inputs.
    dtype
        Of the values.
    uses_mask
        Whether any layer of the model looks at a mask.
    time_major
        For each input whether it has time in front of the batch, if it is a sequence; empty where none has.
    """

    specs: tuple[TensorSpec, ...]
    dtype: np.dtype[Any]
    uses_mask: bool
    time_major: tuple[bool, ...] = ()

    def batch_axis(self, place: int) -> int:
        """Return the axis of an input that is the batch."""
        return int(bool(self.time_major) and self.time_major[place] and self.specs[place].sequence)

    def gathered(self, inputs: Sequence[Any]) -> list[Any]:
        """Return one value for each input of the model from the arguments of a call."""
        count = len(self.specs)
        names = [spec.name for spec in self.specs]
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            given = inputs[0]
            if set(given) != set(names):
                raise ShapeError(f"inputs: expected a dict with the names {names}, found {list(given)}")
            return [given[name] for name in names]
        if len(inputs) == 1 and isinstance(inputs[0], (list, tuple)):
            listed = inputs[0]
            rank = len(self.specs[0].shape)
            if count != 1 or (len(listed) == 1 and isinstance(listed[0], np.ndarray) and listed[0].ndim == rank):
                inputs = listed
        if len(inputs) != count:
            raise ShapeError(
                f"inputs: expected {count} ({', '.join(f'{spec.name} {spec.shape}' for spec in self.specs)}), "
                f"found {len(inputs)}"
            )
        return list(inputs)

    def per_input(self, argument: str, value: Any) -> list[Any]:
        """Return one mask (or lengths, or None) for each input."""
        sequences = [place for place, spec in enumerate(self.specs) if spec.sequence]
        found: list[Any] = [None] * len(self.specs)
        if value is None:
            return found
        if isinstance(value, Mapping):
            names = [spec.name for spec in self.specs]
            if not set(value) <= set(names):
                raise ShapeError(f"{argument}: expected a dict with names among {names}, found {list(value)}")
            found = [value.get(name) for name in names]
        elif isinstance(value, tuple) or (isinstance(value, list) and len(self.specs) > 1):
            if len(value) != len(self.specs):
                raise ShapeError(f"{argument}: expected one for each of {len(self.specs)} inputs, found {len(value)}")
            found = list(value)
        elif len(sequences) == 1:
            found[sequences[0]] = value
        else:
            raise ShapeError(
                f"{argument}: expected a tuple with one for each of the {len(self.specs)} inputs (None for none), "
                f"found {type(value).__name__}"
            )
        for place, given in enumerate(found):
            if given is not None and place not in sequences:
                spec = self.specs[place]
                raise ShapeError(f"{argument}: input {spec.name} of shape {spec.shape} has no time axis to mask")
        if not self.uses_mask:
            raise ShapeError(f"{argument}: expected None, since no layer of this model looks at a mask; found one")
        return found

    def tensors(self, inputs: Sequence[Any], mask: Any, lengths: Any) -> tuple[list[Tensor], Context]:
        """Return the checked inputs with their masks, and the context of the call.

        Parameters
        ----------
        inputs, mask, lengths
            As of :meth:`lstm_engine.Model.__call__`.

        Raises
        ------
        ShapeError
            If an argument does not fit, naming it.
        """
        arrays = [self._converted(value, place) for place, value in enumerate(self.gathered(inputs))]
        self._check_rows(arrays)
        if mask is None and lengths is None:
            return [Tensor(array) for array in arrays], Context()
        if mask is not None and lengths is not None:
            raise ShapeError("mask, lengths: expected one of the two, found both; put the lengths into the mask")
        masks: list[Mask | None] = [None] * len(arrays)
        paddings = []
        for place, (array, given) in enumerate(zip(arrays, self.per_input("mask", mask), strict=True)):
            if given is not None:
                masks[place] = as_mask(given, "mask", array.shape[:2])
        for place, (array, given) in enumerate(zip(arrays, self.per_input("lengths", lengths), strict=True)):
            if given is not None:
                axis = self.batch_axis(place)
                batch, time = array.shape[axis], array.shape[1 - axis]
                checked = as_lengths(given, "lengths", batch, time)
                padding = np.arange(time) < checked[:, None]
                padding = np.ascontiguousarray(padding.T) if axis else padding
                masks[place] = padding
                paddings.append((padding, checked))
        tensors = [Tensor(array, given) for array, given in zip(arrays, masks, strict=True)]
        return tensors, Context(paddings=paddings, caller_masked=True)

    def _check_rows(self, arrays: Sequence[Array]) -> None:
        rows = [array.shape[self.batch_axis(place)] for place, array in enumerate(arrays)]
        for spec, found in zip(self.specs, rows, strict=True):
            if found != rows[0]:
                raise ShapeError(f"{spec.name}: expected {rows[0]} rows as in {self.specs[0].name}, found {found}")

    def _converted(self, value: ArrayLike, place: int) -> Array:
        """Return an input as the graph takes it."""
        spec = self.specs[place]
        axes = _axes(spec.shape, self.batch_axis(place))
        rank = len(axes)
        if not isinstance(value, np.ndarray) or value.ndim != rank:
            # As in Keras: (batch, time) is taken for (batch, time, 1), and the other way round.
            value = as_plain_array(value, spec.name)
            if value.ndim == rank - 1 and axes[-1] == 1:
                value = value[..., None]
            elif value.ndim == rank + 1 and value.shape[-1] == 1:
                value = value[..., 0]
        if spec.indices:
            return as_index_array(value, spec.name, axes)
        return as_float_array(value, spec.name, axes, self.dtype)
