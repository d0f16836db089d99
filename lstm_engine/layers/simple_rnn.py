"""The simple recurrent cell (Elman 1990) as a plain function over arrays.

With ``x`` the input of a step and ``h`` the state before it, the state after it, which is also the output, is
``activation(x @ kernel + h @ recurrent_kernel + bias)``.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from lstm_engine.activations import Activation
from lstm_engine.errors import ShapeError

from .base import Array
from .functions import LayerActivation
from .numerics import Numerics
from .recurrence import Recurrence, Runner, StepRunner, activated, cell_weight

__all__ = ["SimpleCell"]


class SimpleCell(Recurrence):
    """Weights and options of a simple recurrent cell: one layer in one direction.

    Parameters
    ----------
    kernel
        (features, units).
    recurrent_kernel
        (units, units).
    bias
        (units,), or None for none; where a framework has two (PyTorch, ONNX), their sum.
    activation
        Over the last axis; None for none.
    clip
        Bound of the activation's argument, positive; None for none.

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
        *,
        activation: LayerActivation = Activation("tanh"),  # noqa: B008  # frozen
        clip: float | None = None,
    ) -> None:
        self.kernel = cell_weight(kernel, "kernel", ("features", "units"))
        features, units = self.kernel.shape
        if units == 0:
            raise ShapeError(f"kernel: expected at least one unit, found shape {self.kernel.shape}")
        self.recurrent_kernel = cell_weight(recurrent_kernel, "recurrent_kernel", (units, units))
        self.bias = None if bias is None else cell_weight(bias, "bias", (units,))
        self.activation, self.clip = activation, clip
        self.input_size, self.output_size, self.state_sizes = features, units, (units,)

    def arrays(self) -> dict[str, Array]:
        names = ("kernel", "recurrent_kernel", "bias")
        return {name: array for name in names if (array := getattr(self, name)) is not None}

    def prepare(self, numerics: Numerics, *, reverse: bool = False) -> Runner:
        return _SimpleRunner(self, numerics, reverse)


class _SimpleRunner(StepRunner):
    def __init__(self, cell: SimpleCell, numerics: Numerics, reverse: bool) -> None:
        self._cell, self._numerics = cell, numerics
        self._recurrent = numerics.linear(cell.recurrent_kernel)
        super().__init__(numerics.linear(cell.kernel, cell.bias), [self._recurrent], cell.output_size, reverse)

    def step(self, projected: Array, h: Array) -> Array:
        return activated(self._cell.activation, projected + self._recurrent(h), self._cell.clip, self._numerics)
