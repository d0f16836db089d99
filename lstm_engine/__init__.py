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
    FormatError,
    LstmEngineError,
    ShapeError,
    StateError,
    UnsafeFileError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from ._stream import Stream
    from .activations import Activation
    from .configuration import config
    from .formats.limits import Limits
    from .layers import Dense, Embedding, FinalHidden, LastStep
    from .loading import load
    from .lstm import LSTM
    from .model import Model, Sequential

__version__ = "0.1.0"

__all__ = [
    "LSTM",
    "Activation",
    "Dense",
    "Embedding",
    "FinalHidden",
    "FormatError",
    "LastStep",
    "Limits",
    "LstmEngineError",
    "Model",
    "Sequential",
    "ShapeError",
    "StateError",
    "Stream",
    "UnsafeFileError",
    "UnsupportedModelError",
    "__version__",
    "config",
    "load",
]

#: Module that defines each name that is imported on first use.
_LAZY: Final = {
    "LSTM": "lstm",
    "Activation": "activations",
    "Dense": "layers",
    "Embedding": "layers",
    "FinalHidden": "layers",
    "LastStep": "layers",
    "Limits": "formats.limits",
    "Model": "model",
    "Sequential": "model",
    "Stream": "_stream",
    "config": "configuration",
    "load": "loading",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
