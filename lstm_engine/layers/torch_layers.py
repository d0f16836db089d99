"""PyTorch's layers by PyTorch's names: Conv1d, BatchNorm1d, LayerNorm, Dropout.

**Order of axes.** Every layer of :class:`lstm_engine.Sequential` has time in front of the features: (batch, time,
features). PyTorch's Conv1d and BatchNorm1d have the channels in front of time, so models there transpose around them;
here nothing is transposed. With ``channels_first=True`` they take PyTorch's own (batch, channels, time).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError
from lstm_engine.formats.limits import Limits, reading

from .base import Array, Context, Shape, Tensor
from .convolution import Conv1D
from .core import Identity, checked_weight
from .normalization import BatchNormalization, LayerNormalization
from .windows import MAX_STEPS, Windows

__all__ = ["BatchNorm1d", "Conv1d", "Dropout", "LayerNorm"]

#: NumPy's name of each padding mode of PyTorch.
_PADDING_MODES: Final = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _last(prefix: str | None) -> str | None:
    return (prefix or "").rpartition(".")[2] or None


def _given(source: Any, names: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """Return options: as they were given, else as a live module has them."""
    from lstm_engine.formats.torch_source import is_module

    own = {name: getattr(source, name) for name in names} if is_module(source) else {}
    return own | {name: value for name, value in options.items() if value is not None}


def _single(name: str, value: Any) -> int:
    """Return an option of a layer over one axis, which PyTorch keeps as a tuple of one."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        (value,) = value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise UnsupportedModelError(f"{name}: expected a whole number, found {value!r:.60}")
    return int(value)


