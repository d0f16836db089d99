"""The cells of the benchmark: which shapes are timed, and the weights and inputs they are timed on."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from lstm_engine.weights import CellWeights, LSTMWeights

__all__ = ["CELLS", "GROUPS", "Cell", "Group", "select"]

Group = Literal["step", "sequence", "batch"]

#: ``step``: one time step of one stream. ``sequence``: one row, many steps. ``batch``: many rows, many steps.
GROUPS: Final[tuple[Group, ...]] = ("step", "sequence", "batch")


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape: ``batch`` rows of ``time`` steps of ``features`` into ``layers`` layers of ``hidden`` units."""

    batch: int
    time: int
    features: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False

    @property
    def group(self) -> Group:
        """The group that the cell is reported in."""
        if self.batch > 1:
            return "batch"
        return "step" if self.time == 1 else "sequence"

    @property
    def directions(self) -> int:
        """1, or 2 for a bidirectional stack."""
        return 2 if self.bidirectional else 1

    @property
    def name(self) -> str:
        """``batch,time,features,hidden``, then the layers and directions where there are several."""
        name = f"{self.batch},{self.time},{self.features},{self.hidden}"
        if self.layers > 1:
            name += f",{self.layers}-layer"
        return name + (",bidirectional" if self.bidirectional else "")

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Input features of each layer."""
        return (self.features,) + (self.directions * self.hidden,) * (self.layers - 1)

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products of one call; a multiply-add counts as two."""
        rows = self.batch * self.time * self.directions
        return sum(2 * rows * (size + self.hidden) * 4 * self.hidden for size in self.input_sizes)

    def _random(self, purpose: str) -> np.random.Generator:
        # crc32, unlike hash(), is the same in every process: the same cell has the same numbers for ever.
        return np.random.default_rng(zlib.crc32(f"{purpose} {self.name}".encode()))

    def weights(self) -> LSTMWeights:
        """Return random weights, U(-1/sqrt(hidden), 1/sqrt(hidden)) as PyTorch initialises them, all distinct."""
        random = self._random("weights")
        bound = 1.0 / np.sqrt(self.hidden)

        def uniform(*shape: int) -> NDArray[np.float32]:
            return random.uniform(-bound, bound, shape).astype(np.float32)

        gates = 4 * self.hidden
        cells = tuple(
            tuple(
                CellWeights(
                    kernel=uniform(size, gates), recurrent_kernel=uniform(self.hidden, gates), bias=uniform(gates)
                )
                for _ in range(self.directions)
            )
            for size in self.input_sizes
        )
        return LSTMWeights(cells, direction="bidirectional" if self.bidirectional else "forward")

    def inputs(self, time: int | None = None) -> NDArray[np.float32]:
        """Return standard normal inputs, float32, (batch, time, features); ``time`` is the cell's own unless given."""
        shape = (self.batch, self.time if time is None else time, self.features)
        return self._random("inputs").standard_normal(shape, dtype=np.float32)


CELLS: Final[tuple[Cell, ...]] = (
    Cell(1, 1, 16, 16),
    Cell(1, 1, 32, 64),
    Cell(1, 1, 64, 128),
    Cell(1, 1, 256, 256),
    Cell(1, 1, 512, 512),
    Cell(1, 1, 1024, 1024),
    Cell(1, 100, 8, 32),
    Cell(1, 100, 64, 64),
    Cell(1, 100, 64, 128),
    Cell(1, 100, 256, 256),
    Cell(1, 100, 512, 512),
    Cell(1, 100, 1024, 1024),
    Cell(1, 100, 64, 128, layers=2),
    Cell(8, 100, 64, 128),
    Cell(8, 100, 256, 256),
    Cell(32, 100, 64, 128),
    Cell(32, 100, 256, 256),
    Cell(32, 100, 512, 512),
    Cell(128, 100, 64, 128),
    Cell(128, 100, 512, 512),
    Cell(16, 100, 128, 256, layers=2, bidirectional=True),
)


def select(pattern: str | None = None, *, max_flops: int | None = None) -> tuple[Cell, ...]:
    """Return the cells of a group, or those whose name matches a regular expression, or all.

    Parameters
    ----------
    pattern
        A group of :data:`GROUPS`, or a regular expression that is searched in :attr:`Cell.name`; None for all.
    max_flops
        Leave out cells with more work than this.

    Raises
    ------
    ValueError
        If nothing matches, naming what there is.
    """
    if pattern is None:
        chosen = CELLS
    elif pattern in GROUPS:
        chosen = tuple(cell for cell in CELLS if cell.group == pattern)
    else:
        try:
            chosen = tuple(cell for cell in CELLS if re.search(pattern, cell.name))
        except re.error as error:
            raise ValueError(f"cells: {pattern!r} is neither a group nor a regular expression: {error}") from None
    if max_flops is not None:
        chosen = tuple(cell for cell in chosen if cell.flops <= max_flops)
    if not chosen:
        groups, names = ", ".join(GROUPS), "  ".join(cell.name for cell in CELLS)
        raise ValueError(f"cells: {pattern!r} matches no cell; give a group ({groups}) or part of a name:\n  {names}")
    return chosen
