"""The gated recurrent unit (Cho et al. 2014), in both of its forms, as a plain function over arrays.

With ``x`` the input of a step and ``h`` the state before it::

    z  = gate_activation(x @ W_z + b_z + h @ R_z + c_z)                        update gate
    r  = gate_activation(x @ W_r + b_r + h @ R_r + c_r)                        reset gate
    g  = candidate_activation(x @ W_h + b_h + r * (h @ R_h + c_h))             reset after the product
    g  = candidate_activation(x @ W_h + b_h + (r * h) @ R_h + c_h)             reset before it
    h' = z * h + (1 - z) * g

W, R, b, c are ``kernel``, ``recurrent_kernel``, ``bias`` and ``recurrent_bias``, the gates side by side in the order
**update, reset, candidate** of Keras (z, r, h) and ONNX (z, r, h); PyTorch has r, z, n. The output of a step is h'.
Keras's ``reset_after`` and ONNX's ``linear_before_reset`` mean the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lstm_engine.activations import Activation
from lstm_engine.errors import ShapeError

from .base import Array
from .functions import LayerActivation
from .numerics import LinearMap, Numerics
from .recurrence import Recurrence, Runner, StepRunner, activated, cell_weight

__all__ = ["GRUCell"]


class GRUCell(Recurrence):
    """Weights and options of a GRU cell: one layer in one direction.

    Parameters
    ----------
    kernel
        (features, 3 * units).
    recurrent_kernel
        (units, 3 * units).
    bias, recurrent_bias
        (3 * units,), or None for none.
    reset_after
        Whether the reset gate is applied to the product of the state and its kernel, or to the state.
    gate_activation, candidate_activation
        Of z and r, and of g, over the last axis; None for none.
    clip
        Bound of the arguments of the activations, positive; None for none.

    Raises
    ------
    ShapeError
        If an array does not fit the others, naming it.
    """

    def __init__(
        self,
        kernel: ArrayLike,
        recurrent_kernel: ArrayLike,
        bias: ArrayLike | None = None,
        recurrent_bias: ArrayLike | None = None,
        *,
        reset_after: bool = True,
        gate_activation: LayerActivation = Activation("sigmoid"),  # noqa: B008  # frozen
        candidate_activation: LayerActivation = Activation("tanh"),  # noqa: B008  # frozen
        clip: float | None = None,
    ) -> None:
        self.recurrent_kernel = cell_weight(recurrent_kernel, "recurrent_kernel", ("units", "3 * units"))
        units, gates = self.recurrent_kernel.shape
        if units == 0 or gates != 3 * units:
            raise ShapeError(
                f"recurrent_kernel: expected shape (units, 3 * units), found {self.recurrent_kernel.shape}"
            )
        self.kernel = cell_weight(kernel, "kernel", ("features", gates))
        self.bias = None if bias is None else cell_weight(bias, "bias", (gates,))
        self.recurrent_bias = (
            None if recurrent_bias is None else cell_weight(recurrent_bias, "recurrent_bias", (gates,))
        )
        self.reset_after, self.clip = reset_after, clip
        self.gate_activation, self.candidate_activation = gate_activation, candidate_activation
        self.input_size, self.output_size, self.state_sizes = self.kernel.shape[0], units, (units,)

    def arrays(self) -> dict[str, Array]:
        names = ("kernel", "recurrent_kernel", "bias", "recurrent_bias")
        return {name: array for name in names if (array := getattr(self, name)) is not None}

    def prepare(self, numerics: Numerics, *, reverse: bool = False) -> Runner:
        return _GRURunner(self, numerics, reverse)


class _GRURunner(StepRunner):
    def __init__(self, cell: GRUCell, numerics: Numerics, reverse: bool) -> None:
        self._cell, self._numerics = cell, numerics
        split = 2 * cell.output_size
        bias, recurrent_bias, kernel = cell.bias, cell.recurrent_bias, cell.recurrent_kernel
        self._candidate: LinearMap | None = None
        if cell.reset_after:
            self._recurrent = numerics.linear(kernel, recurrent_bias)
        else:
            # Nothing stands between the two biases then.
            both = [part.astype(numerics.dtype) for part in (bias, recurrent_bias) if part is not None]
            bias = sum(both[1:], both[0]) if both else None
            self._recurrent = numerics.linear(kernel[:, :split])
            self._candidate = numerics.linear(kernel[:, split:])
        maps = [self._recurrent] if self._candidate is None else [self._recurrent, self._candidate]
        super().__init__(numerics.linear(cell.kernel, bias), maps, cell.output_size, reverse)

    def step(self, projected: Array, h: Array) -> Array:
        cell, numerics = self._cell, self._numerics
        batch, units = h.shape
        recurrent = self._recurrent(h)
        # Both gates with the units as their last axis, for an activation that joins them, such as softmax.
        sums = (projected[:, : 2 * units] + recurrent[:, : 2 * units]).reshape(batch, 2, units)
        gates = activated(cell.gate_activation, sums, cell.clip, numerics)
        update_gate, reset_gate = gates[:, 0], gates[:, 1]
        reset = reset_gate * recurrent[:, 2 * units :] if self._candidate is None else self._candidate(reset_gate * h)
        candidate = activated(cell.candidate_activation, projected[:, 2 * units :] + reset, cell.clip, numerics)
        return np.asarray(update_gate * h + (1 - update_gate) * candidate)
