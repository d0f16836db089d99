"""What a right result is: the project's float64 oracle, over a few rows where a batch is large."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine import reference

from .cells import Cell
from .contender import Outputs

__all__ = ["TOLERANCE", "expected_outputs", "inputs"]

#: Largest relative L2 difference between float32 engines, and between each and the oracle.
TOLERANCE: Final = 1e-5

#: Steps that a single-step cell is checked over: the state is carried through all of them.
_STEPS: Final = 8


def inputs(cell: Cell) -> NDArray[np.float32]:
    """Return the inputs that results are checked on, (batch, time, features): eight steps where the cell is one."""
    return cell.inputs(_STEPS if cell.group == "step" else None)


def expected_outputs(cell: Cell, x: NDArray[np.float32]) -> tuple[Outputs, list[int]]:
    """Return what the oracle gives for some rows of ``x`` from a zero state, and which rows those are.

    Rows do not depend on one another, and the oracle is slow: the first, the last and one between are enough.
    """
    rows = sorted({0, cell.batch // 2, cell.batch - 1})
    y, (h, c) = reference.lstm(x[rows], cell.weights())
    return Outputs(y, h, c), rows
