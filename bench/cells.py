"""The cells of the benchmark: which shapes are timed, and the weights and inputs they are timed on."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from lstm_engine.weights import CellWeights, LSTMWeights

__all__ = ["CELLS", "GROUPS", "Cell", "ComputeType", "Group", "select"]

ComputeType = Literal["float32", "bfloat16", "int8"]
Group = Literal[
    "step",
    "sequence",
    "batch",
    "lengths",
    "bidirectional",
    "stacked",
    "int8",
    "bfloat16",
    "threads",
    "fpga",
    "cold",
]

#: What is measured in each group. A new regime is a line here, its cells below, and, if it is not one call of an LSTM
#: or one step of a stream, contenders of its own.
GROUPS: Final[dict[Group, str]] = {
    "step": "one time step of one stream, float32",
    "sequence": "one row, many steps, float32",
    "batch": "many rows, many steps, float32",
    "lengths": "many rows of lengths uniform in 1..T, float32",
    "bidirectional": "both directions, float32",
    "stacked": "several layers, float32",
    "int8": "weights and activations in int8",
    "bfloat16": "weights in bfloat16",
    "threads": "two threads for everybody",
    "fpga": "one step of the stacks that FPGA makers publish, dense to 32",
    "cold": "one step after something else has used the caches, float32",
}

_DTYPE_BYTES: Final[dict[ComputeType, int]] = {"float32": 4, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True, slots=True)
class Cell:
    """One shape: ``batch`` rows of ``time`` steps of ``features`` into ``layers`` layers of ``hidden`` units.

    A cell of one time step is a step of a stream, whose state goes from call to call.
    """

    batch: int
    time: int
    features: int
    hidden: int
    layers: int = 1
    bidirectional: bool = False
    #: Outputs of a dense layer on the last LSTM layer; 0 for none.
    dense: int = 0
    #: Whether rows end early, at lengths uniform in 1..time.
    ragged: bool = False
    #: Whether the caches are emptied before every call.
    cold: bool = False
    compute_type: ComputeType = "float32"
    threads: int = 1
    group: Group = "step"
    #: What somebody else has published for this shape, for the reader to compare.
    published: str = ""

    @property
    def streaming(self) -> bool:
        """Whether a call is one step of a stream."""
        return self.time == 1

    @property
    def directions(self) -> int:
        """1, or 2 for a bidirectional stack."""
        return 2 if self.bidirectional else 1

    @property
    def shape(self) -> str:
        """``batch,time,features,hidden``, then the layers and directions where there are several, and the dense layer.

        Cells of one shape have the same weights and inputs.
        """
        name = f"{self.batch},{self.time},{self.features},{self.hidden}"
        if self.layers > 1:
            name += f",{self.layers}-layer"
        if self.bidirectional:
            name += ",bidirectional"
        return f"{name},dense-{self.dense}" if self.dense else name

    @property
    def name(self) -> str:
        """The shape and everything in which the cell is not the plain one."""
        name = self.shape
        if self.ragged:
            name += ",lengths"
        if self.cold:
            name += ",cold"
        if self.compute_type != "float32":
            name += f",{self.compute_type}"
        return f"{name},{self.threads}-threads" if self.threads > 1 else name

    @property
    def weight_item_bytes(self) -> int:
        """Bytes of one weight."""
        return _DTYPE_BYTES[self.compute_type]

    @property
    def input_sizes(self) -> tuple[int, ...]:
        """Input features of each layer."""
        return (self.features,) + (self.directions * self.hidden,) * (self.layers - 1)

    @property
    def output_size(self) -> int:
        """Features of the output at each step."""
        return self.dense or self.directions * self.hidden

    @property
    def filled(self) -> float:
        """Part of the steps of all rows that is not padding."""
        lengths = self.lengths()
        return 1.0 if lengths is None else float(lengths.sum()) / (self.batch * self.time)

    @property
    def flops(self) -> float:
        """Floating-point operations of the matrix products of one call; a multiply-add counts as two."""
        steps = self.filled * self.batch * self.time
        gates = sum((size + self.hidden) * 4 * self.hidden for size in self.input_sizes) * self.directions
        return 2.0 * steps * (gates + self.directions * self.hidden * self.dense)

    def _random(self, purpose: str) -> np.random.Generator:
        # crc32, unlike hash(), is the same in every process: the same cell has the same numbers for ever.
        return np.random.default_rng(zlib.crc32(f"{purpose} {self.shape}".encode()))

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

    def dense_weights(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the kernel (features, outputs) and the bias of the dense layer."""
        random, inputs = self._random("dense"), self.directions * self.hidden
        bound = 1.0 / np.sqrt(inputs)
        kernel = random.uniform(-bound, bound, (inputs, self.dense)).astype(np.float32)
        return kernel, random.uniform(-bound, bound, self.dense).astype(np.float32)

    def lengths(self) -> NDArray[np.int64] | None:
        """Return the steps of each row, (batch,), or None where all rows have all steps.

        Longest first, the order in which PyTorch takes them without sorting.
        """
        if not self.ragged:
            return None
        lengths = self._random("lengths").integers(1, self.time + 1, self.batch)
        lengths[0] = self.time
        return np.sort(lengths)[::-1].astype(np.int64)


