"""Weights of PyTorch's GRU and RNN: a file, a state dict, or a module."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .torch_lstm import cell_suffixes, find_recurrent
from .torch_source import Source

__all__ = ["recurrent_weights_from_torch"]


def recurrent_weights_from_torch(
    source: Source, kind: str, prefix: str | None = None
) -> list[list[dict[str, NDArray[Any]]]]:
    """Return the weights of an ``nn.GRU`` or ``nn.RNN``, or of one of their cells.

    Parameters
    ----------
    source, prefix
        As for :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`.
    kind
        ``"GRU"`` or ``"RNN"``.

    Returns
    -------
    list of list of dict
        For each layer and direction: ``weight_ih`` (features, gates * hidden) and ``weight_hh`` (hidden, gates *
        hidden), applied as ``x @ kernel``; and ``bias_ih`` and ``bias_hh``, (gates * hidden,), unless it has none.
        Gates are in PyTorch's order: reset, update, new.

    Raises
    ------
    LstmEngineError
        As :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`.
    """
    found = find_recurrent(source, kind, prefix)
    found.check([])

    def arrays(suffix: str) -> dict[str, NDArray[Any]]:
        named = ((name, found.tensor(name + suffix)) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        return {name: np.ascontiguousarray(array.T) for name, array in named if array is not None}

    return [[arrays(suffix) for suffix in suffixes] for suffixes in cell_suffixes(found.module)]
