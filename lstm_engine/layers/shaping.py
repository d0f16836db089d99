"""Layers that change the shape alone, and the one that keeps the last step of a sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError

from .base import Array, Context, Layer, Shape, State, Tensor
from .windows import MAX_STEPS

__all__ = [
    "Cropping1D",
    "Flatten",
    "LastStep",
    "Permute",
    "RepeatVector",
    "Reshape",
    "UpSampling1D",
    "ZeroPadding1D",
]


class _Reshaping(Layer):
    """A layer of one input whose output carries no mask, as the framework's reshaping layers."""

    def apply(self, values: Array) -> Array:
        """Return ``values`` in the new shape."""
        raise NotImplementedError

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        return (Tensor(np.ascontiguousarray(self.apply(inputs[0].values))),)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        raise UnsupportedModelError(f"a {self.kind} layer over the time axis needs the whole sequence")


class Flatten(_Reshaping):
    """All axes but the batch in one.

    Parameters
    ----------
    channels_first
        Whether axis 1 is moved to the end first.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "Flatten"

    def __init__(self, *, channels_first: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        self.channels_first = channels_first

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        batch, *rest = shapes[0]
        return ((batch, None if None in rest else math.prod(size for size in rest if size is not None)),)

    def apply(self, values: Array) -> Array:
        if self.channels_first and values.ndim > 1:
            values = np.moveaxis(values, 1, -1)
        return values.reshape(values.shape[0], math.prod(values.shape[1:]))


class Reshape(_Reshaping):
    """Another shape of the same values.

    Parameters
    ----------
    target
        The new shape without the batch; one size may be -1.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "Reshape"

    def __init__(self, target: Sequence[int], *, name: str | None = None) -> None:
        super().__init__(name)
        self.target = tuple(int(size) for size in target)
        if sum(size == -1 for size in self.target) > 1 or any(size < -1 for size in self.target):
            raise FormatError(f"target_shape: expected sizes with at most one -1, found {self.target}")

    def _resolved(self, row: Sequence[int]) -> tuple[int, ...]:
        """Return the target with -1 replaced for a row of shape ``row``."""
        elements, known = math.prod(row), math.prod(size for size in self.target if size != -1)
        if -1 not in self.target:
            if known != elements:
                raise FormatError(f"target_shape {self.target} does not hold the {elements} elements of {tuple(row)}")
            return self.target
        if known == 0 or elements % known:
            raise FormatError(f"target_shape {self.target} does not divide the {elements} elements of {tuple(row)}")
        return tuple(elements // known if size == -1 else size for size in self.target)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        batch, *row = shapes[0]
        sizes = [size for size in row if size is not None]
        if len(sizes) < len(row):
            return ((batch, *(None if size == -1 else size for size in self.target)),)
        return ((batch, *self._resolved(sizes)),)

    def apply(self, values: Array) -> Array:
        return values.reshape(values.shape[0], *self._resolved(values.shape[1:]))


class Permute(_Reshaping):
    """Another order of the axes.

    Parameters
    ----------
    axes
        For each axis of the output but the batch, the axis of the input, from 1.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "Permute"

    def __init__(self, axes: Sequence[int], *, name: str | None = None) -> None:
        super().__init__(name)
        self.axes = tuple(int(axis) for axis in axes)
        if sorted(self.axes) != list(range(1, len(self.axes) + 1)):
            raise FormatError(f"dims: expected a permutation of 1 to {len(self.axes)}, found {self.axes}")

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = shapes[0]
        if len(shape) != len(self.axes) + 1:
            raise FormatError(f"dims {self.axes} do not fit an input of shape {shape}")
        return ((shape[0], *(shape[axis] for axis in self.axes)),)

    def apply(self, values: Array) -> Array:
        return values.transpose(0, *self.axes)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.axes[0] != 1:
            return super().stream(shapes)
        return (True,)


class RepeatVector(_Reshaping):
    """One vector as every step of a sequence.

    Parameters
    ----------
    steps
        Length of the sequence.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "RepeatVector"
    untimed_obstacle = "a RepeatVector layer makes a whole sequence out of every step"

    def __init__(self, steps: int, *, name: str | None = None) -> None:
        super().__init__(name)
        self.steps = int(steps)
        if not 0 < self.steps <= MAX_STEPS:
            raise FormatError(f"n: expected a number of steps from 1 to {MAX_STEPS}, found {self.steps}")

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = shapes[0]
        if len(shape) != 2:
            raise FormatError(f"expected an input of shape (batch, features), found {shape}")
        return ((shape[0], self.steps, shape[1]),)

    def apply(self, values: Array) -> Array:
        return np.repeat(values[:, None, :], self.steps, axis=1)


class _Resizing(_Reshaping):
    """A layer that makes a sequence longer or shorter.

    Parameters
    ----------
    before, after
        Steps at both ends.
    channels_first
        Whether time is axis 2 and not axis 1.
    name
        The layer's name; a model gives it one if None.
    """

    def __init__(self, before: int, after: int, *, channels_first: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        self.before, self.after = int(before), int(after)
        self.time_axis = 2 if channels_first else 1
        if not (0 <= self.before <= MAX_STEPS and 0 <= self.after <= MAX_STEPS):
            raise FormatError(f"expected from 0 to {MAX_STEPS} steps at each end, found {before} and {after}")

    def steps(self, time: int) -> int:
        """Return the length of the output for an input of ``time`` steps."""
        raise NotImplementedError

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = list(shapes[0])
        if len(shape) != 3:
            raise FormatError(f"expected an input of rank 3, found shape {shapes[0]}")
        time = shape[self.time_axis]
        if time is not None:
            shape[self.time_axis] = self.steps(time)
            if time and self.steps(time) <= 0:
                raise FormatError(f"it takes away {self.before} and {self.after} steps of an input of {shapes[0]}")
        return (tuple(shape),)


class ZeroPadding1D(_Resizing):
    """Steps of zeros before and after a sequence."""

    kind = "ZeroPadding1D"

    def steps(self, time: int) -> int:
        return time + self.before + self.after

    def apply(self, values: Array) -> Array:
        ends = [(0, 0)] * values.ndim
        ends[self.time_axis] = (self.before, self.after)
        return np.pad(values, ends)


class Cropping1D(_Resizing):
    """A sequence without its first and last steps."""

    kind = "Cropping1D"

    def steps(self, time: int) -> int:
        return time - self.before - self.after

    def apply(self, values: Array) -> Array:
        steps = self.steps(values.shape[1])
        if steps <= 0:
            raise ShapeError(
                f"input of {self.name}: expected more than {self.before + self.after} steps, which are taken away; "
                f"found {values.shape[1]}"
            )
        return values[:, self.before : self.before + steps]


class UpSampling1D(_Reshaping):
    """Each step several times.

    Parameters
    ----------
    size
        How often.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "UpSampling1D"

    def __init__(self, size: int, *, name: str | None = None) -> None:
        super().__init__(name)
        self.size = int(size)
        if not 0 < self.size <= MAX_STEPS:
            raise FormatError(f"size: expected a number from 1 to {MAX_STEPS}, found {size}")

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        batch, *rest = shapes[0]
        if len(rest) != 2:
            raise FormatError(f"expected an input of rank 3, found shape {shapes[0]}")
        return ((batch, None if rest[0] is None else rest[0] * self.size, rest[1]),)

    def apply(self, values: Array) -> Array:
        return np.repeat(values, self.size, axis=1)


class LastStep(Layer):
    """The output of the last real step of each row, as ``y[:, -1]`` in PyTorch but aware of mask and lengths.

    (batch, time, features) becomes (batch, features). A row without a real step gives zeros. For a bidirectional
    stack the last step holds the reverse direction's first output: see
    :class:`~lstm_engine.layers.recurrent.FinalHidden` for the states at both ends.

    Parameters
    ----------
    name
        The layer's name; a model gives it one if None.
    """

    kind = "LastStep"
    uses_mask: ClassVar[bool] = True

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        batch, *rest = shapes[0]
        if len(rest) < 2:
            raise FormatError(f"expected an input of shape (batch, time, features), found {shapes[0]}")
        return ((batch, *rest[1:]),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        values, mask = inputs[0]
        batch, time = values.shape[:2]
        # last[row, t]: the last real step up to t, -1 for none.
        steps = np.broadcast_to(np.arange(time), (batch, time))
        last = steps if mask is None else np.maximum.accumulate(np.where(mask, steps, -1), axis=1)
        if context.states is None:
            last = last[:, -1:] if time else np.full((batch, 1), -1)
            (before,) = self.initial_state(batch, [values.shape])
        else:
            (before,) = context.states[context.node]
        # Step -1 is what was before the first step: zeros, or the state of the stream.
        known = np.concatenate([before.swapaxes(0, 1).astype(values.dtype, copy=False), values], axis=1)
        y = known[np.arange(batch)[:, None], last + 1]
        if context.states is None:
            return (Tensor(np.ascontiguousarray(y[:, 0])),)
        context.new_states[context.node] = (y[:, -1:].swapaxes(0, 1).copy(),) if time else (before,)
        return (Tensor(np.ascontiguousarray(y)),)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        return (False,)

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("last",)

    def initial_state(self, batch: int, shapes: Sequence[Shape]) -> State:
        assert self.numerics is not None
        sizes = [size or 0 for size in shapes[0][2:]]
        return (np.zeros((1, batch, *sizes), dtype=self.numerics.dtype),)
