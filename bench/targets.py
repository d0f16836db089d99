"""What we aim at, and how much of it the recorded results reach: the ``targets`` table of ``bench.markdown``.

A target is a figure of a cell and the least (or most) that it should be. Where several cells have one subject they
stand in one row, each as what was found and what was aimed at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from .cells import CELLS
from .results import OURS, empty_calls, fastest, of_limit, saving, scaling, speed_up

__all__ = ["TARGETS", "Target", "row"]

Result = dict[str, Any]
Figure = Callable[[Result], float | None]


@dataclass(frozen=True, slots=True)
class Target:
    """One figure of some cells, each with what it should be."""

    regime: str
    words: str
    figure: Figure
    cells: Mapping[str, float]
    #: Whether less is better.
    at_most: bool = False

    def reached(self, cell: str, found: float) -> bool:
        """Return whether a cell's figure is what it should be, as it is written."""
        wanted = self.cells[cell]
        written = float(f"{found:.3g}")
        return written <= wanted if self.at_most else written >= wanted


def _beside(engine: str) -> Figure:
    return partial(speed_up, engine=engine)


def _percent(figure: Figure) -> Figure:
    def percent(cell: Result) -> float | None:
        part = figure(cell)
        return None if part is None else 100 * part

    return percent


def _of_peak(cell: Result) -> float | None:
    ours, peak = fastest(cell, OURS), cell.get("probes", {}).get(f"peak_{cell['compute_type']}")
    return None if ours is None or not peak else _FLOPS[cell["cell"]] / float(ours["p50"]) / float(peak)


def _error(cell: Result) -> float | None:
    ours = fastest(cell, OURS)
    error = None if ours is None else ours.get("relative_l2_error")
    return None if error is None else float(error)


def _microseconds(cell: Result) -> float | None:
    ours = fastest(cell, OURS)
    return None if ours is None else 1e6 * float(ours["p50"])


def _spread(cell: Result) -> float | None:
    ours = fastest(cell, OURS)
    if ours is None or "single_call_p99" not in ours:
        return None
    return float(ours["single_call_p99"]) / float(ours["single_call_p50"])


#: What is aimed at from here on, percents of a limit, is written without a fraction.
_WHOLE: Final = 50

_FLOPS: Final = {cell.name: cell.flops for cell in CELLS}
_BATCHES: Final = ("8,100,256,256", "32,100,256,256", "32,100,512,512", "128,100,512,512")
_STEPS: Final = ("1,1,64,128", "1,1,256,256", "1,1,512,512", "1,1,1024,1024")
_SEQUENCES: Final = ("1,100,64,128", "1,100,256,256", "1,100,512,512", "1,100,1024,1024")


def _all(cells: tuple[str, ...], wanted: float, suffix: str = "") -> dict[str, float]:
    return {cell + suffix: wanted for cell in cells}


def _each(cells: tuple[str, ...], *wanted: float, suffix: str = "") -> dict[str, float]:
    return {cell + suffix: value for cell, value in zip(cells, wanted, strict=True)}


_ORT: Final = "of ONNX Runtime"

