"""What is timed: one engine, driven in one way, on one cell."""

from __future__ import annotations

import timeit
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .cells import Cell

__all__ = ["Contender", "Outputs", "relative_l2", "steps_of"]

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one call computed.

    ``y`` is (batch, time, directions * hidden); ``h`` and ``c`` are (layers * directions, batch, hidden), in PyTorch's
    order. An engine that keeps its states to itself leaves them None.
    """

    y: Array
    h: Array | None = None
    c: Array | None = None

    def rows(self, chosen: list[int]) -> Outputs:
        """Return the outputs of some rows of the batch."""
        h, c = (None if state is None else state[:, chosen] for state in (self.h, self.c))
        return Outputs(self.y[chosen], h, c)

    def error(self, expected: Outputs) -> float:
        """Return the largest relative L2 error of y, h and c against ``expected``; of states that both have."""
        pairs = ((getattr(self, name), getattr(expected, name)) for name in ("y", "h", "c"))
        return max(relative_l2(own, other) for own, other in pairs if own is not None and other is not None)


def relative_l2(found: Array, expected: Array) -> float:
    """Return ``|found - expected| / |expected|``; infinity where the shapes differ or a value is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    wanted = expected.astype(np.float64)
    return float(np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted))


class Contender(ABC):
    """One engine driven in one way.

    A contender whose cell is a single step carries its state from call to call, as a stream does; any other starts
    from a zero state at every call.

    Parameters
    ----------
    cell
        The shape; weights and inputs are its own.
    """

    #: The column that the contender is reported in.
    engine: ClassVar[str]
    #: How the engine is driven, where there are several ways.
    variant: ClassVar[str]

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    @property
    def name(self) -> str:
        """Engine and variant."""
        return f"{self.engine} ({self.variant})"

    @property
    @abstractmethod
    def statement(self) -> str:
        """The statement to time, in terms of :attr:`names`."""

    @property
    @abstractmethod
    def names(self) -> Mapping[str, object]:
        """The values of the names in :attr:`statement`, taken when timing begins."""

    @abstractmethod
    def feed(self, x: Array) -> None:
        """Make ``x``, (batch, time, features), the input of the calls that follow."""

    @abstractmethod
    def reset(self) -> None:
        """Make the state zero, where there is one."""

    @abstractmethod
    def advance(self) -> Outputs:
        """Make one call as the statement does, and return copies of what it computed."""

    def context(self) -> AbstractContextManager[object]:
        """Return what the statement has to run inside."""
        return nullcontext()

    def timer(self) -> timeit.Timer:
        """Return a timer of the statement; its names are local variables, as they are in a tight user's loop."""
        names = dict(self.names)
        setup = "; ".join(f"{name} = _given[{name!r}]" for name in names)
        return timeit.Timer(self.statement, setup, globals={"_given": names})

    def latencies(self) -> Callable[[int], list[float]]:
        """Return a function that makes n calls and returns the seconds of each, the clock's own time included."""
        # Underscores keep the loop's own names apart from those of the statement.
        assignments = "\n".join(f"    {name} = _given[{name!r}]" for name in self.names)
        source = (
            f"def latencies(_count):\n{assignments}\n    _seconds = [0.0] * _count\n    for _call in range(_count):\n"
            f"        _begin = _clock()\n        {self.statement}\n        _seconds[_call] = _clock() - _begin\n"
            "    return _seconds\n"
        )
        namespace: dict[str, Any] = {"_given": dict(self.names), "_clock": timeit.default_timer}
        exec(compile(source, f"<{self.name}>", "exec"), namespace)  # our own text, as timeit does it
        measured: Callable[[int], list[float]] = namespace["latencies"]
        return measured

    def function(self) -> Callable[[], object]:
        """Return the statement as a function of no arguments, for harnesses that time functions."""
        parameters = ", ".join(f"{name}=_given[{name!r}]" for name in self.names)
        namespace: dict[str, Any] = {"_given": dict(self.names)}
        exec(compile(f"def call({parameters}):\n    {self.statement}\n", f"<{self.name}>", "exec"), namespace)
        call: Callable[[], object] = namespace["call"]
        return call


def steps_of(contender: Contender, x: Array) -> Outputs:
    """Return the outputs over ``x`` from a zero state: one call, or one call a step where the cell is a single step.

    Afterwards the state is zero and the input is the last one given.
    """
    with contender.context():
        contender.reset()
        if contender.cell.time > 1:
            contender.feed(x)
            return contender.advance()
        steps = []
        for step in range(x.shape[1]):
            contender.feed(x[:, step : step + 1])
            steps.append(contender.advance())
        contender.reset()
    return Outputs(np.concatenate([step.y for step in steps], axis=1), steps[-1].h, steps[-1].c)