class Conv1d(Conv1D):
    """A convolution over time, as ``torch.nn.Conv1d``.

    (batch, time, channels) becomes (batch, time, filters); see the module about the order of axes. A mask, or lengths,
    pass through if there are as many steps as before; the windows of a row's last steps then see what stands behind
    them, as in PyTorch.

    Parameters
    ----------
    kernel
        (size, channels / groups, filters). PyTorch keeps it the other way round: see :meth:`from_torch`.
    bias
        (filters,), or None for none.
    stride, dilation, groups
        As in PyTorch.
    padding
        Steps at both ends, ``"same"`` (stride 1 only), ``"valid"`` for none, or a pair (before, after):
        (size - 1, 0) makes a causal convolution.
    padding_mode
        ``"zeros"``, ``"reflect"``, ``"replicate"`` or ``"circular"``.
    channels_first
        Whether the arrays are (batch, channels, time).
    name
        The layer's name; a model gives it one if None.

    Raises
    ------
    ShapeError, UnsupportedModelError
        If a weight or an option does not fit.
    """

    kind = "Conv1d"

    def __init__(
        self,
        kernel: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        stride: int = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        channels_first: bool = False,
        name: str | None = None,
    ) -> None:
        kernel = checked_weight(kernel, "kernel", ("size", "channels / groups", "filters"))
        if 0 in kernel.shape:
            raise ShapeError(f"kernel: expected at least one of each axis, found shape {kernel.shape}")
        self.stride, self.dilation = _single("stride", stride), _single("dilation", dilation)
        try:
            windows = Windows(kernel.shape[0], self.stride, self.dilation, "valid", bool(channels_first))
            super().__init__(
                kernel,
                windows,
                None if bias is None else checked_weight(bias, "bias", (kernel.shape[2],)),
                groups=_single("groups", groups),
                name=name,
            )
        except FormatError as error:
            raise UnsupportedModelError(str(error)) from None
        self.channels_first = bool(channels_first)
        self.padding = self._ends(padding)
        self.padding_mode = padding_mode
        if padding_mode not in _PADDING_MODES:
            raise UnsupportedModelError(
                f"padding_mode: expected one of {', '.join(_PADDING_MODES)}, found {padding_mode!r:.60}"
            )

    def _ends(self, padding: Any) -> tuple[int, int]:
        """Return the steps of padding before and after."""
        if padding == "same":
            if self.stride != 1:
                raise UnsupportedModelError(f"padding: 'same' needs stride 1, found stride {self.stride}")
            missing = self.windows.span - 1
            return missing // 2, missing - missing // 2
        pair = padding if isinstance(padding, (list, tuple)) and len(padding) == 2 else (padding, padding)
        before, after = (0, 0) if padding == "valid" else (_single("padding", end) for end in pair)
        if not 0 <= min(before, after) <= max(before, after) <= MAX_STEPS:
            raise UnsupportedModelError(f"padding: expected from 0 to {MAX_STEPS} steps, found {padding!r:.60}")
        return before, after

    @classmethod
    def from_torch(
        cls,
        source: Any,
        prefix: str | None = None,
        *,
        stride: int | None = None,
        padding: int | str | None = None,
        dilation: int | None = None,
        groups: int | None = None,
        padding_mode: str | None = None,
        channels_first: bool = False,
        limits: Limits | None = None,
        allow_nonfinite: bool = False,
    ) -> Conv1d:
        """Return the layer of a ``torch.nn.Conv1d``.

        Parameters
        ----------
        source
            Path of a ``.pt`` or ``.safetensors`` file, a state dict, or the ``nn.Conv1d`` itself.
        prefix
            Name of the layer in the state dict, such as ``"conv"``; None if there is only one.
        stride, padding, dilation, groups, padding_mode
            As they were given to the ``nn.Conv1d``: a state dict does not have them. If None, those of a live module,
            else PyTorch's defaults.
        channels_first
            As in :class:`Conv1d`.
        limits, allow_nonfinite
            As in :func:`lstm_engine.load`.
        """
        from lstm_engine.formats.torch_layers import conv1d_weights_from_torch

        options = {
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "padding_mode": padding_mode,
        }
        with reading(limits, allow_nonfinite):
            kernel, bias = conv1d_weights_from_torch(source, prefix)
            found = _given(source, tuple(options), options)
            return cls(kernel, bias, channels_first=channels_first, name=_last(prefix), **found)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        shape, axis = shapes[0], 2 if self.channels_first else 1
        if len(shape) == 3 and (time := shape[axis]) is not None:
            shape = (*shape[:axis], time + sum(self.padding), *shape[axis + 1 :])
        return super().output_shapes([shape, *shapes[1:]])

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        values, mask = inputs[0]
        axis = 2 if self.channels_first else 1
        time, (before, after) = values.shape[axis], self.padding
        if context.states is None and (before or after):  # in a stream, what came before stands there
            self._check_steps(time)
            widths = [(0, 0)] * values.ndim
            widths[axis] = (before, after)
            padded: Any = np.pad(values, widths, mode=_PADDING_MODES[self.padding_mode])  # type: ignore[call-overload]
            values = padded
        ((y, _),) = super().call([Tensor(values)], context)
        if mask is not None and y.shape[axis] != time:
            raise ShapeError(
                f"mask, lengths: {self.name} makes {y.shape[axis]} steps of {time}, so they hold no longer behind it; "
                "call the part of the model behind it on its own, with lengths of its own"
            )
        return (Tensor(y, mask),)

    @property
    def _is_causal(self) -> bool:
        span = self.windows.span
        return self.padding == (span - 1, 0) and (span == 1 or self.padding_mode == "zeros")

    def _check_steps(self, time: int) -> None:
        """Raise ShapeError where PyTorch does: at padding that repeats more than there is."""
        least = {"reflect": max(self.padding) + 1, "replicate": 1, "circular": max(self.padding)}
        if time < least.get(self.padding_mode, 0):
            raise ShapeError(
                f"input of {self.name}: padding_mode {self.padding_mode!r} with padding {self.padding} needs at least "
                f"{least[self.padding_mode]} steps, found {time}"
            )