#: In the order of the regimes on the page.
TARGETS: Final = (
    Target("one step", "empty calls", empty_calls, {"1,1,16,16": 6.0}, at_most=True),
    Target(
        "one step",
        f"{_ORT}, 16 to 512 units",
        _beside("onnxruntime"),
        _each(("1,1,16,16", "1,1,32,64", *_STEPS[:3]), 40.0, 9.0, 4.0, 1.8, 1.35),
    ),
    Target("one step", "of the limit, from 128 units", _percent(of_limit), _all(_STEPS, 85.0)),
    Target(
        "one sequence",
        f"{_ORT}, 32 to 1,024 units",
        _beside("onnxruntime"),
        _each(("1,100,8,32", "1,100,64,64", *_SEQUENCES), 2.8, 1.5, 1.5, 1.35, 1.28, 1.6),
    ),
    Target("one sequence", "of the limit, from 128 units", _percent(of_limit), _all(_SEQUENCES, 92.0)),
    Target(
        "batches",
        "of the multipliers' peak, 128 units",
        _percent(_of_peak),
        _all(("8,100,64,128", "32,100,64,128", "128,100,64,128"), 86.0),
    ),
    Target("batches", "of the multipliers' peak, from 256 units", _percent(_of_peak), _all(_BATCHES, 93.0)),
    Target(
        "batches",
        "of the best peer, 8 and 32 rows of 128 units",
        speed_up,
        _all(("8,100,64,128", "32,100,64,128"), 1.4),
    ),
    Target(
        "batches",
        "of the best peer, others",
        speed_up,
        _all((*_BATCHES[:3], "128,100,64,128", _BATCHES[3]), 1.15),
    ),
    Target("both directions", "of the best peer", speed_up, {"16,100,128,256,2-layer,bidirectional": 1.08}),
    Target(
        "different lengths",
        "of the ideal saving",
        _percent(saving),
        _all(("32,100,64,128,lengths", "32,100,256,256,lengths"), 95.0),
    ),
    Target(
        "bfloat16",
        "batches, of its peak, from 256 units",
        _percent(_of_peak),
        _all(("8,100,256,256", "32,100,256,256", "32,100,512,512"), 90.0, ",bfloat16"),
    ),
    Target(
        "bfloat16",
        "batches, of PyTorch",
        _beside("torch"),
        _all(("8,100,64,128", "8,100,256,256", "32,100,64,128", "32,100,256,256", "32,100,512,512"), 1.15, ",bfloat16"),
    ),
    Target(
        "bfloat16",
        "one sequence, of the best peer",
        speed_up,
        _each(_SEQUENCES, 1.9, 1.35, 1.7, 1.3, suffix=",bfloat16"),
    ),
    Target("bfloat16", "error, 100 steps", _percent(_error), _all(_SEQUENCES, 0.3, ",bfloat16"), at_most=True),
    Target(
        "int8",
        "batches, of its peak, from 256 units",
        _percent(_of_peak),
        _all(("8,100,256,256", "32,100,256,256", "32,100,512,512"), 77.0, ",int8"),
    ),
    Target(
        "int8",
        f"sequences and batches, {_ORT}",
        _beside("onnxruntime"),
        _each(
            (*_SEQUENCES, "8,100,64,128", "8,100,256,256", "32,100,64,128", "32,100,256,256", "32,100,512,512"),
            1.5,
            1.5,
            1.25,
            1.15,
            1.5,
            1.5,
            1.5,
            1.5,
            1.25,
            suffix=",int8",
        ),
    ),
    Target(
        "int8",
        f"one step, {_ORT}, 128 to 512 units",
        _beside("onnxruntime"),
        _each(_STEPS[:3], 15.0, 4.0, 2.3, suffix=",int8"),
    ),
    Target("int8", "error, 100 steps", _percent(_error), _all(_SEQUENCES, 1.0, ",int8"), at_most=True),
    Target(
        "two threads",
        "of one thread, one row from 256 units",
        scaling,
        _each(_SEQUENCES[1:], 1.7, 1.9, 1.9, suffix=",2-threads"),
    ),
    Target(
        "two threads", "of one thread, batches", scaling, _all(("8,100,64,128", "32,100,256,256"), 1.9, ",2-threads")
    ),
    Target(
        "two threads",
        "of one thread, both directions",
        scaling,
        {"16,100,128,256,2-layer,bidirectional,2-threads": 1.8},
    ),
    Target(
        "FPGA's stacks, int8",
        "microseconds, 2 x 128 and 3 x 256",
        _microseconds,
        {"1,1,128,128,2-layer,dense-32,int8": 3.0, "1,1,256,256,3-layer,dense-32,int8": 15.0},
        at_most=True,
    ),
    Target(
        "FPGA's stacks, int8",
        "microseconds on two threads, 3 x 256",
        _microseconds,
        {"1,1,256,256,3-layer,dense-32,int8,2-threads": 8.0},
        at_most=True,
    ),
    Target(
        "FPGA's stacks, int8",
        "p99 of the median",
        _spread,
        {
            "1,1,128,128,2-layer,dense-32,int8": 1.5,
            "1,1,256,256,3-layer,dense-32,int8": 1.5,
            "1,1,256,256,3-layer,dense-32,int8,2-threads": 1.5,
        },
        at_most=True,
    ),
)


def _written(target: Target, found: float, cell: str) -> str:
    wanted = target.cells[cell]
    value = f"{found:.0f}" if wanted >= _WHOLE else f"{found:.3g}"
    text = f"{value} / {wanted:g}"
    return f"**{text}**" if target.reached(cell, float(value)) else text


def row(target: Target, document: dict[str, Any]) -> str:
    """Return what a run found of a target, cell by cell, each beside what was aimed at; bold where it is reached."""
    cells = {cell["cell"]: cell for cell in document["cells"] if cell["cell"] in target.cells}
    found = {name: target.figure(cells[name]) for name in target.cells if name in cells}
    return ", ".join(_written(target, value, name) for name, value in found.items() if value is not None) or "-"
