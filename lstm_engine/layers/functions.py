"""Activations of layers: those of the core, and those that need more than one value or more than one step.

An LSTM's gates take an :class:`~lstm_engine.activations.Activation` alone. A dense or activation layer
takes also the functions of this file, which are built from the core's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from lstm_engine.activations import DEFAULTS, Activation
from lstm_engine.errors import UnsupportedModelError

from .base import Array
from .numerics import Numerics

__all__ = [
    "COMPOSED",
    "ClippedReLU",
    "Composed",
    "Function",
    "LayerActivation",
    "LogSoftmax",
    "Softmax",
    "as_layer_activation",
    "split_activation",
]


@runtime_checkable
class Function(Protocol):
    """A function of a whole array: values and their numerics in, values of the same shape out."""

    def __call__(self, x: Array, numerics: Numerics) -> Array:
        """Compute the function."""


#: What a dense or activation layer may end with; None for nothing.
LayerActivation = Activation | Function | None


@dataclass(frozen=True, slots=True)
class Softmax:
    """exp(x) / sum(exp(x)) over one axis."""

    axis: int = -1

    def __call__(self, x: Array, numerics: Numerics) -> Array:
        return numerics.over_axis(numerics.softmax, x, self.axis)


@dataclass(frozen=True, slots=True)
class LogSoftmax:
    """log(softmax(x)) over one axis."""

    axis: int = -1

    def __call__(self, x: Array, numerics: Numerics) -> Array:
        return numerics.over_axis(numerics.log_softmax, x, self.axis)


@dataclass(frozen=True, slots=True)
class ClippedReLU:
    """Keras's relu with all its options.

    ::

        max_value                             where x >= max_value
        x                                     where threshold < x < max_value
        negative_slope * (x - threshold)      elsewhere
    """

    max_value: float | None = None
    negative_slope: float = 0.0
    threshold: float = 0.0

    def __call__(self, x: Array, numerics: Numerics) -> Array:
        # Comparisons are written so that NaN stays NaN.
        y = np.where(x <= self.threshold, np.zeros((), x.dtype), x)
        if self.max_value is not None:
            y = np.minimum(y, x.dtype.type(self.max_value))
        if self.negative_slope != 0.0:
            below = np.minimum(x - x.dtype.type(self.threshold), x.dtype.type(0.0))
            y = y + x.dtype.type(self.negative_slope) * below
        return np.asarray(y)


def _relu6(x: Array, numerics: Numerics) -> Array:
    return ClippedReLU(max_value=6.0)(x, numerics)


def _hard_tanh(x: Array, numerics: Numerics) -> Array:
    return np.asarray(np.clip(x, x.dtype.type(-1.0), x.dtype.type(1.0)))


def _hard_silu(x: Array, numerics: Numerics) -> Array:
    return np.asarray(x * numerics.activate(x, Activation("hard_sigmoid", 1.0 / 6.0, 0.5)))


def _log_sigmoid(x: Array, numerics: Numerics) -> Array:
    return -numerics.activate(-x, Activation("softplus"))


def _mish(x: Array, numerics: Numerics) -> Array:
    # Misra 2019.
    return np.asarray(x * numerics.activate(numerics.activate(x, Activation("softplus")), Activation("tanh")))


_FORMULAS: Final = {
    "relu6": _relu6,
    "hard_tanh": _hard_tanh,
    "hard_silu": _hard_silu,
    "log_sigmoid": _log_sigmoid,
    "mish": _mish,
}

#: Names of the functions that :class:`Composed` knows.
COMPOSED: Final = tuple(_FORMULAS)


@dataclass(frozen=True, slots=True)
class Composed:
    """A function without parameters, composed of the core's.

    ============  =======================
    relu6         min(max(x, 0), 6)
    hard_tanh     min(max(x, -1), 1)
    hard_silu     x * hard_sigmoid(x)
    log_sigmoid   -log(1 + exp(-x))
    mish          x * tanh(log(1 + exp(x)))
    ============  =======================
    """

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in _FORMULAS:
            raise ValueError(f"function: {self.kind!r} is not known; use one of: {', '.join(COMPOSED)}")

    def __call__(self, x: Array, numerics: Numerics) -> Array:
        with np.errstate(all="ignore"):
            return _FORMULAS[self.kind](x, numerics)


def as_layer_activation(value: Any, name: str = "activation") -> LayerActivation:
    """Return the activation that a user means by ``value``.

    Parameters
    ----------
    value
        None, an :class:`~lstm_engine.activations.Activation`, a function of this file, or a name: a key of
        :data:`~lstm_engine.activations.DEFAULTS` (with default parameters), one of :data:`COMPOSED`,
        ``"softmax"`` or ``"log_softmax"``.
    name
        The argument's name, for messages.

    Raises
    ------
    UnsupportedModelError
        If the name is not known.
    """
    if value is None or isinstance(value, (Activation, Softmax, LogSoftmax, ClippedReLU, Composed)):
        return value
    if value == "softmax":
        return Softmax()
    if value == "log_softmax":
        return LogSoftmax()
    if isinstance(value, str) and value in COMPOSED:
        return Composed(value)
    if isinstance(value, str) and value in DEFAULTS:
        return Activation(value)
    known = ", ".join([*DEFAULTS, *COMPOSED, "softmax", "log_softmax"])
    raise UnsupportedModelError(f"{name}: expected None, an Activation or one of {known}; found {value!r}")


def split_activation(activation: LayerActivation) -> tuple[Activation | None, Function | None]:
    """Return the part of ``activation`` that the core applies while it has the sums, and the rest."""
    if activation is None or (isinstance(activation, Activation) and activation.kind == "linear"):
        return None, None
    if isinstance(activation, Activation):
        return activation, None
    return None, activation