class BatchNorm1d(BatchNormalization):
    """Batch normalization by running statistics, as ``torch.nn.BatchNorm1d`` in evaluation mode.

    Over the last axis; see the module about the order of axes.

    Parameters
    ----------
    mean, variance
        Running statistics, (features,).
    gamma, beta
        Scale and shift, PyTorch's weight and bias; or None.
    epsilon
        Added to the variance.
    channels_first
        Whether the features are axis 1, as in PyTorch.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "BatchNorm1d"

    def __init__(
        self,
        mean: Array,
        variance: Array,
        gamma: Array | None = None,
        beta: Array | None = None,
        *,
        epsilon: float = 1e-5,
        channels_first: bool = False,
        name: str | None = None,
    ) -> None:
        axis = 1 if channels_first else -1
        super().__init__(mean, variance, gamma, beta, epsilon=epsilon, axis=axis, name=name)
        self.channels_first = bool(channels_first)

    @classmethod
    def from_torch(
        cls,
        source: Any,
        prefix: str | None = None,
        *,
        eps: float | None = None,
        channels_first: bool = False,
        limits: Limits | None = None,
        allow_nonfinite: bool = False,
    ) -> BatchNorm1d:
        """Return the layer of a ``torch.nn.BatchNorm1d``.

        Parameters
        ----------
        source, prefix, limits, allow_nonfinite
            As of :meth:`Conv1d.from_torch`.
        eps
            As it was given to the ``nn.BatchNorm1d``: a state dict does not have it. If None, that of a live module,
            else PyTorch's default, 1e-5.
        channels_first
            As in :class:`BatchNorm1d`.
        """
        from lstm_engine.formats.torch_layers import batch_norm_weights_from_torch

        with reading(limits, allow_nonfinite):
            found = batch_norm_weights_from_torch(source, prefix)
            return cls(
                found["running_mean"],
                found["running_var"],
                found.get("weight"),
                found.get("bias"),
                epsilon=_given(source, ["eps"], {"eps": eps}).get("eps", 1e-5),
                channels_first=channels_first,
                name=_last(prefix),
            )

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = shapes[0]
        if self.channels_first and (len(shape) not in (2, 3) or shape[1] is None):
            raise FormatError(
                f"expected {self.mean.size} channels on axis 1 of an input of rank 2 or 3, found shape {shape}"
            )
        return super().output_shapes(shapes)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.channels_first:
            raise UnsupportedModelError("its input has the channels in front of time")
        return super().stream(shapes)


class LayerNorm(LayerNormalization):
    """Layer normalization over the last axes, as ``torch.nn.LayerNorm``.

    Parameters
    ----------
    gamma, beta
        Scale and shift, PyTorch's weight and bias, of the shape of the normalized axes; or None.
    epsilon
        Added to the variance.
    axes
        The normalized axes; None for as many as gamma has, or the last one.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "LayerNorm"

    def __init__(
        self,
        gamma: Array | None = None,
        beta: Array | None = None,
        *,
        epsilon: float = 1e-5,
        axes: Sequence[int] | None = None,
        name: str | None = None,
    ) -> None:
        rank = 1 if gamma is None else np.ndim(gamma)
        super().__init__(gamma, beta, epsilon=epsilon, axes=range(-rank, 0) if axes is None else axes, name=name)

    @classmethod
    def from_torch(
        cls,
        source: Any,
        prefix: str | None = None,
        *,
        eps: float | None = None,
        limits: Limits | None = None,
        allow_nonfinite: bool = False,
    ) -> LayerNorm:
        """Return the layer of a ``torch.nn.LayerNorm``.

        Parameters
        ----------
        source, prefix, limits, allow_nonfinite
            As of :meth:`Conv1d.from_torch`.
        eps
            As of :meth:`BatchNorm1d.from_torch`.
        """
        from lstm_engine.formats.torch_layers import layer_norm_weights_from_torch

        with reading(limits, allow_nonfinite):
            epsilon = _given(source, ["eps"], {"eps": eps}).get("eps", 1e-5)
            if getattr(source, "elementwise_affine", True) is False:
                # It has no weights; a scale of one changes no bit and says which sizes are normalized.
                return cls(np.ones(tuple(source.normalized_shape), np.float32), epsilon=epsilon, name=_last(prefix))
            gamma, beta = layer_norm_weights_from_torch(source, prefix)
            return cls(gamma, beta, epsilon=epsilon, name=_last(prefix))


class Dropout(Identity):
    """Dropout, which changes nothing when a model is used: there so that a model reads as in PyTorch.

    Parameters
    ----------
    p
        Probability of a zero in training; kept for the record.
    name
        The layer's name; a model gives it one if None.
    """

    def __init__(self, p: float = 0.5, *, name: str | None = None) -> None:
        super().__init__(kind="Dropout", name=name)
        self.p = float(p)