def _cells() -> Iterator[Cell]:
    steps = [Cell(1, 1, features, hidden) for features, hidden in ((16, 16), (32, 64), (64, 128))]
    steps += [Cell(1, 1, hidden, hidden) for hidden in (256, 512, 1024)]
    sequences = [
        Cell(1, 100, features, hidden, group="sequence") for features, hidden in ((8, 32), (64, 64), (64, 128))
    ]
    sequences += [Cell(1, 100, hidden, hidden, group="sequence") for hidden in (256, 512, 1024)]
    batches = [
        Cell(batch, 100, features, hidden, group="batch")
        for batch, features, hidden in (
            (8, 64, 128),
            (8, 256, 256),
            (32, 64, 128),
            (32, 256, 256),
            (32, 512, 512),
            (128, 64, 128),
            (128, 512, 512),
        )
    ]
    bidirectional = [
        Cell(1, 100, 64, 128, bidirectional=True, group="bidirectional"),
        Cell(16, 100, 128, 256, layers=2, bidirectional=True, group="bidirectional"),
    ]
    yield from steps
    yield from sequences
    yield from batches
    yield Cell(32, 100, 64, 128, ragged=True, group="lengths")
    yield Cell(32, 100, 256, 256, ragged=True, group="lengths")
    yield from bidirectional
    yield Cell(1, 100, 64, 128, layers=2, group="stacked")
    yield Cell(8, 100, 256, 256, layers=2, group="stacked")
    for compute_type in ("int8", "bfloat16"):
        for cell in (*steps[2:], *sequences[2:], *batches[:5]):
            yield replace(cell, compute_type=compute_type, group=compute_type)
    for cell in (*sequences[2:], *batches[0:1], *batches[3:4], *bidirectional[1:]):
        yield replace(cell, threads=2, group="threads")
    for cell in (*sequences[3:5], *batches[3:4]):
        yield replace(cell, compute_type="int8", threads=2, group="threads")
    # Mean microseconds of one step that makers of FPGA boards and NVIDIA have published for these stacks.
    for layers, hidden, published in (
        (2, 128, "1.9-2.8"),
        (3, 256, "3.0-3.3"),
        (3, 480, "4.2"),
        (6, 320, "4.3"),
        (3, 960, "8.5"),
    ):
        stack = Cell(1, 1, hidden, hidden, layers, dense=32, group="fpga", published=published)
        for compute_type in ("float32", "bfloat16", "int8"):
            for threads in (1, 2):
                yield replace(stack, compute_type=compute_type, threads=threads)
    for cell in (steps[0], *steps[2:5]):
        yield replace(cell, cold=True, group="cold")


CELLS: Final[tuple[Cell, ...]] = tuple(_cells())


def select(pattern: str | None = None) -> tuple[Cell, ...]:
    """Return the cells of a group, or those whose name matches a regular expression, or all.

    Parameters
    ----------
    pattern
        Groups of :data:`GROUPS`, comma separated, or a regular expression that is searched in :attr:`Cell.name`; None
        for all.

    Raises
    ------
    ValueError
        If nothing matches, naming what there is.
    """
    if pattern is None:
        chosen = CELLS
    elif set(pattern.split(",")) <= set(GROUPS):
        chosen = tuple(cell for cell in CELLS if cell.group in pattern.split(","))
    else:
        try:
            chosen = tuple(cell for cell in CELLS if re.search(pattern, cell.name))
        except re.error as error:
            raise ValueError(f"cells: {pattern!r} is neither a group nor a regular expression: {error}") from None
    if not chosen:
        groups, names = ", ".join(GROUPS), "\n  ".join(cell.name for cell in CELLS)
        raise ValueError(f"cells: {pattern!r} matches no cell; give groups ({groups}) or part of a name:\n  {names}")
    return chosen
