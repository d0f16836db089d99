"""Where the layers' arithmetic is done: the compiled core in float32, NumPy in float64.

The float32 side keeps the promise of same bits: the row of a batch comes out alike whatever the batch, the
row's place in it and the instruction set. So whatever sums or takes an exponential goes through the
core, and what the layers do in NumPy themselves is elementwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from lstm_engine.activations import Activation
from lstm_engine.formats.limits import spend_packed
from lstm_engine.options import Backend, ComputeType, check_options, dtype_of

from .base import Array

if TYPE_CHECKING:
    from lstm_engine._core import Threads
    from lstm_engine.lstm import LSTM
    from lstm_engine.weights import LSTMWeights

__all__ = ["LinearMap", "Numerics"]


class LinearMap(Protocol):
    """``activation(x @ kernel + bias)`` over the last axis."""

    @property
    def memory_bytes(self) -> int:
        """Bytes that the weights take."""

    def __call__(self, x: Any) -> Any:
        """Return (..., out_features) for x (..., in_features)."""


class _Float64Linear:
    """:class:`LinearMap` in float64, by NumPy's BLAS."""

    def __init__(self, kernel: Array, bias: Array | None, activation: Activation | None) -> None:
        self.kernel = np.ascontiguousarray(kernel, dtype=np.float64)
        self.bias = None if bias is None else np.ascontiguousarray(bias, dtype=np.float64)
        self.activation = activation

    @property
    def memory_bytes(self) -> int:
        return self.kernel.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, x: Array) -> Array:
        from lstm_engine.reference import activation

        sums = np.matmul(x, self.kernel)
        if self.bias is not None:
            sums += self.bias
        return sums if self.activation is None else activation(self.activation, sums)


@dataclass(frozen=True, slots=True)
class Numerics:
    """A compute type and a backend, and the operations that depend on them.

    Parameters
    ----------
    compute_type
        ``"float32"`` or ``"float64"``; or a narrow one for the LSTMs, beside which all else is float32.
    backend
        Of the recurrent layers: ``"auto"``, ``"fused"`` or ``"blas"``; float64 runs on blas alone.
    threads
        That the LSTMs of the model share; None for one thread.

    Raises
    ------
    UnsupportedModelError
        If the compute type or the backend is not known, or they do not go together.
    """

    compute_type: ComputeType = "float32"
    backend: Backend = "auto"
    threads: Threads | None = None

    def __post_init__(self) -> None:
        check_options(self.compute_type, 1, self.backend)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values between layers."""
        return dtype_of(self.compute_type)

    @property
    def double(self) -> bool:
        """Whether the compute type is float64."""
        return self.compute_type == "float64"

    def lstm(self, weights: LSTMWeights) -> LSTM:
        """Return the packed LSTM stack."""
        from lstm_engine.lstm import LSTM

        return LSTM(weights, compute_type=self.compute_type, num_threads=self.threads or 1, backend=self.backend)

    def linear(self, kernel: Array, bias: Array | None = None, activation: Activation | None = None) -> LinearMap:
        """Return ``activation(x @ kernel + bias)``, packed; kernel (in_features, out_features)."""
        spend_packed(kernel.shape[0] + 1, kernel.shape[1], self.dtype.itemsize)
        if self.double:
            return _Float64Linear(kernel, bias, activation)
        from lstm_engine._core import Linear

        return Linear(
            np.ascontiguousarray(kernel, dtype=np.float32),
            None if bias is None else np.ascontiguousarray(bias, dtype=np.float32),
            activation,
        )

    def activate(self, x: Array, activation: Activation) -> Array:
        """Apply an activation elementwise."""
        if self.double:
            from lstm_engine.reference import activation as apply

            return apply(activation, x)
        from lstm_engine._core import activate

        return activate(x, activation)

    def softmax(self, x: Array) -> Array:
        """Softmax over the last axis."""
        if self.double:
            with np.errstate(all="ignore"):
                powers = np.exp(x - np.max(x, axis=-1, keepdims=True, initial=-np.inf))
                return np.asarray(powers / np.sum(powers, axis=-1, keepdims=True))
        from lstm_engine._core import softmax

        return softmax(x)

    def log_softmax(self, x: Array) -> Array:
        """Logarithm of the softmax over the last axis, without its underflow."""
        with np.errstate(all="ignore"):
            # The maximum is exact in any order, so it is the same in any batch.
            shifted = x - np.max(x, axis=-1, keepdims=True, initial=-np.inf)
            if self.double:
                return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True)))
            return np.asarray(shifted - self._log_sum_exp(shifted))

    def _log_sum_exp(self, x: Array) -> Array:
        """log(sum(exp(x))) over the last axis, kept with size 1.

        Halves are merged by log(exp(a) + exp(b)) = max + softplus(min - max), a tree of fixed form: the core has the
        softplus, and NumPy's own log differs by a bit from one CPU to the next.
        """
        softplus = Activation("softplus")
        while x.shape[-1] > 1:
            half = x.shape[-1] // 2
            left, right = x[..., :half], x[..., half : 2 * half]
            high, low = np.maximum(left, right), np.minimum(left, right)
            # Two terms of zero: their logarithms are -infinity, and so is that of their sum.
            difference = np.where(low == -np.inf, low, low - high)
            merged = high + self.activate(np.ascontiguousarray(difference), softplus)
            x = np.concatenate([merged, x[..., 2 * half :]], axis=-1)
        return x

    def layer_norm(self, x: Array, gamma: Array | None, beta: Array | None, epsilon: float) -> Array:
        """Normalise over the last axis, then scale by gamma and shift by beta, each (features,) or None."""
        if not self.double:
            from lstm_engine._core import layer_norm

            return layer_norm(x, gamma, beta, epsilon)
        with np.errstate(all="ignore"):
            mean = np.mean(x, axis=-1, keepdims=True)
            centred = x - mean
            variance = np.mean(np.square(centred), axis=-1, keepdims=True)
            y = centred / np.sqrt(variance + epsilon)
        if gamma is not None:
            y = y * gamma
        return np.asarray(y if beta is None else y + beta)

    def over_axis(self, function: Callable[[Array], Array], x: Array, axis: int) -> Array:
        """Apply a function of the last axis over ``axis`` instead."""
        if axis in (-1, x.ndim - 1):
            return function(x)
        moved = np.ascontiguousarray(np.moveaxis(x, axis, -1))
        return np.ascontiguousarray(np.moveaxis(function(moved), -1, axis))
