"""``from_torch``: a live module of PyTorch to a layer or model of ours; PyTorch is not imported.

A module of one of PyTorch's own classes says all about itself: its weights and options. What a ``forward`` of one's own
does it cannot say, so every module of another class is refused by name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from .activations import Activation
from .errors import LstmEngineError, UnsupportedModelError, raise_together
from .formats.limits import reading
from .formats.torch_source import check_module, torch_class
from .layers.base import Layer
from .layers.core import Activate, Dense, Embedding, Identity
from .layers.functions import ClippedReLU, LogSoftmax, Softmax
from .layers.pooling import AveragePooling1D, GlobalAveragePooling1D, GlobalMaxPooling1D, MaxPooling1D
from .layers.recurrent import LSTMStack
from .layers.shaping import Flatten
from .layers.torch_layers import BatchNorm1d, Conv1d, LayerNorm
from .layers.torch_recurrent import GRU, RNN
from .layers.windows import Windows
from .lstm import LSTM
from .model import Sequential

__all__ = ["from_torch"]

_RECURRENT: Final = ("LSTM", "GRU", "RNN")
_CELLS: Final = tuple(f"{name}Cell" for name in _RECURRENT)


def from_torch(
    module: Any, *, input_shape: Sequence[int | None] | None = None, allow_nonfinite: bool = False, **options: Any
) -> Sequential | LSTM | Layer:
    """Turn a live module of PyTorch into one of ours that computes the same, as in evaluation mode.

    ::

        model = le.from_torch(nn.Sequential(nn.Embedding(100, 16), nn.LSTM(16, 32, batch_first=True)))

    Parameters
    ----------
    module
        An ``nn.Sequential``, also of such; an ``nn.LSTM``, ``GRU``, ``RNN`` or one of their cells, ``Linear``,
        ``Embedding``, ``Conv1d``, ``BatchNorm1d``, ``LayerNorm``, a dropout, an activation, ``Flatten``, ``MaxPool1d``,
        ``AvgPool1d``, ``AdaptiveAvgPool1d(1)``, ``AdaptiveMaxPool1d(1)`` or ``Identity``. For anything else give its
        ``state_dict()`` to the layers' own ``from_torch``, and put them together with :class:`Sequential`.
    input_shape
        Of an ``nn.Sequential``: shape of the input without the batch axis, None for an open size. If it is None, the
        one of the fewest axes that all modules can take: (features,) for a ``Linear``, (time, features) if an LSTM
        comes behind it.
    allow_nonfinite
        As in :func:`load`.
    **options
        Of an ``nn.Sequential``: ``compute_type``, ``backend``, ``num_threads`` and ``name``, as of
        :class:`Sequential`; of an ``nn.LSTM`` as of :class:`LSTM`.

    Returns
    -------
    Sequential, LSTM or layer
        An ``nn.Sequential`` becomes a model that takes and gives PyTorch's own arrays: (batch, channels, time) around
        a ``Conv1d``. A recurrent module at its end gives its output, not its states. An ``nn.LSTM`` or ``nn.LSTMCell``
        becomes an :class:`LSTM`. Any other module becomes a layer for a :class:`Sequential`, which takes the same
        arrays as the module, but (batch, time, features) whatever the ``batch_first`` of an ``nn.GRU`` or ``RNN``.

    Raises
    ------
    UnsupportedModelError
        If a module cannot be turned into one of ours, naming each, with the way out.
    """
    if isinstance(module, str | os.PathLike | Mapping):
        raise UnsupportedModelError(
            f"module: expected a module of PyTorch, found a {type(module).__name__}: a file or a state dict says "
            "nothing about how layers are connected; use le.load, le.LSTM.from_torch, or le.Sequential"
        )
    with reading(None, allow_nonfinite):
        module = _unwrapped(module)
        name = torch_class(module, ("Sequential", *_WEIGHTED, *_LAYERS, *_RECURRENT, *_CELLS))
        if name == "Sequential":
            return _sequential(module, input_shape, allow_nonfinite, options)
        if input_shape is not None:
            raise UnsupportedModelError(
                f"input_shape: expected None for a module that is no nn.Sequential, found {name}"
            )
        if name in ("LSTM", "LSTMCell"):
            return LSTM.from_torch(module, allow_nonfinite=allow_nonfinite, **options)
        if options:
            raise UnsupportedModelError(
                f"options: expected none for a module that becomes a layer, found {', '.join(options)}; give them to "
                "the le.Sequential that it goes into"
            )
        return _layer(module, allow_nonfinite)


def _unwrapped(module: Any) -> Any:
    """Return the module inside of what torch.compile and the parallel wrappers make."""
    inner = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
    while type(module).__name__ in inner and type(module).__module__.startswith("torch."):
        module = getattr(module, inner[type(module).__name__])
    return module


def _sequential(
    module: Any, input_shape: Sequence[int | None] | None, allow_nonfinite: bool, options: dict[str, Any]
) -> Sequential:
    leaves = list(_leaves(module, ""))
    problems = []
    layers: list[Layer] = []
    for place, (path, leaf) in enumerate(leaves):
        try:
            layers.append(_part(leaf, path, place == len(leaves) - 1, allow_nonfinite, options))
        except LstmEngineError as error:
            problems.append(f"{path!r}: {error}")
    raise_together(UnsupportedModelError, "the nn.Sequential", problems)
    if not layers:
        raise UnsupportedModelError("the nn.Sequential is empty; expected at least one module")
    failures: list[LstmEngineError] = []
    for shape in _shapes(layers) if input_shape is None else [input_shape]:
        try:
            return Sequential(layers, input_shape=shape, **options)
        except LstmEngineError as error:
            failures.append(error)
    raise failures[0]


def _leaves(module: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Walk the modules of an nn.Sequential, those of nested ones too, in the order in which they run."""
    check_module(module, ("Sequential",))
    for name, wrapped in module.named_children():
        child, below = _unwrapped(wrapped), f"{path}.{name}" if path else name
        if torch_class(child, ("Sequential",)):
            yield from _leaves(child, below)
        else:
            yield below, child


