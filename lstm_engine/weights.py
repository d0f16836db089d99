"""Canonical LSTM weights: one gate order, one layout, one place that checks them.

Every reader ends here and the C core starts here. Gates stand in the order **input, forget, cell,
output** along an axis of ``4 * hidden_size``; a kernel is applied as ``x @ kernel``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .activations import Activation
from .errors import ShapeError, UnsupportedModelError
from .formats.limits import nonfinite_allowed
from .frozen import frozen

__all__ = ["GATES", "CellWeights", "Direction", "LSTMWeights"]

Direction = Literal["forward", "reverse", "bidirectional"]

#: Order of the gates along every ``4 * hidden_size`` axis.
GATES: Final = ("input_gate", "forget_gate", "cell_candidate", "output_gate")


def _frozen(name: str, value: ArrayLike, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """Return ``value`` as a read-only C-contiguous float32 (or float64) array of ``shape``."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ShapeError(
            f"{name}: expected an array of real numbers, found dtype {array.dtype}; convert it to float32 first"
        )
    dtype = np.float64 if array.dtype == np.float64 else np.float32
    if array.ndim != len(shape) or any(e is not None and a != e for a, e in zip(array.shape, shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ShapeError(f"{name}: expected shape ({wanted}), found {array.shape}; check the layout and the gate order")
    # A private copy where the caller may go on to change its own array: the weights must not move.
    return frozen(array, np.dtype(dtype))


@dataclass(frozen=True, slots=True, eq=False)
class CellWeights:
    """Weights and options of one LSTM cell: one layer in one direction.

    With ``x`` the input, ``h`` and ``c`` the state before the step, and ``i, f, g, o`` the gates::

        i  = input_activation (x @ W_i + h @ R_i + b_i + p_i * c)
        f  = forget_activation(x @ W_f + h @ R_f + b_f + p_f * c)      or 1 - i if coupled
        g  = cell_activation  (x @ W_c + h @ R_c + b_c)
        c' = f * c + i * g
        o  = output_activation(x @ W_o + h @ R_o + b_o + p_o * c')
        h' = o * hidden_activation(c')                                 then h' @ projection if given

    (Gers, Schraudolph and Schmidhuber 2002 for the peepholes; Sak, Senior and Beaufays 2014 for the
    projection.) ``gate_clip`` bounds the argument of the activations of i, f, g and o, ``cell_clip``
    bounds c'.

    Parameters
    ----------
    kernel
        (features, 4 * hidden_size), gates in the order of :data:`GATES`.
    recurrent_kernel
        (output_size, 4 * hidden_size).
    bias
        (4 * hidden_size,), or None for none.
    projection
        (hidden_size, output_size), or None: output_size is then hidden_size.
    peepholes
        (3, hidden_size): input, forget, output; or None.
    input_activation, forget_activation, cell_activation, output_activation, hidden_activation
        Activations of i, f, g, o and of c' on its way to h'.
    gate_clip, cell_clip
        Bounds, positive; None for none.
    coupled
        Whether the forget gate is one minus the input gate.

    Raises
    ------
    ShapeError
        If an array does not fit the others, naming it.
    """

    kernel: NDArray[Any]
    recurrent_kernel: NDArray[Any]
    bias: NDArray[Any] | None = None
    projection: NDArray[Any] | None = None
    peepholes: NDArray[Any] | None = None
    input_activation: Activation = field(default_factory=lambda: Activation("sigmoid"))
    forget_activation: Activation = field(default_factory=lambda: Activation("sigmoid"))
    cell_activation: Activation = field(default_factory=lambda: Activation("tanh"))
    output_activation: Activation = field(default_factory=lambda: Activation("sigmoid"))
    hidden_activation: Activation = field(default_factory=lambda: Activation("tanh"))
    gate_clip: float | None = None
    cell_clip: float | None = None
    coupled: bool = False

    def __post_init__(self) -> None:
        kernel = _frozen("kernel", self.kernel, (None, None))
        if kernel.shape[1] % 4 != 0 or kernel.shape[1] == 0:
            raise ShapeError(
                f"kernel: expected shape (features, 4 * hidden_size), found {kernel.shape}: "
                f"{kernel.shape[1]} is not a positive multiple of 4"
            )
        hidden = kernel.shape[1] // 4
        output = hidden
        if self.projection is not None:
            projection = _frozen("projection", self.projection, (hidden, None))
            output = projection.shape[1]
            if output == 0:
                raise ShapeError("projection: expected at least one output, found 0")
            object.__setattr__(self, "projection", projection)
        object.__setattr__(self, "kernel", kernel)
        object.__setattr__(
            self, "recurrent_kernel", _frozen("recurrent_kernel", self.recurrent_kernel, (output, 4 * hidden))
        )
        if self.bias is not None:
            object.__setattr__(self, "bias", _frozen("bias", self.bias, (4 * hidden,)))
        if self.peepholes is not None:
            object.__setattr__(self, "peepholes", _frozen("peepholes", self.peepholes, (3, hidden)))
        for name in ("gate_clip", "cell_clip"):
            value = getattr(self, name)
            if value is not None:
                if not value > 0:
                    raise ShapeError(f"{name}: expected a positive number or None, found {value!r}")
                object.__setattr__(self, name, float(value))

    @property
    def input_size(self) -> int:
        """Number of features of the input."""
        return int(self.kernel.shape[0])

    @property
    def hidden_size(self) -> int:
        """Number of units of the cell state."""
        return int(self.kernel.shape[1]) // 4

    @property
    def output_size(self) -> int:
        """Number of units of the output: of the projection if there is one, else hidden_size."""
        return int(self.recurrent_kernel.shape[0])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the weight arrays that are present, by field name."""
        names = ("kernel", "recurrent_kernel", "bias", "projection", "peepholes")
        return {name: array for name in names if (array := getattr(self, name)) is not None}

    def astype(self, dtype: type[np.float32] | type[np.float64]) -> CellWeights:
        """Return the same cell with all arrays in ``dtype``."""
        converted: dict[str, Any] = {name: array.astype(dtype) for name, array in self.arrays().items()}
        return replace(self, **converted)


@dataclass(frozen=True, slots=True, eq=False)
class LSTMWeights:
    """A stack of LSTM layers: ``cells[layer][direction]``.

    Parameters
    ----------
    cells
        One tuple for each layer, of one cell (forward or reverse) or two (forward, then reverse).
        All cells have the same hidden and output size; from the second layer on the input size is
        ``directions * output_size``.
    direction
        ``"forward"``, ``"reverse"`` (time runs backward; outputs stay aligned with the inputs) or
        ``"bidirectional"``.

    Raises
    ------
    ShapeError
        If the cells do not fit together, naming layer and direction.
    """

    cells: tuple[tuple[CellWeights, ...], ...]
    direction: Direction = "forward"

    def __post_init__(self) -> None:
        if self.direction not in ("forward", "reverse", "bidirectional"):
            raise ShapeError(f"direction: expected 'forward', 'reverse' or 'bidirectional', found {self.direction!r}")
        object.__setattr__(self, "cells", tuple(tuple(layer) for layer in self.cells))
        if not self.cells:
            raise ShapeError("cells: expected at least one layer, found none")
        directions = 2 if self.direction == "bidirectional" else 1
        first = self.cells[0][0] if self.cells[0] else None
        for layer, cells in enumerate(self.cells):
            if len(cells) != directions or first is None:
                raise ShapeError(
                    f"cells[{layer}]: expected {directions} cell(s) for direction {self.direction!r}, "
                    f"found {len(cells)}"
                )
            for place, cell in enumerate(cells):
                where = f"cells[{layer}][{place}]"
                wanted = first.input_size if layer == 0 else directions * first.output_size
                if cell.input_size != wanted:
                    raise ShapeError(f"{where}.kernel: expected {wanted} input features, found {cell.input_size}")
                if (cell.hidden_size, cell.output_size) != (first.hidden_size, first.output_size):
                    raise ShapeError(
                        f"{where}: expected hidden size {first.hidden_size} and output size {first.output_size} as in "
                        f"cells[0][0], found {cell.hidden_size} and {cell.output_size}"
                    )

    @property
    def num_layers(self) -> int:
        """Number of stacked layers."""
        return len(self.cells)

    @property
    def num_directions(self) -> int:
        """1, or 2 for a bidirectional stack."""
        return len(self.cells[0])

    @property
    def input_size(self) -> int:
        """Number of features of the input of the first layer."""
        return self.cells[0][0].input_size

    @property
    def hidden_size(self) -> int:
        """Number of units of the cell state."""
        return self.cells[0][0].hidden_size

    @property
    def output_size(self) -> int:
        """Number of units of the output of one direction."""
        return self.cells[0][0].output_size

    def flat(self) -> Iterable[CellWeights]:
        """Iterate over the cells in PyTorch's order: layer by layer, forward before reverse."""
        for layer in self.cells:
            yield from layer

    def astype(self, dtype: type[np.float32] | type[np.float64]) -> LSTMWeights:
        """Return the same stack with all arrays in ``dtype``."""
        return replace(self, cells=tuple(tuple(cell.astype(dtype) for cell in layer) for layer in self.cells))

    def check_finite(self, subject: str) -> None:
        """Raise UnsupportedModelError, naming the array, if a weight is NaN or infinite and the caller forbids that.

        Parameters
        ----------
        subject
            What the weights come from, for the message.
        """
        if nonfinite_allowed():
            return
        for layer, cells in enumerate(self.cells):
            for place, cell in enumerate(cells):
                for name, array in cell.arrays().items():
                    if not np.isfinite(array).all():
                        raise UnsupportedModelError(
                            f"{subject}: {name} of layer {layer}, direction {place} holds NaN or infinity; "
                            "expected finite weights: export the model again from a sound checkpoint, or load it with "
                            "allow_nonfinite=True"
                        )
