"""Convolutions over time.

A convolution is a dense layer over windows: for each output step the ``size`` input steps of its window, one behind
the other, against the kernel of (size * channels, filters). The sums are the core's, in ascending order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError

from .base import Array, Context, Layer, Shape, State, Tensor, frozen_copy
from .functions import LayerActivation, split_activation
from .numerics import LinearMap, Numerics
from .windows import Windows

__all__ = ["Conv1D", "DepthwiseConv1D", "SeparableConv1D"]

#: Elements of the windows that are laid out at one time: 32 MB of float32.
_CHUNK = 1 << 23


class _Convolution(Layer):
    """A convolution over axis 1, or axis 2 if channels come first; a mask ends here, as in the framework.

    Parameters
    ----------
    windows
        Where the windows lie.
    bias
        (filters,), or None.
    activation
        What the layer ends with.
    name
        The layer's name; a model gives it one if None.
    """

    def __init__(
        self, windows: Windows, bias: Array | None, activation: LayerActivation, *, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.windows, self.activation = windows, activation
        self.bias = None if bias is None else frozen_copy(bias)

    @property
    def channels(self) -> int:
        """Channels of the input."""
        raise NotImplementedError

    @property
    def filters(self) -> int:
        """Channels of the output."""
        raise NotImplementedError

    def weights(self) -> dict[str, Array]:
        return {} if self.bias is None else {"bias": self.bias}

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        output = self.windows.output_shape(shapes[0], self.filters)
        channels = shapes[0][1 if self.windows.channels_first else 2]
        if channels not in (None, self.channels):
            raise FormatError(f"its kernel takes {self.channels} channels, its input has shape {shapes[0]}")
        return (output,)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        assert self.numerics is not None
        values = self.windows.inwards(inputs[0].values)
        if values.shape[2] != self.channels:
            raise ShapeError(
                f"input of {self.name}: expected {self.channels} channels, found shape {inputs[0].values.shape}"
            )
        if context.states is not None and (state := context.states.get(context.node)):
            # What lies before the chunk stands where a whole sequence has its padding.
            time, span = values.shape[1], self.windows.span
            values = np.concatenate([state[0].swapaxes(0, 1), values], axis=1)
            context.new_states[context.node] = (values[:, time:].swapaxes(0, 1).copy(),)
            taps = [values[:, start : start + time] for start in range(0, span, self.windows.dilation)]
        else:
            taps = self.windows.of(values, 0.0, self.name)
        y = self._convolved(taps)
        _, rest = split_activation(self.activation)
        # The function of the whole output comes last, on the axes that the framework has.
        y = self.windows.outwards(y)
        return (Tensor(y if rest is None else rest(y, self.numerics)),)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.windows.channels_first:
            raise UnsupportedModelError("its input has the channels in front of time")
        if self.windows.stride > 1:
            raise UnsupportedModelError(f"it gives one step for {self.windows.stride} steps of its input")
        if not self._is_causal:
            raise UnsupportedModelError("its windows are not padded at the beginning alone, so it looks at later steps")
        return (True,)

    @property
    def _is_causal(self) -> bool:
        """Whether step t of the output is made of the inputs up to step t, zeros before them."""
        return self.windows.span == 1 or self.windows.padding == "causal"

    @property
    def state_names(self) -> tuple[str, ...]:
        return ("past",)

    def initial_state(self, batch: int, shapes: Sequence[Shape]) -> State:
        assert self.numerics is not None
        steps = self.windows.span - 1
        return (np.zeros((steps, batch, self.channels), self.numerics.dtype),) if steps else ()

    def _convolved(self, taps: list[Array]) -> Array:
        """Return (batch, windows, filters) of views of (batch, windows, channels), one for each step of a window."""
        raise NotImplementedError


class Conv1D(_Convolution):
    """A convolution, at times in groups of channels.

    Parameters
    ----------
    kernel
        (size, channels / groups, filters).
    windows, bias, activation, name
        As in :class:`_Convolution`.
    groups
        Groups of channels, each with its own part of the filters.
    """

    kind = "Conv1D"
    _prepared: ClassVar[tuple[str, ...]] = ("_maps",)

    def __init__(
        self,
        kernel: Array,
        windows: Windows,
        bias: Array | None = None,
        activation: LayerActivation = None,
        *,
        groups: int = 1,
        name: str | None = None,
    ) -> None:
        super().__init__(windows, bias, activation, name=name)
        self.kernel, self.groups = frozen_copy(kernel), int(groups)
        self._maps: tuple[LinearMap, ...]
        if self.kernel.ndim != 3 or 0 in self.kernel.shape or self.kernel.shape[0] != windows.size:
            raise FormatError(f"kernel: expected shape ({windows.size}, channels, filters), found {self.kernel.shape}")
        if self.groups < 1 or self.filters % self.groups:
            raise FormatError(f"groups: expected a divisor of the {self.filters} filters, found {groups}")

    @property
    def channels(self) -> int:
        return int(self.kernel.shape[1]) * self.groups

    @property
    def filters(self) -> int:
        return int(self.kernel.shape[2])

    def weights(self) -> dict[str, Array]:
        return {"kernel": self.kernel, **super().weights()}

    def memory_bytes(self) -> int:
        packed = sum(one.memory_bytes for one in self._maps) if self.numerics is not None else 0
        return super().memory_bytes() + packed

    def _prepare(self, numerics: Numerics) -> None:
        fused, _ = split_activation(self.activation)
        flat = self.kernel.reshape(-1, self.filters)
        biases = [None] * self.groups if self.bias is None else np.split(self.bias, self.groups)
        kernels = np.split(flat, self.groups, axis=1)
        self._maps = tuple(numerics.linear(part, bias, fused) for part, bias in zip(kernels, biases, strict=True))

    def _convolved(self, taps: list[Array]) -> Array:
        batch, count, channels = taps[0].shape
        # Windows are laid out a few rows and steps at a time: all of them would take `size` times the input.
        steps = max(1, _CHUNK // (len(taps) * channels))
        rows = max(1, steps // max(count, 1))
        y = np.empty((batch, count, self.filters), taps[0].dtype)
        width, filters = channels // self.groups, self.filters // self.groups
        for group, apply in enumerate(self._maps):
            here, there = (slice(group * size, (group + 1) * size) for size in (width, filters))
            for row in range(0, batch, rows):
                for step in range(0, count, steps):
                    part = (slice(row, row + rows), slice(step, step + steps))
                    y[(*part, there)] = apply(np.concatenate([tap[(*part, here)] for tap in taps], axis=2))
        return y


class DepthwiseConv1D(_Convolution):
    """A convolution of each channel on its own.

    Parameters
    ----------
    kernel
        (size, channels, multiplier): filter m of channel c is channel c * multiplier + m of the output.
    windows, bias, activation, name
        As in :class:`_Convolution`.
    """

    kind = "DepthwiseConv1D"
    _prepared: ClassVar[tuple[str, ...]] = ("_kernel", "_bias")

    def __init__(
        self,
        kernel: Array,
        windows: Windows,
        bias: Array | None = None,
        activation: LayerActivation = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(windows, bias, activation, name=name)
        self.kernel = frozen_copy(kernel)
        self._kernel: Array
        self._bias: Array | None
        if self.kernel.ndim != 3 or 0 in self.kernel.shape or self.kernel.shape[0] != windows.size:
            raise FormatError(
                f"depthwise_kernel: expected shape ({windows.size}, channels, multiplier), found {self.kernel.shape}"
            )

    @property
    def channels(self) -> int:
        return int(self.kernel.shape[1])

    @property
    def filters(self) -> int:
        return int(self.kernel.shape[1] * self.kernel.shape[2])

    def weights(self) -> dict[str, Array]:
        return {"depthwise_kernel": self.kernel, **super().weights()}

    def _prepare(self, numerics: Numerics) -> None:
        self._kernel = frozen_copy(self.kernel, numerics.dtype)
        self._bias = None if self.bias is None else frozen_copy(self.bias, numerics.dtype)

    def _depthwise(self, taps: list[Array]) -> Array:
        batch, count, channels = taps[0].shape
        sums = np.zeros((batch, count, channels, self._kernel.shape[2]), self._kernel.dtype)
        for tap, factors in zip(taps, self._kernel, strict=True):
            sums += tap[..., None] * factors
        return sums.reshape(batch, count, math.prod(sums.shape[2:]))

    def _convolved(self, taps: list[Array]) -> Array:
        assert self.numerics is not None
        y = self._depthwise(taps)
        if self._bias is not None:
            y += self._bias
        fused, _ = split_activation(self.activation)
        return y if fused is None else self.numerics.activate(y, fused)


class SeparableConv1D(DepthwiseConv1D):
    """A convolution of each channel on its own, then a dense layer over the channels of each step.

    Parameters
    ----------
    kernel
        (size, channels, multiplier).
    pointwise
        (1, channels * multiplier, filters).
    windows, bias, activation, name
        As in :class:`_Convolution`.
    """

    kind = "SeparableConv1D"
    _prepared: ClassVar[tuple[str, ...]] = ("_kernel", "_bias", "_pointwise")

    def __init__(
        self,
        kernel: Array,
        pointwise: Array,
        windows: Windows,
        bias: Array | None = None,
        activation: LayerActivation = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(kernel, windows, bias, activation, name=name)
        self.pointwise = frozen_copy(pointwise)
        self._pointwise: LinearMap
        wanted = self.kernel.shape[1] * self.kernel.shape[2]
        if self.pointwise.ndim != 3 or self.pointwise.shape[:2] != (1, wanted) or not self.pointwise.shape[2]:
            raise FormatError(f"pointwise_kernel: expected shape (1, {wanted}, filters), found {self.pointwise.shape}")

    @property
    def filters(self) -> int:
        return int(self.pointwise.shape[2])

    def weights(self) -> dict[str, Array]:
        first = {"depthwise_kernel": self.kernel, "pointwise_kernel": self.pointwise}
        return {**first, **super().weights()}

    def memory_bytes(self) -> int:
        return super().memory_bytes() + (self._pointwise.memory_bytes if self.numerics is not None else 0)

    def _prepare(self, numerics: Numerics) -> None:
        super()._prepare(numerics)
        fused, _ = split_activation(self.activation)
        self._pointwise = numerics.linear(self.pointwise[0], self.bias, fused)

    def _convolved(self, taps: list[Array]) -> Array:
        return np.asarray(self._pointwise(self._depthwise(taps)))