def _part(leaf: Any, path: str, last: bool, allow_nonfinite: bool, options: dict[str, Any]) -> Layer:
    """Return one module of an nn.Sequential."""
    name = torch_class(leaf, (*_RECURRENT, *_CELLS)) or ""
    if name in _CELLS:
        raise UnsupportedModelError(f"an nn.{name} takes a single step; use nn.{name.removesuffix('Cell')}")
    if name in _RECURRENT:
        if not last:
            raise UnsupportedModelError(
                f"an nn.{name} gives a tuple, which no other module of an nn.Sequential can take; put the model "
                "together with le.Sequential, where its output alone goes on"
            )
        if not leaf.batch_first:
            raise UnsupportedModelError(
                f"the nn.{name} has batch_first=False and takes (time, batch, features); a model of ours takes (batch, "
                "time, features): set batch_first=True on the module, and give it arrays of that order"
            )
    if name == "LSTM":
        own = {key: value for key, value in options.items() if key in ("compute_type", "backend", "num_threads")}
        return LSTMStack(LSTM.from_torch(leaf, allow_nonfinite=allow_nonfinite, **own), name=path)
    return _layer(leaf, allow_nonfinite).renamed(path)


def _shapes(layers: Sequence[Layer]) -> list[tuple[int | None, ...] | None]:
    """Return the shapes of an input that a chain may begin with, those of the fewest axes first."""
    for first in layers:
        match first:
            case Identity() | Activate():
                continue
            case Dense():
                return [(first.in_features,), (None, first.in_features)]
            case BatchNorm1d():
                return [(first.mean.size,), (first.mean.size, None)]
            case LayerNorm() if first.gamma is not None:
                return [first.gamma.shape, (None, *first.gamma.shape)]
        break
    return [None]


# --- One module -------------------------------------------------------------------------------------------------------


def _layer(module: Any, allow_nonfinite: bool) -> Layer:
    """Return the layer that computes what a module does, on the module's own arrays."""
    name = torch_class(module, (*_WEIGHTED, *_LAYERS))
    if name is None:
        raise UnsupportedModelError(_refusal(module))
    if name in _WEIGHTED:
        kind, own = _WEIGHTED[name]
        weighted: Layer = kind.from_torch(module, allow_nonfinite=allow_nonfinite, **own)
        return weighted
    check_module(module, (name,))
    return _LAYERS[name](module)


def _refusal(module: Any) -> str:
    """Say why a module of no class that we know is refused, and what to do."""
    kind = type(module)
    found = f"{kind.__module__}.{kind.__qualname__}"
    if "quantized" in kind.__module__:
        return f"a {found} keeps its weights packed, which only PyTorch can undo; give the float model, unquantized"
    if kind.__module__.startswith("torch.jit"):
        return (
            f"a {found} is TorchScript, whose code is not read; take its layers one by one from its state_dict(), with "
            "le.LSTM.from_torch, le.Dense.from_torch and the others, and le.Sequential"
        )
    if hasattr(module, "state_dict") and hasattr(module, "forward"):
        return (
            f"a {found} is none of the modules that are understood, and what its forward does cannot be read; take its "
            "layers one by one from its state_dict() and put them together with le.Sequential"
        )
    return f"expected a module of PyTorch, found {found}"


def _activation(value: Any, name: str) -> Layer:
    return Activate(value, kind=name)


def _over_axis(kind: type[Softmax] | type[LogSoftmax]) -> Callable[[Any], Layer]:
    def make(module: Any) -> Layer:
        if module.dim is None:
            raise UnsupportedModelError(f"an nn.{kind.__name__} without dim leaves the axis to a guess; give it one")
        return _activation(kind(module.dim), kind.__name__)

    return make


def _hardtanh(module: Any) -> Layer:
    low, high = module.min_val, module.max_val
    if (low, high) == (-1.0, 1.0):
        return _activation("hard_tanh", "Hardtanh")
    if low == 0.0 and high > 0.0:
        return _activation(ClippedReLU(max_value=float(high)), "Hardtanh")
    raise UnsupportedModelError(f"an nn.Hardtanh from {low} to {high} is not implemented; expected -1 to 1, or from 0")


