"""Fast, small and dependable LSTM inference on a CPU, for models trained in Keras or PyTorch.

::

    import lstm_engine as le

    model = le.load("model.keras")
    y = model(x)

Names are imported when they are first used, so that ``import lstm_engine`` costs next to nothing on
top of NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from .errors import (
    DeadlineError,
    FormatError,
    LstmEngineError,
    OverloadError,
    ShapeError,
    StateError,
    UnsafeFileError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from . import serving
    from ._core import SlidingWindow, Stream, StreamPool
    from .activations import Activation
    from .configuration import config
    from .formats.limits import Limits
    from .layers import Activate, Dense, Embedding, FinalHidden, LastStep
    from .layers.torch_layers import BatchNorm1d, Conv1d, Dropout, LayerNorm
    from .layers.torch_recurrent import GRU, RNN
    from .loading import load
    from .lstm import LSTM
    from .model import Model, Sequential
    from .torch_module import from_torch

__version__ = "0.1.0"

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Activate",
    "Activation",
    "BatchNorm1d",
    "Conv1d",
    "DeadlineError",
    "Dense",
    "Dropout",
    "Embedding",
    "FinalHidden",
    "FormatError",
    "LastStep",
    "LayerNorm",
    "Limits",
    "LstmEngineError",
    "Model",
    "OverloadError",
    "Sequential",
    "ShapeError",
    "SlidingWindow",
    "StateError",
    "Stream",
    "StreamPool",
    "UnsafeFileError",
    "UnsupportedModelError",
    "__version__",
    "config",
    "from_torch",
    "load",
    "serving",
]

#: Module that defines each name that is imported on first use.
_LAZY: Final = {
    "GRU": "layers.torch_recurrent",
    "LSTM": "lstm",
    "RNN": "layers.torch_recurrent",
    "Activate": "layers",
    "Activation": "activations",
    "BatchNorm1d": "layers.torch_layers",
    "Conv1d": "layers.torch_layers",
    "Dense": "layers",
    "Dropout": "layers.torch_layers",
    "Embedding": "layers",
    "FinalHidden": "layers",
    "LastStep": "layers",
    "LayerNorm": "layers.torch_layers",
    "Limits": "formats.limits",
    "Model": "model",
    "Sequential": "model",
    "SlidingWindow": "_core",
    "Stream": "_core",
    "StreamPool": "_core",
    "config": "configuration",
    "from_torch": "torch_module",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    if name == "serving":
        return importlib.import_module(".serving", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
