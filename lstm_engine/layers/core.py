"""Dense, embedding, masking and activation layers, and those that do nothing at inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from lstm_engine.activations import Activation
from lstm_engine.arrays import as_float_array, as_index_array
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError
from lstm_engine.formats.limits import Limits, nonfinite_allowed, reading

from .base import Array, Context, Layer, Pointwise, Shape, Tensor, frozen_copy
from .functions import LayerActivation, LogSoftmax, Softmax, as_layer_activation, split_activation
from .numerics import LinearMap, Numerics

__all__ = ["Activate", "Dense", "Embedding", "Identity", "Masking", "PReLU", "checked_weight"]


def checked_weight(value: ArrayLike, name: str, axes: tuple[int | str, ...]) -> Array:
    """Return a weight that a caller gave, checked, in float64 if it came so, else in float32."""
    given = np.asarray(value)
    dtype = np.dtype(np.float64 if given.dtype == np.float64 else np.float32)
    array = as_float_array(given, name, axes, dtype)
    if not (nonfinite_allowed() or np.isfinite(array).all()):
        raise UnsupportedModelError(f"{name}: expected finite weights, found NaN or infinity; use a sound checkpoint")
    return frozen_copy(array)


class Dense(Pointwise):
    """A fully connected layer over the last axis: ``activation(x @ kernel + bias)``.

    Parameters
    ----------
    kernel
        (in_features, out_features). PyTorch keeps it transposed: see :meth:`from_torch`.
    bias
        (out_features,), or None for none.
    activation
        Name or :class:`~lstm_engine.activations.Activation`; also ``"softmax"``, ``"log_softmax"``. None for none.
    name
        The layer's name; a model gives it one if None.

    Raises
    ------
    ShapeError
        If an array has the wrong shape or dtype.
    UnsupportedModelError
        If the activation is not known or a weight is not finite.
    """

    kind = "Dense"
    _prepared: ClassVar[tuple[str, ...]] = ("linear",)

    def __init__(
        self, kernel: ArrayLike, bias: ArrayLike | None = None, activation: Any = None, *, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.kernel = checked_weight(kernel, "kernel", ("in_features", "out_features"))
        if 0 in self.kernel.shape:
            raise ShapeError(f"kernel: expected at least one input and one output, found shape {self.kernel.shape}")
        self.bias = None if bias is None else checked_weight(bias, "bias", (self.kernel.shape[1],))
        self.activation: LayerActivation = as_layer_activation(activation)
        self.linear: LinearMap

    @classmethod
    def from_torch(
        cls,
        source: Any,
        prefix: str | None = None,
        activation: Any = None,
        *,
        limits: Limits | None = None,
        allow_nonfinite: bool = False,
    ) -> Dense:
        """Return the layer of a ``torch.nn.Linear``.

        Parameters
        ----------
        source
            Path of a ``.pt`` or ``.safetensors`` file, a state dict, or the ``nn.Linear`` itself.
        prefix
            Name of the layer in the state dict, such as ``"fc"``; None if there is only one.
        activation
            As in :class:`Dense`: a state dict does not say what follows the layer.
        limits, allow_nonfinite
            As in :func:`lstm_engine.load`.
        """
        from lstm_engine.formats.torch_layers import linear_weights_from_torch

        with reading(limits, allow_nonfinite):
            kernel, bias = linear_weights_from_torch(source, prefix)
            return cls(kernel, bias, activation, name=(prefix or "").rpartition(".")[2] or None)

    @property
    def in_features(self) -> int:
        """Size of the last axis of the input."""
        return int(self.kernel.shape[0])

    @property
    def out_features(self) -> int:
        """Size of the last axis of the output."""
        return int(self.kernel.shape[1])

    def weights(self) -> dict[str, Array]:
        return {"kernel": self.kernel} if self.bias is None else {"kernel": self.kernel, "bias": self.bias}

    def memory_bytes(self) -> int:
        packed = self.linear.memory_bytes if self.numerics is not None else 0
        return super().memory_bytes() + int(packed)

    def _prepare(self, numerics: Numerics) -> None:
        fused, _ = split_activation(self.activation)
        self.linear = numerics.linear(self.kernel, self.bias, fused)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = shapes[0]
        if len(shape) < 2 or shape[-1] not in (None, self.in_features):
            raise FormatError(f"its kernel takes {self.in_features} features, its input has shape {shape}")
        return ((*shape[:-1], self.out_features),)

    def apply(self, values: Array) -> Array:
        assert self.numerics is not None
        if values.shape[-1] != self.in_features:
            raise ShapeError(
                f"{self.name}: expected an input of {self.in_features} features, found shape {values.shape}"
            )
        y = self.linear(values)
        _, rest = split_activation(self.activation)
        return y if rest is None else rest(y, self.numerics)


class Embedding(Layer):
    """A table of vectors, one for each token number.

    Parameters
    ----------
    table
        (tokens, features).
    mask_zero
        Whether token 0 is padding: its steps are masked for the layers that follow.
    name
        The layer's name; a model gives it one if None.

    Raises
    ------
    ShapeError
        If the table has the wrong shape or dtype.
    """

    kind = "Embedding"
    takes_indices = True
    _prepared: ClassVar[tuple[str, ...]] = ("_rows",)

    def __init__(self, table: ArrayLike, mask_zero: bool = False, *, name: str | None = None) -> None:
        super().__init__(name)
        self.table = checked_weight(table, "table", ("tokens", "features"))
        if 0 in self.table.shape:
            raise ShapeError(f"table: expected at least one token and one feature, found shape {self.table.shape}")
        self.mask_zero = bool(mask_zero)
        self._rows: Array

    @classmethod
    def from_torch(
        cls, source: Any, prefix: str | None = None, *, limits: Limits | None = None, allow_nonfinite: bool = False
    ) -> Embedding:
        """Return the layer of a ``torch.nn.Embedding``.

        Parameters
        ----------
        source
            Path of a ``.pt`` or ``.safetensors`` file, a state dict, or the ``nn.Embedding`` itself.
        prefix
            Name of the layer in the state dict, such as ``"embed"``; None if there is only one.
        limits, allow_nonfinite
            As in :func:`lstm_engine.load`.
        """
        from lstm_engine.formats.torch_layers import embedding_weights_from_torch

        with reading(limits, allow_nonfinite):
            table = embedding_weights_from_torch(source, prefix)
            return cls(table, name=(prefix or "").rpartition(".")[2] or None)

    def weights(self) -> dict[str, Array]:
        return {"embeddings": self.table}

    def memory_bytes(self) -> int:
        shared = self.numerics is None or self._rows is self.table
        return super().memory_bytes() + (0 if shared else self._rows.nbytes)

    def _prepare(self, numerics: Numerics) -> None:
        # No second copy of what is often the largest weight of a model.
        self._rows = self.table if self.table.dtype == numerics.dtype else frozen_copy(self.table, numerics.dtype)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        return ((*shapes[0], int(self.table.shape[1])),)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        values, mask = inputs[0]
        indices = as_index_array(values, f"input of {self.name}")
        tokens = self.table.shape[0]
        if indices.size and (indices.min() < 0 or indices.max() >= tokens):
            outside = (indices < 0) | (indices >= tokens)
            first = tuple(int(place) for place in np.argwhere(outside)[0])
            raise ShapeError(
                f"input of {self.name}: expected token numbers from 0 to {tokens - 1}, found {indices[first]} at "
                f"{first}; encode the text with the vocabulary that the model was trained with"
            )
        if self.mask_zero:
            present = indices != 0
            mask = present if mask is None or mask.shape != present.shape else mask & present
        return (Tensor(self._rows[indices], mask),)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        return (True,)


class Masking(Layer):
    """Masks the steps whose features all equal a value, and sets them to zero.

    Parameters
    ----------
    mask_value
        The value.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "Masking"

    def __init__(self, mask_value: float = 0.0, *, name: str | None = None) -> None:
        super().__init__(name)
        self.mask_value = float(mask_value)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        return (shapes[0],)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        values, given = inputs[0]
        mask = (values != values.dtype.type(self.mask_value)).any(axis=-1)
        y = np.where(mask[..., None], values, np.zeros((), values.dtype))
        # The mask of a layer before it ends here, as in the framework; what the caller masks stays masked.
        holds = context.caller_masked and given is not None and given.shape == mask.shape
        return (Tensor(y, mask & given if holds else mask),)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        return (True,)