def _softplus(module: Any) -> Layer:
    # Above the threshold PyTorch gives x itself; from 20 on that is the same to two parts in 10**10.
    if module.beta != 1 or module.threshold < 20:
        raise UnsupportedModelError(
            f"an nn.Softplus with beta={module.beta} and threshold={module.threshold} is not implemented; expected 1 "
            "and 20"
        )
    return _activation("softplus", "Softplus")


def _prelu(module: Any) -> Layer:
    slopes = module.weight.detach().cpu().double().numpy()
    if slopes.size != 1:
        raise UnsupportedModelError(f"an nn.PReLU of {slopes.size} slopes is not implemented; expected one slope")
    return _activation(Activation("leaky_relu", float(slopes[0])), "PReLU")


def _threshold(module: Any) -> Layer:
    if module.value != 0:
        raise UnsupportedModelError(f"an nn.Threshold with value={module.value} is not implemented; expected 0")
    return _activation(Activation("thresholded_relu", module.threshold), "Threshold")


def _celu(module: Any) -> Layer:
    if module.alpha != 1.0:
        raise UnsupportedModelError(f"an nn.CELU with alpha={module.alpha} is not implemented; expected 1")
    return _activation("elu", "CELU")


def _flatten(module: Any) -> Layer:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise UnsupportedModelError(
            f"an nn.Flatten from axis {module.start_dim} to {module.end_dim} is not implemented; expected 1 to -1"
        )
    return Flatten()


def _windows(module: Any, dilation: int) -> Windows:
    def single(value: Any) -> int:
        return int(value[0] if isinstance(value, tuple) else value)

    if single(module.padding) or module.ceil_mode or getattr(module, "return_indices", False):
        raise UnsupportedModelError(
            f"an nn.{type(module).__name__} with padding, ceil_mode or return_indices is not implemented"
        )
    return Windows(single(module.kernel_size), single(module.stride), dilation, "valid", True)


def _adaptive(kind: Callable[..., Layer]) -> Callable[[Any], Layer]:
    def make(module: Any) -> Layer:
        if module.output_size not in (1, (1,)) or getattr(module, "return_indices", False):
            raise UnsupportedModelError(
                f"an nn.{type(module).__name__} to {module.output_size} is not implemented; expected 1"
            )
        return kind(channels_first=True, keep_axis=True)

    return make


def _nothing(name: str) -> Callable[[Any], Layer]:
    return lambda module: Identity(kind=name)


def _plain(name: str, kind: str) -> Callable[[Any], Layer]:
    return lambda module: _activation(kind, name)


_IDENTITIES: Final = (
    "Identity",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "AlphaDropout",
    "FeatureAlphaDropout",
)

#: Activations without an option, by our name.
_ACTIVATIONS: Final = {
    "ReLU": "relu",
    "ReLU6": "relu6",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "SELU": "selu",
    "SiLU": "silu",
    "Mish": "mish",
    "Hardsigmoid": "hard_sigmoid",
    "Hardswish": "hard_silu",
    "Softsign": "softsign",
    "LogSigmoid": "log_sigmoid",
}

#: The layer of each class of torch.nn that has weights, with options that a module of PyTorch's implies.
_WEIGHTED: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "Linear": (Dense, {}),
    "Embedding": (Embedding, {}),
    "Conv1d": (Conv1d, {"channels_first": True}),
    "BatchNorm1d": (BatchNorm1d, {"channels_first": True}),
    "LayerNorm": (LayerNorm, {}),
    "GRU": (GRU, {}),
    "GRUCell": (GRU, {}),
    "RNN": (RNN, {}),
    "RNNCell": (RNN, {}),
}

#: How each other class becomes a layer.
_LAYERS: Final[dict[str, Callable[[Any], Layer]]] = {
    "Flatten": _flatten,
    "MaxPool1d": lambda module: MaxPooling1D(_windows(module, int(module.dilation))),
    "AvgPool1d": lambda module: AveragePooling1D(_windows(module, 1)),
    "AdaptiveAvgPool1d": _adaptive(GlobalAveragePooling1D),
    "AdaptiveMaxPool1d": _adaptive(GlobalMaxPooling1D),
    "Hardtanh": _hardtanh,
    "Softplus": _softplus,
    "PReLU": _prelu,
    "Threshold": _threshold,
    "CELU": _celu,
    "ELU": lambda module: _activation(Activation("elu", module.alpha), "ELU"),
    "LeakyReLU": lambda module: _activation(Activation("leaky_relu", module.negative_slope), "LeakyReLU"),
    "RReLU": lambda module: _activation(Activation("leaky_relu", (module.lower + module.upper) / 2), "RReLU"),
    "GELU": lambda module: _activation("gelu" if module.approximate == "none" else "gelu_tanh", "GELU"),
    "Softmax": _over_axis(Softmax),
    "LogSoftmax": _over_axis(LogSoftmax),
    **{name: _plain(name, kind) for name, kind in _ACTIVATIONS.items()},
    **{name: _nothing(name) for name in _IDENTITIES},
}
