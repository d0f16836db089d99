"""Canonical weights from PyTorch: a file, a state dict, or a module.

PyTorch keeps the gates in the canonical order (input, forget, cell, output) and applies a weight as
``x @ weight.T``, so a kernel is a transposed weight. Its two biases are always added to each other, so they are
one here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.errors import FormatError, UnsupportedModelError, raise_together
from lstm_engine.weights import CellWeights, Direction, LSTMWeights

from .tensor_file import TensorFile, flatten, read_tensors
from .torch_modules import CELL_TENSOR, TorchModule, choose, find_modules

__all__ = [
    "describe_torch_file",
    "embedding_weights_from_torch",
    "linear_weights_from_torch",
    "lstm_weights_from_torch",
]

Source = str | os.PathLike[str] | Mapping[str, Any] | Any

_LSTM_CLASSES: Final = ("LSTM", "LSTMCell")


def lstm_weights_from_torch(source: Source, prefix: str | None = None, *, allow_nonfinite: bool = False) -> LSTMWeights:
    """Return the weights of an ``nn.LSTM`` or ``nn.LSTMCell`` in canonical form.

    Parameters
    ----------
    source
        Path of a file of ``torch.save`` or a safetensors file; a state dict (of NumPy arrays or PyTorch tensors, also
        nested in a checkpoint); or an ``nn.LSTM`` or ``nn.LSTMCell``. PyTorch is not imported.
    prefix
        Path of the module, such as ``"encoder.rnn"`` for ``encoder.rnn.weight_ih_l0``; what checkpoints and wrappers
        put in front (``state_dict.``, ``module.``, ...) may be left out. None if there is only one LSTM.
    allow_nonfinite
        Whether weights may be NaN or infinite.

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
        finite.
    UnsafeFileError
        If the file asks for code to be run.
    """
    file = _open(source, _LSTM_CLASSES)
    module = choose(file.path, find_modules(file), "an LSTM", _LSTM_CLASSES, prefix)
    _refuse_unread(file, module)
    problems = _check_cells(file, module)
    if not isinstance(source, str | os.PathLike | Mapping):
        problems += _check_attributes(source, module)
    raise_together(FormatError, file.path, problems)
    direction: Direction = "bidirectional" if module.directions == 2 else "forward"
    cells = tuple(
        tuple(_cell(file, module, suffix) for suffix in layer_suffixes) for layer_suffixes in _suffixes(module)
    )
    weights = LSTMWeights(cells, direction)
    if not allow_nonfinite:
        weights.check_finite(f"{file.path}: {module.describe()}")
    return weights


def linear_weights_from_torch(
    source: Source, prefix: str | None = None, *, allow_nonfinite: bool = False
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the weights of an ``nn.Linear``.

    Parameters
    ----------
    source, prefix, allow_nonfinite
        As for :func:`lstm_weights_from_torch`; the module is an ``nn.Linear``.

    Returns
    -------
    kernel
        (in_features, out_features), C-contiguous, float32 or float64, applied as ``x @ kernel``.
    bias
        (out_features,), or None for none.

    Raises
    ------
    LstmEngineError
        As :func:`lstm_weights_from_torch`.
    """
    file = _open(source, ("Linear",))
    module = choose(file.path, find_modules(file), "a Linear layer", ("Linear", "Linear or Embedding"), prefix)
    _refuse_unread(file, module)
    weight = file.tensors[module.tensor("weight")]
    bias = file.tensors.get(module.tensor("bias"))
    problems = _check_dtypes(file, module)
    if bias is not None and bias.shape != weight.shape[:1]:
        problems.append(f"{module.tensor('bias')}: expected shape ({weight.shape[0]},), found {bias.shape}")
    raise_together(FormatError, file.path, problems)
    if not allow_nonfinite:
        _check_finite(file, module)
    return _contiguous(weight.T), None if bias is None else _contiguous(bias)


def embedding_weights_from_torch(
    source: Source, prefix: str | None = None, *, allow_nonfinite: bool = False
) -> NDArray[Any]:
    """Return the table of an ``nn.Embedding``.

    Parameters
    ----------
    source, prefix, allow_nonfinite
        As for :func:`lstm_weights_from_torch`; the module is an ``nn.Embedding``.

    Returns
    -------
    numpy.ndarray
        (num_embeddings, embedding_dim), C-contiguous, float32 or float64.

    Raises
    ------
    LstmEngineError
        As :func:`lstm_weights_from_torch`; UnsupportedModelError also for an ``nn.Embedding`` with ``max_norm``, which
        changes its table as it is used.
    """
    file = _open(source, ("Embedding",))
    if getattr(source, "max_norm", None) is not None and not isinstance(source, str | os.PathLike | Mapping):
        raise UnsupportedModelError(f"{file.path}: max_norm is not implemented; expected None, found {source.max_norm}")
    module = choose(file.path, find_modules(file), "an Embedding", ("Linear or Embedding",), prefix)
    _refuse_unread(file, module)
    raise_together(FormatError, file.path, _check_dtypes(file, module))
    if not allow_nonfinite:
        _check_finite(file, module)
    return _contiguous(file.tensors[module.tensor("weight")])


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
    return find_modules(read_tensors(path))


# --- Sources --------------------------------------------------------------------------------------------------------


def _open(source: Source, classes: tuple[str, ...]) -> TensorFile:
    if isinstance(source, str | os.PathLike):
        return read_tensors(source)
    if isinstance(source, Mapping):
        subject = "the state dict"
    else:
        subject = _check_module(source, classes)
        source = source.state_dict()
    tensors, unsupported = flatten(source, subject)
    return TensorFile(subject, "mapping", tensors, unsupported)


