"""Activation functions: the names, parameters and codes that Python and the C core share.

The codes are those of ``enum le_activation_kind`` in ``include/lstm_engine/activation.h``; a test
compares the two. What a framework calls an activation is translated by the reader of that
framework's format, so that this file knows one name for each formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CODES", "DEFAULTS", "Activation"]

#: Formula of every kind, with the defaults of its parameters ``alpha`` and ``beta``.
#:
#: =================  ====================================================================
#: linear             x
#: sigmoid            1 / (1 + exp(-x))
#: tanh               tanh(x)
#: relu               max(x, 0)
#: hard_sigmoid       min(max(alpha * x + beta, 0), 1); Keras 3: 1/6, 0.5; Keras 1, 2, ONNX: 0.2, 0.5
#: softsign           x / (1 + |x|)
#: elu                x if x > 0 else alpha * (exp(x) - 1)
#: selu               1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (exp(x) - 1))
#: softplus           log(1 + exp(x))
#: exponential        exp(x)
#: gelu               0.5 * x * (1 + erf(x / sqrt(2)))
#: gelu_tanh          0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
#: silu               x / (1 + exp(-x))
#: leaky_relu         x if x >= 0 else alpha * x
#: affine             alpha * x + beta
#: thresholded_relu   x if x > alpha else 0
#: scaled_tanh        alpha * tanh(beta * x)
#: =================  ====================================================================
DEFAULTS: Final[dict[str, tuple[float, float]]] = {
    "linear": (0.0, 0.0),
    "sigmoid": (0.0, 0.0),
    "tanh": (0.0, 0.0),
    "relu": (0.0, 0.0),
    "hard_sigmoid": (1.0 / 6.0, 0.5),
    "softsign": (0.0, 0.0),
    "elu": (1.0, 0.0),
    "selu": (0.0, 0.0),
    "softplus": (0.0, 0.0),
    "exponential": (0.0, 0.0),
    "gelu": (0.0, 0.0),
    "gelu_tanh": (0.0, 0.0),
    "silu": (0.0, 0.0),
    "leaky_relu": (0.01, 0.0),
    "affine": (1.0, 0.0),
    "thresholded_relu": (1.0, 0.0),
    "scaled_tanh": (1.0, 1.0),
}

#: Code of every kind in the C core: its place in :data:`DEFAULTS`.
CODES: Final[dict[str, int]] = {kind: code for code, kind in enumerate(DEFAULTS)}


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation function with its parameters.

    Parameters
    ----------
    kind
        A key of :data:`DEFAULTS`.
    alpha, beta
        Parameters of the formula; the kind's defaults where None.

    Raises
    ------
    ValueError
        If ``kind`` is not known.
    """

    kind: str
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in DEFAULTS:
            known = ", ".join(DEFAULTS)
            raise ValueError(f"activation: {self.kind!r} is not known; use one of: {known}")
        alpha, beta = DEFAULTS[self.kind]
        object.__setattr__(self, "alpha", float(alpha if self.alpha is None else self.alpha))
        object.__setattr__(self, "beta", float(beta if self.beta is None else self.beta))

    @property
    def code(self) -> int:
        """Code of the kind in the C core."""
        return CODES[self.kind]