class Activate(Pointwise):
    """A layer that applies an activation.

    Parameters
    ----------
    activation
        As in :class:`Dense`.
    kind
        The framework's name of the layer, for messages and summaries.
    name
        The layer's name; a model gives it one if None.
    """

    def __init__(self, activation: Any, *, kind: str = "Activation", name: str | None = None) -> None:
        super().__init__(name)
        self.activation = as_layer_activation(activation)
        self.kind = kind  # one class stands for several of the framework's

    @property
    def _axis(self) -> int | None:
        return self.activation.axis if isinstance(self.activation, (Softmax, LogSoftmax)) else None

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        rank = len(shapes[0])
        if self._axis is not None and (not -rank <= self._axis < rank or self._axis % rank == 0):
            raise FormatError(f"axis {self._axis} is no axis of an input of shape {shapes[0]}, the batch excluded")
        return (shapes[0],)

    def apply(self, values: Array) -> Array:
        assert self.numerics is not None
        if self.activation is None:
            return values
        if isinstance(self.activation, Activation):
            return self.numerics.activate(values, self.activation)
        return self.activation(values, self.numerics)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        values, mask = inputs[0]
        if self._axis is not None and mask is not None and self._axis % values.ndim < mask.ndim:
            raise UnsupportedModelError(
                f"{self.name}: a {self.kind} over axis {self._axis}, which is masked, is not supported: "
                "the framework defines no result for it either"
            )
        return super().call(inputs, context)

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self._axis is not None and self._axis % len(shapes[0]) == 1:
            raise UnsupportedModelError(f"a {self.kind} over the time axis needs the whole sequence")
        return (True,)