def _check_module(source: Any, classes: tuple[str, ...]) -> str:
    """Return the class name of a module that is one of ``classes`` of torch.nn and computes as they do."""
    kind: Any = type(source)
    name = f"{kind.__module__}.{kind.__qualname__}"
    for base in kind.__mro__:
        if base.__name__ in classes and base.__module__.startswith("torch.nn.modules."):
            if kind.forward is not base.forward:
                raise UnsupportedModelError(
                    f"source: {name} has a forward of its own, which may compute something else than "
                    f"nn.{base.__name__}; if it does not, give its state_dict()"
                )
            return name
    wanted = " or ".join(f"torch.nn.{known}" for known in classes)
    if hasattr(source, "state_dict"):
        raise UnsupportedModelError(
            f"source: expected a {wanted}, found a {name}; for a layer inside of a larger module give "
            "module.state_dict() and the layer's prefix"
        )
    raise UnsupportedModelError(f"source: expected a path, a state dict or a {wanted}, found {name}")


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


# --- Checks ---------------------------------------------------------------------------------------------------------


def _refuse_unread(file: TensorFile, module: TorchModule) -> None:
    problems = [
        f"{module.tensor(short)} cannot be read: {file.unsupported[module.tensor(short)]}; convert it to float32 first"
        for short, shape in module.shapes.items()
        if shape is None
    ]
    raise_together(UnsupportedModelError, file.path, problems)


def _check_dtypes(file: TensorFile, module: TorchModule) -> list[str]:
    dtypes = {name: file.tensors[name].dtype for name in map(module.tensor, module.shapes)}
    return [
        f"{name}: expected floating-point numbers, found dtype {dtype}"
        for name, dtype in dtypes.items()
        if dtype.kind != "f"
    ]


def _suffixes(module: TorchModule) -> list[list[str]]:
    """Return the ends of the tensors' names, by layer and direction."""
    if module.kind == "LSTMCell":
        return [[""]]
    directions = ["", "_reverse"][: module.directions]
    return [[f"_l{layer}{direction}" for direction in directions] for layer in range(module.layers)]


def _check_cells(file: TensorFile, module: TorchModule) -> list[str]:
    """List everything that is missing or does not fit in the tensors of an LSTM."""
    problems: list[str] = []
    numbers = {int(match.group(2) or 0) for short in module.shapes if (match := CELL_TENSOR.fullmatch(short))}
    if len(numbers) != module.layers:
        # Said once: a damaged name such as weight_ih_l9999 must not list ten thousand layers.
        return [f"{module.tensor('weight_ih_l*')}: expected layers 0 to {module.layers - 1}, found {sorted(numbers)}"]
    bias = any(short.startswith("bias") for short in module.shapes)
    projected = any(short.startswith("weight_hr") for short in module.shapes)
    hidden, output = module.hidden_size, module.projection_size if projected else module.hidden_size
    expected: dict[str, tuple[int, ...]] = {}
    for layer, suffixes in enumerate(_suffixes(module)):
        for suffix in suffixes:
            features = module.input_size if layer == 0 else module.directions * output
            expected[f"weight_ih{suffix}"] = (4 * hidden, features)
            expected[f"weight_hh{suffix}"] = (4 * hidden, output)
            if bias:
                expected[f"bias_ih{suffix}"] = expected[f"bias_hh{suffix}"] = (4 * hidden,)
            if projected:
                expected[f"weight_hr{suffix}"] = (output, hidden)
    for short, shape in expected.items():
        if short not in module.shapes:
            hint = _parametrized(file, module, short)
            problems.append(f"{module.tensor(short)}: missing; expected shape {shape}{hint}")
        elif module.shapes[short] != shape:
            problems.append(f"{module.tensor(short)}: expected shape {shape}, found {module.shapes[short]}")
    if hidden == 0 and not problems:
        problems.append(f"{module.tensor('weight_hh')}: expected a hidden size of at least 1, found 0")
    for short in module.shapes:
        # Such a weight changes what the layer computes; nn.LSTM has none, a layer of one's own may.
        if short not in expected and short.startswith(("weight_", "bias_")):
            problems.append(f"{module.tensor(short)}: nn.LSTM has no tensor of this name; its use is not known")
    return problems + _check_dtypes(file, module)


def _parametrized(file: TensorFile, module: TorchModule, short: str) -> str:
    """Return what to do if ``short`` is missing because it is computed from other tensors."""
    computed = f"{module.tensor('parametrizations')}.{short}."
    names = [*file.tensors, *file.unsupported]
    if any(name.startswith(computed) for name in names):
        return "; it is parametrized: call torch.nn.utils.parametrize.remove_parametrizations before saving"
    if f"{short}_g" in module.shapes and f"{short}_v" in module.shapes:
        return "; it is weight-normalised: call torch.nn.utils.remove_weight_norm before saving"
    return ""


def _check_finite(file: TensorFile, module: TorchModule) -> None:
    problems = [
        f"{module.tensor(short)} holds NaN or infinity; expected finite weights: "
        "export the model again from a sound checkpoint"
        for short in module.shapes
        if not np.isfinite(file.tensors[module.tensor(short)]).all()
    ]
    raise_together(UnsupportedModelError, file.path, problems)


# --- Conversion -----------------------------------------------------------------------------------------------------


def _cell(file: TensorFile, module: TorchModule, suffix: str) -> CellWeights:
    def tensor(name: str) -> NDArray[Any] | None:
        return file.tensors.get(module.tensor(name + suffix))

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


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    dtype = np.float64 if array.dtype == np.float64 else np.float32
    return np.array(array, dtype=dtype, order="C")
