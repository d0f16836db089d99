"""Windows over the steps of a sequence: what convolution and pooling share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from lstm_engine.errors import FormatError, ShapeError

from .base import Array, Shape

__all__ = ["MAX_STEPS", "Windows"]

#: Most steps that an option may span or add: a number in a file must not decide over gigabytes.
MAX_STEPS: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Windows:
    """Where the windows of a layer lie on the time axis.

    Parameters
    ----------
    size
        Steps that a window takes.
    stride
        Steps from one window to the next.
    dilation
        Steps between two that a window takes.
    padding
        ``"valid"``: whole windows alone; ``"same"``: ceil(time / stride) windows, padded at both ends, the odd step
        at the end; ``"causal"``: as many, padded at the beginning alone.
    channels_first
        Whether time is axis 2 and not axis 1.

    Raises
    ------
    FormatError
        If a number is not positive, or the windows span more than :data:`MAX_STEPS`.
    """

    size: int
    stride: int = 1
    dilation: int = 1
    padding: str = "valid"
    channels_first: bool = False

    def __post_init__(self) -> None:
        for name in ("size", "stride", "dilation"):
            if not 0 < getattr(self, name) <= MAX_STEPS:
                raise FormatError(f"window {name}: expected from 1 to {MAX_STEPS} steps, found {getattr(self, name)}")
        if self.span > MAX_STEPS:
            raise FormatError(f"windows: expected to span at most {MAX_STEPS} steps, found {self.span}")

    @property
    def span(self) -> int:
        """Steps from the first to the last that a window takes, both included."""
        return (self.size - 1) * self.dilation + 1

    def count(self, time: int) -> int:
        """Return the number of windows on ``time`` steps."""
        return (time - self.span) // self.stride + 1 if self.padding == "valid" else -(-time // self.stride)

    def output_shape(self, shape: Shape, channels: int | None) -> Shape:
        """Return the shape of a layer's output of so many channels for an input of ``shape``.

        Raises
        ------
        FormatError
            If the input is not of rank 3, or shorter than a window.
        """
        if len(shape) != 3:
            raise FormatError(f"expected an input of rank 3, found shape {shape}")
        time = shape[2 if self.channels_first else 1]
        if time is not None and self.count(time) <= 0 < time:
            raise FormatError(f"its windows span {self.span} steps, its input has shape {shape}")
        steps = None if time is None else max(self.count(time), 0)
        return (shape[0], channels, steps) if self.channels_first else (shape[0], steps, channels)

    def inwards(self, values: Array) -> Array:
        """Return ``values`` as (batch, time, channels), C-contiguous."""
        return np.ascontiguousarray(values.swapaxes(1, 2)) if self.channels_first else values

    def outwards(self, values: Array) -> Array:
        """Return (batch, time, channels) in the layer's own order of axes, C-contiguous."""
        return np.ascontiguousarray(values.swapaxes(1, 2) if self.channels_first else values)

    def ends(self, time: int) -> tuple[int, int]:
        """Return the steps of padding before and after ``time`` steps."""
        if self.padding == "valid":
            return 0, 0
        if self.padding == "causal":
            return self.span - 1, 0
        missing = max((self.count(time) - 1) * self.stride + self.span - time, 0)
        return missing // 2, missing - missing // 2

    def of(self, values: Array, fill: Any, name: str) -> list[Array]:
        """Return, for each place in a window, the steps that the windows have there.

        Parameters
        ----------
        values
            (batch, time, channels).
        fill
            What the padding holds.
        name
            The layer's name, for messages.

        Returns
        -------
        list of numpy.ndarray
            ``size`` views of (batch, windows, channels).

        Raises
        ------
        ShapeError
            If there are too few steps for a window.
        """
        time = values.shape[1]
        if self.padding == "valid" and time < self.span:
            raise ShapeError(f"input of {name}: expected at least {self.span} steps, found {time}")
        before, after = self.ends(time)
        if before or after:
            values = np.pad(values, ((0, 0), (before, after), (0, 0)), constant_values=fill)
        reach = max((self.count(time) - 1) * self.stride + 1, 0)
        return [values[:, start : start + reach : self.stride] for start in range(0, self.span, self.dilation)]
