"""Weights of PyTorch's layers without a state: Linear, Embedding, Conv1d, BatchNorm1d, LayerNorm.

PyTorch applies a weight as ``x @ weight.T`` and keeps the channels of a convolution in front; here an array is laid
out as :mod:`lstm_engine.layers` applies it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import UnsupportedModelError

from .torch_source import FoundModule, Source, find_module, is_module

__all__ = [
    "batch_norm_weights_from_torch",
    "conv1d_weights_from_torch",
    "embedding_weights_from_torch",
    "layer_norm_weights_from_torch",
    "linear_weights_from_torch",
]


def linear_weights_from_torch(source: Source, prefix: str | None = None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the weights of an ``nn.Linear``.

    Parameters
    ----------
    source, prefix
        As for :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`; the module is an ``nn.Linear``.

    Returns
    -------
    kernel
        (in_features, out_features), C-contiguous, float32 or float64, applied as ``x @ kernel``.
    bias
        (out_features,), or None for none.

    Raises
    ------
    LstmEngineError
        As :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`.
    """
    found = find_module(source, "a Linear layer", ("Linear",), ("Linear", "Linear or Embedding"), prefix)
    weight, bias = _weight_and_bias(found)
    return _contiguous(weight.T), bias


def conv1d_weights_from_torch(source: Source, prefix: str | None = None) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the weights of an ``nn.Conv1d``.

    Parameters
    ----------
    source, prefix
        As for :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`; the module is an ``nn.Conv1d``.

    Returns
    -------
    kernel
        (kernel_size, in_channels / groups, out_channels), C-contiguous, float32 or float64.
    bias
        (out_channels,), or None for none.

    Raises
    ------
    LstmEngineError
        As :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`.
    """
    found = find_module(source, "a Conv1d", ("Conv1d",), ("Conv1d",), prefix)
    weight, bias = _weight_and_bias(found)
    return _contiguous(weight.transpose(2, 1, 0)), bias


def embedding_weights_from_torch(source: Source, prefix: str | None = None) -> NDArray[Any]:
    """Return the table of an ``nn.Embedding``.

    Parameters
    ----------
    source, prefix
        As for :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`; the module is an ``nn.Embedding``.

    Returns
    -------
    numpy.ndarray
        (num_embeddings, embedding_dim), C-contiguous, float32 or float64.

    Raises
    ------
    LstmEngineError
        As :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`; UnsupportedModelError also for an
        ``nn.Embedding`` with ``max_norm``, which changes its table as it is used.
    """
    found = find_module(source, "an Embedding", ("Embedding",), ("Linear or Embedding",), prefix)
    max_norm = getattr(source, "max_norm", None)
    if is_module(source) and max_norm is not None:
        raise UnsupportedModelError(f"{found.file.path}: max_norm is not implemented; expected None, found {max_norm}")
    return _contiguous(_weight_and_bias(found)[0])


def batch_norm_weights_from_torch(source: Source, prefix: str | None = None) -> dict[str, NDArray[Any]]:
    """Return the weights and running statistics of an ``nn.BatchNorm1d``.

    Parameters
    ----------
    source, prefix
        As for :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`; the module is an ``nn.BatchNorm1d``.

    Returns
    -------
    dict
        ``running_mean``, ``running_var`` and, if it has them, ``weight`` and ``bias``: (features,) each.

    Raises
    ------
    LstmEngineError
        As :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`; UnsupportedModelError also for an
        ``nn.BatchNorm1d`` without running statistics, which normalizes each batch by its own.
    """
    if is_module(source) and getattr(source, "running_mean", 0) is None:
        raise UnsupportedModelError(
            "source: the BatchNorm1d has track_running_stats=False and normalizes each batch by its own statistics; "
            "expected running statistics"
        )
    found = find_module(source, "a BatchNorm1d", ("BatchNorm1d",), ("BatchNorm",), prefix)
    mean = found.tensor("running_mean")
    assert mean is not None  # so the kind is found
    names = ["running_mean", "running_var", *(name for name in ("weight", "bias") if name in found.module.shapes)]
    found.check(found.shape_problems(dict.fromkeys(names, (mean.size,))))
    return {name: _contiguous(array) for name in names if (array := found.tensor(name)) is not None}


def layer_norm_weights_from_torch(
    source: Source, prefix: str | None = None
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the weights of an ``nn.LayerNorm``.

    Parameters
    ----------
    source, prefix
        As for :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`; the module is an ``nn.LayerNorm``.

    Returns
    -------
    weight, bias
        Of the normalized shape; bias is None for none.

    Raises
    ------
    LstmEngineError
        As :func:`~lstm_engine.formats.torch_lstm.lstm_weights_from_torch`.
    """
    # A norm over several axes without a bias looks like other layers: then only a prefix tells.
    anywhere = prefix is None and not is_module(source)
    kinds = ("normalization",) if anywhere else ("normalization", "Linear or Embedding", "Conv1d")
    found = find_module(source, "a LayerNorm", ("LayerNorm",), kinds, prefix)
    weight, bias = _weight_and_bias(found, elementwise=True)
    return _contiguous(weight), bias


def _weight_and_bias(found: FoundModule, *, elementwise: bool = False) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the weight as it is stored, and the bias: a number for each row of the weight, or for each element."""
    weight, bias = found.tensor("weight"), found.tensor("bias")
    assert weight is not None  # so the kinds are found
    shape = weight.shape if elementwise else weight.shape[:1]
    found.check([] if bias is None else found.shape_problems({"bias": shape}))
    return weight, None if bias is None else _contiguous(bias)


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    dtype = np.float64 if array.dtype == np.float64 else np.float32
    return np.array(array, dtype=dtype, order="C")
