"""Other engines as contenders, each driven the way its documentation says is fastest.

A peer that is not installed is left out by :func:`installed`; nothing here is needed to run lstm_engine.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Final

from bench.cells import Cell
from bench.contender import Contender

__all__ = ["ENGINES", "contenders", "installed"]

#: Peers by column: the module here that drives each, and the modules that it needs.
ENGINES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "onnxruntime": ("onnx_runtime", ("onnxruntime", "onnx")),
    "torch": ("pytorch", ("torch",)),
    "openvino": ("open_vino", ("openvino", "onnx")),
    "litert": ("lite_rt", ("ai_edge_litert", "tensorflow", "tf_keras")),
    "keras": ("keras_tensorflow", ("keras", "tensorflow")),
    "numpy": ("numpy_loop", ("numpy",)),
}


def installed(engine: str) -> bool:
    """Return whether the modules that a peer needs can be imported."""
    return all(importlib.util.find_spec(module) is not None for module in ENGINES[engine][1])


def contenders(engine: str, cell: Cell) -> tuple[type[Contender], ...] | str:
    """Return the ways to drive a peer on a cell that are worth timing, the fastest of which counts.

    A string says why there is none.
    """
    found: tuple[type[Contender], ...] | str = importlib.import_module(f".{ENGINES[engine][0]}", __name__).contenders(
        cell
    )
    return found