class PReLU(Pointwise):
    """``x`` where it is positive, else ``alpha * x`` with a slope for each place of a row (He et al. 2015).

    Parameters
    ----------
    alpha
        Slopes, of the shape of a row; size 1 for an axis that shares them.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "PReLU"
    _prepared: ClassVar[tuple[str, ...]] = ("_alpha",)

    def __init__(self, alpha: Array, *, name: str | None = None) -> None:
        super().__init__(name)
        self.alpha = frozen_copy(alpha)
        self._alpha: Array

    def weights(self) -> dict[str, Array]:
        return {"alpha": self.alpha}

    def _prepare(self, numerics: Numerics) -> None:
        self._alpha = frozen_copy(self.alpha, numerics.dtype)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        row, alpha = shapes[0][1:], self.alpha.shape
        if len(row) != len(alpha) or any(a not in (1, b) for a, b in zip(alpha, row, strict=True) if b is not None):
            raise FormatError(f"its alpha has shape {alpha}, its input has shape {shapes[0]}")
        return (shapes[0],)

    def apply(self, values: Array) -> Array:
        if any(a not in (1, b) for a, b in zip(self.alpha.shape, values.shape[1:], strict=True)):
            raise ShapeError(f"input of {self.name}: expected a row of shape {self.alpha.shape}, found {values.shape}")
        zero = np.zeros((), values.dtype)
        return np.asarray(np.maximum(values, zero) + self._alpha * np.minimum(values, zero))

    def stream(self, shapes: Sequence[Shape]) -> tuple[bool, ...]:
        if self.alpha.shape[0] != 1 and self.alpha.ndim > 1:
            raise UnsupportedModelError("it has slopes of its own for each step of a sequence of fixed length")
        return (True,)


class Identity(Pointwise):
    """A layer that changes nothing at inference: dropout, noise and their kin.

    Parameters
    ----------
    kind
        The framework's name of the layer, for messages and summaries.
    name
        The layer's name; a model gives it one if None.
    """

    def __init__(self, *, kind: str = "Identity", name: str | None = None) -> None:
        super().__init__(name)
        self.kind = kind  # one class stands for several of the framework's

    def apply(self, values: Array) -> Array:
        return values
