"""Canonical weights from PyTorch: a file, a state dict, or a module.

PyTorch keeps the gates in the canonical order (input, forget, cell, output) and applies a weight as
``x @ weight.T``, so a kernel is a transposed weight. Its two biases are always added to each other, so they are
one here.
"""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, raise_together
from lstm_engine.weights import CellWeights, Direction, LSTMWeights

from .limits import nonfinite_allowed
from .tensor_file import read_tensors
from .torch_modules import CELL_TENSOR, TorchModule, find_modules
from .torch_source import FoundModule, Source, find_module, is_module
from .torch_weight_norm import fold_weight_norm

__all__ = ["cell_suffixes", "describe_torch_file", "find_recurrent", "lstm_weights_from_torch"]

#: Blocks of rows in a weight of each recurrent class.
_GATES: Final = {"LSTM": 4, "GRU": 3, "RNN": 1}


def lstm_weights_from_torch(source: Source, prefix: str | None = None) -> LSTMWeights:
    """Return the weights of an ``nn.LSTM`` or ``nn.LSTMCell`` in canonical form.

    Parameters
    ----------
    source
        Path of a file of ``torch.save`` or a safetensors file; a state dict (of NumPy arrays or PyTorch tensors, also
        nested in a checkpoint); or an ``nn.LSTM`` or ``nn.LSTMCell``. PyTorch is not imported.
    prefix
        Path of the module, such as ``"encoder.rnn"`` for ``encoder.rnn.weight_ih_l0``; what checkpoints and wrappers
        put in front (``state_dict.``, ``module.``, ...) may be left out. None if there is only one LSTM.

    Returns
    -------
    LSTMWeights
        float32, or float64 where PyTorch's are. The two biases are added in float64 and rounded once.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If the file is damaged or of another format, or the module's tensors are missing or do not fit together; all
        problems are listed together.
    UnsupportedModelError
        If there is no LSTM, or several and no prefix; if a tensor is of a kind that is not read; if a weight is not
        finite and that is not allowed (:func:`~lstm_engine.formats.limits.reading`).
    UnsafeFileError
        If the file asks for code to be run.
    """
    found = find_recurrent(source, "LSTM", prefix)
    direction: Direction = "bidirectional" if found.module.directions == 2 else "forward"
    cells = tuple(tuple(_cell(found, suffix) for suffix in suffixes) for suffixes in cell_suffixes(found.module))
    weights = LSTMWeights(cells, direction)
    if not nonfinite_allowed():
        weights.check_finite(f"{found.file.path}: {found.module.describe()}")
    return weights


def find_recurrent(source: Source, kind: str, prefix: str | None) -> FoundModule:
    """Return a recurrent module whose tensors are all there and fit together.

    Parameters
    ----------
    source, prefix
        As of :func:`lstm_weights_from_torch`.
    kind
        ``"LSTM"``, ``"GRU"`` or ``"RNN"``; a cell (``nn.LSTMCell``) will do for each.

    Raises
    ------
    LstmEngineError
        As :func:`lstm_weights_from_torch`.
    """
    classes = (kind, f"{kind}Cell")
    found = find_module(source, "an LSTM" if kind == "LSTM" else f"a {kind}", classes, classes, prefix)
    problems = _check_cells(found, kind)
    if is_module(source):
        problems += _check_attributes(source, found.module)
    raise_together(FormatError, found.file.path, problems + found.dtype_problems())
    return found


def describe_torch_file(path: str | os.PathLike[str]) -> list[TorchModule]:
    """List the modules that a file of ``torch.save`` or a safetensors file has weights of.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    list of TorchModule
        Kind, path and shapes of each, in the file's order.

    Raises
    ------
    LstmEngineError
        As :func:`lstm_engine.formats.tensor_file.read_tensors`.
    """
    return find_modules(fold_weight_norm(read_tensors(path)))


# --- Checks ---------------------------------------------------------------------------------------------------------


def _check_attributes(source: Any, module: TorchModule) -> list[str]:
    """Compare what an nn.LSTM or nn.LSTMCell says of itself with its tensors; batch_first has no say in weights."""
    found = {
        "input_size": module.input_size,
        "hidden_size": module.hidden_size,
        "num_layers": module.layers,
        "bidirectional": module.directions == 2,
        "proj_size": module.projection_size,
        "bias": any(short.startswith("bias") for short in module.shapes),
    }
    return [
        f"the module says {name}={getattr(source, name)}, its tensors say {value}"
        for name, value in found.items()
        if getattr(source, name, value) != value
    ]


def cell_suffixes(module: TorchModule) -> list[list[str]]:
    """Return the ends of the tensors' names, by layer and direction."""
    if module.kind.endswith("Cell"):
        return [[""]]
    directions = ["", "_reverse"][: module.directions]
    return [[f"_l{layer}{direction}" for direction in directions] for layer in range(module.layers)]


def _check_cells(found: FoundModule, kind: str) -> list[str]:
    """List everything that is missing or does not fit in the tensors of a recurrent module."""
    module, gates = found.module, _GATES[kind]
    numbers = {int(match.group(2) or 0) for short in module.shapes if (match := CELL_TENSOR.fullmatch(short))}
    if len(numbers) != module.layers:
        # Said once: a damaged name such as weight_ih_l9999 must not list ten thousand layers.
        return [f"{module.tensor('weight_ih_l*')}: expected layers 0 to {module.layers - 1}, found {sorted(numbers)}"]
    bias = any(short.startswith("bias") for short in module.shapes)
    projected = any(short.startswith("weight_hr") for short in module.shapes)
    hidden, output = module.hidden_size, module.projection_size if projected else module.hidden_size
    expected: dict[str, tuple[int, ...]] = {}
    for layer, suffixes in enumerate(cell_suffixes(module)):
        for suffix in suffixes:
            features = module.input_size if layer == 0 else module.directions * output
            expected[f"weight_ih{suffix}"] = (gates * hidden, features)
            expected[f"weight_hh{suffix}"] = (gates * hidden, output)
            if bias:
                expected[f"bias_ih{suffix}"] = expected[f"bias_hh{suffix}"] = (gates * hidden,)
            if projected:
                expected[f"weight_hr{suffix}"] = (output, hidden)
    problems = found.shape_problems(expected)
    if hidden == 0 and not problems:
        problems.append(f"{module.tensor('weight_hh')}: expected a hidden size of at least 1, found 0")
    for short in module.shapes:
        # Such a weight changes what the layer computes; nn.LSTM has none, a layer of one's own may.
        if short not in expected and short.startswith(("weight_", "bias_")):
            problems.append(f"{module.tensor(short)}: nn.{kind} has no tensor of this name; its use is not known")
    return problems


# --- Conversion -----------------------------------------------------------------------------------------------------


def _cell(found: FoundModule, suffix: str) -> CellWeights:
    def tensor(name: str) -> NDArray[Any] | None:
        return found.tensor(name + suffix)

    input_weight, hidden_weight, projection = tensor("weight_ih"), tensor("weight_hh"), tensor("weight_hr")
    assert input_weight is not None  # _check_cells has seen to both
    assert hidden_weight is not None
    input_bias, hidden_bias = tensor("bias_ih"), tensor("bias_hh")
    bias = None
    if input_bias is not None and hidden_bias is not None:
        wide = input_bias.astype(np.float64) + hidden_bias.astype(np.float64)
        bias = wide if np.float64 in (input_bias.dtype, hidden_bias.dtype) else wide.astype(np.float32)
    return CellWeights(
        kernel=input_weight.T,
        recurrent_kernel=hidden_weight.T,
        bias=bias,
        projection=None if projection is None else projection.T,
    )
