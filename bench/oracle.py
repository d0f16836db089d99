"""What a right result is: the project's float64 oracle, over a few rows where a batch is large."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine import reference

from .cells import Cell, ComputeType
from .contender import Outputs

__all__ = ["expected_outputs", "inputs", "tolerance"]

#: Largest relative L2 error of ours against the oracle; of float32 engines among one another too.
_OURS: Final[dict[ComputeType, float]] = {"float32": 1e-5, "bfloat16": 5e-3, "int8": 1e-2}

#: The same for the peers. Theirs is what they make of these types (some keep bfloat16 states, some seven bits); the
#: bound is there to see wrong weights and lost states, and the error itself stands in the table.
_PEERS: Final[dict[ComputeType, float]] = {"float32": 1e-5, "bfloat16": 1e-1, "int8": 1e-1}

#: Steps that a single-step cell is checked over: the state is carried through all of them.
_STEPS: Final = 8


def tolerance(cell: Cell, *, ours: bool) -> float:
    """Return the largest relative L2 error that a result may have; coarse types add up over the layers of a stack."""
    bound = (_OURS if ours else _PEERS)[cell.compute_type]
    if cell.compute_type != "float32" and cell.streaming:
        bound *= 2  # the first few steps from a zero state, whose values are small beside the error of the weights
    return bound if cell.compute_type == "float32" else bound * cell.layers


def inputs(cell: Cell) -> NDArray[np.float32]:
    """Return the inputs that results are checked on, (batch, time, features): eight steps where the cell is one."""
    return cell.inputs(_STEPS if cell.streaming else None)


def expected_outputs(cell: Cell, x: NDArray[np.float32]) -> tuple[Outputs, list[int]]:
    """Return what the oracle gives for some rows of ``x`` from a zero state, and which rows those are.

    Rows do not depend on one another, and the oracle is slow: the first, the last and one between are enough.
    """
    rows = sorted({0, cell.batch // 2, cell.batch - 1})
    lengths = cell.lengths()
    y, (h, c) = reference.lstm(x[rows], cell.weights(), lengths=None if lengths is None else lengths[rows])
    if cell.dense:
        kernel, bias = cell.dense_weights()
        y = y @ kernel.astype(np.float64) + bias
    return Outputs(y, h, c), rows
