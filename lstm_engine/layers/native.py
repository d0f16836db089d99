"""Layers as descriptions in our own words: the classes of this package with the arguments of their constructors.

What a framework's file describes keeps the framework's words (``framework="keras"``). This is for what was put together
by hand: a layer becomes the name of its class and one value for each argument, which a layer keeps under the
argument's name. Arrays are the description's weights; layers, cells and LSTMs its inner descriptions.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lstm_engine.activations import Activation
from lstm_engine.description import Call, LayerDescription, ModelDescription, TensorRef
from lstm_engine.errors import FormatError, LstmEngineError, UnsupportedModelError
from lstm_engine.lstm import LSTM
from lstm_engine.weights import CellWeights, LSTMWeights

from .base import Layer
from .core import Dense
from .functions import ClippedReLU, Composed, LogSoftmax, Softmax
from .gru import GRUCell
from .simple_rnn import SimpleCell

if TYPE_CHECKING:
    from lstm_engine.arguments import TensorSpec

    from .graph import Graph
    from .numerics import Numerics

__all__ = ["FRAMEWORK", "LAYERS", "build", "build_lstm", "describe_graph", "describe_lstm"]

#: What such a description calls its framework.
FRAMEWORK: Final = "lstm_engine"

#: Every layer class that is described and built, with its module in this package.
LAYERS: Final = {
    "Activate": "core",
    "BatchNorm1d": "torch_layers",
    "BatchNormalization": "normalization",
    "Concatenate": "merging",
    "Conv1d": "torch_layers",
    "Dense": "core",
    "Dropout": "torch_layers",
    "Embedding": "core",
    "FinalHidden": "recurrent",
    "Flatten": "shaping",
    "GRU": "torch_recurrent",
    "GlobalAveragePooling1D": "pooling",
    "GlobalMaxPooling1D": "pooling",
    "Identity": "core",
    "LSTMStack": "recurrent",
    "LastStep": "shaping",
    "LayerNorm": "torch_layers",
    "LayerNormalization": "normalization",
    "Masking": "core",
    "Merge": "merging",
    "PReLU": "core",
    "Permute": "shaping",
    "RNN": "torch_recurrent",
    "RepeatVector": "shaping",
    "Reshape": "shaping",
    "TimeDistributed": "wrappers",
}

#: Cells, which stand among the inner descriptions.
_CELLS: Final = {kind.__name__: kind for kind in (CellWeights, GRUCell, SimpleCell)}

#: Annotation of an argument that takes the cells of a stack, one or two for each layer.
_STACK: Final = "Sequence[Sequence[Recurrence]]"

#: Activations, which stand in a configuration as ``{"class_name": ..., "config": {...}}``.
_FUNCTIONS: Final = {kind.__name__: kind for kind in (Activation, Softmax, LogSoftmax, ClippedReLU, Composed)}

#: Types of arguments, as the constructors' annotations have them: what a value from a file has to be.
_PLAIN: Final = {
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: type(value) is int,
    "float": lambda value: type(value) in (int, float),
    "str": lambda value: isinstance(value, str),
    "MergeMode": lambda value: isinstance(value, str),
    "None": lambda value: value is None,
    "Sequence[int]": lambda value: isinstance(value, list) and all(type(size) is int for size in value),
}
_ARRAYS: Final = frozenset({"Array", "ArrayLike", "NDArray[Any]"})
_ACTIVATIONS: Final = frozenset({"Any", "Activation", "LayerActivation"})


# --- Describing -------------------------------------------------------------------------------------------------------


def describe_graph(
    graph: Graph, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], name: str, version: str
) -> ModelDescription:
    """Describe a model by its graph.

    Parameters
    ----------
    graph, inputs, outputs, name
        As of the model.
    version
        Of this package.

    Raises
    ------
    UnsupportedModelError
        If a layer is of a class that is not described.
    """
    taken = {node.layer.name for node in graph.nodes}
    made: dict[int, TensorRef] = {}
    layers: list[LayerDescription] = []
    for slot, spec in zip(graph.inputs, inputs, strict=True):
        label = spec.name
        while label in taken:
            label += "_input"
        taken.add(label)
        made[slot] = TensorRef(label)
        layers.append(LayerDescription(label, "InputLayer", {"batch_shape": list(spec.shape), "dtype": spec.dtype}))
    calls: dict[str, list[Call]] = {}
    for node in graph.nodes:
        uses = calls.setdefault(node.layer.name, [])
        made.update((slot, TensorRef(node.layer.name, len(uses), place)) for place, slot in enumerate(node.outputs))
        masks = {} if node.mask is None else {"mask": (made[node.mask],)}
        uses.append(Call(tuple(made[slot] for slot in node.inputs), masks))
    for layer in {node.layer.name: node.layer for node in graph.nodes}.values():
        layers.append(_described(layer.name, type(layer).__name__, layer, tuple(calls[layer.name])))
    ends = tuple(made[slot] for slot in graph.outputs)
    return ModelDescription(
        source="",
        format=FRAMEWORK,
        framework=FRAMEWORK,
        version=version,
        name=name,
        layers=tuple(layers),
        inputs=tuple(made[slot] for slot in graph.inputs),
        outputs=ends,
        input_names=tuple(spec.name for spec in inputs),
        output_names=tuple(spec.name.removesuffix(f":{ref.output}") for spec, ref in zip(outputs, ends, strict=True)),
    )


def describe_lstm(lstm: LSTM, version: str) -> ModelDescription:
    """Describe an LSTM alone, as a model of this one layer."""
    layer = LayerDescription(
        "lstm", "LSTMStack", {}, inner={"lstm": _described_lstm(lstm)}, calls=(Call((TensorRef("x"),)),)
    )
    start = LayerDescription("x", "InputLayer", {"batch_shape": [None, None, lstm.input_size], "dtype": "float32"})
    ends = ((TensorRef("x"),), (TensorRef("lstm"),))
    return ModelDescription("", "lstm", FRAMEWORK, version, "lstm", (start, layer), *ends, ("x",), ("lstm",))


def _described(name: str, kind: str, value: Any, calls: tuple[Call, ...] = ()) -> LayerDescription:
    """Describe a layer or a cell by the arguments of its constructor."""
    if isinstance(value, Layer) and (kind not in LAYERS or not type(value).__module__.startswith(__package__)):
        raise UnsupportedModelError(f"layer {name!r} ({kind}): a layer of this class cannot be saved")
    config: dict[str, Any] = {}
    weights: dict[str, Any] = {}
    inner: dict[str, LayerDescription] = {}
    for argument in _arguments(type(value)):
        part = getattr(value, argument)
        if isinstance(part, np.ndarray):
            weights[argument] = part
        elif isinstance(part, LSTM):
            inner[argument] = _described_lstm(part)
        elif isinstance(part, tuple) and part and isinstance(part[0], tuple):
            inner.update({f"{argument}.{role}": cell for role, cell in _described_cells(part).items()})
        elif isinstance(part, Layer):
            inner[argument] = _described(part.name or argument, type(part).__name__, part)
        elif type(part).__name__ in _FUNCTIONS:
            settings = {key: getattr(part, key) for key in _arguments(type(part))}
            config[argument] = {"class_name": type(part).__name__, "config": settings}
        else:
            config[argument] = list(part) if isinstance(part, tuple) else part
    return LayerDescription(name, kind, config, weights, inner, calls)


def _described_lstm(lstm: LSTM) -> LayerDescription:
    config = {
        "direction": lstm.weights.direction,
        "merge_mode": lstm.merge_mode,
        "zero_masked": lstm.zero_masked,
    }
    return LayerDescription("lstm", "LSTM", config, inner=_described_cells(lstm.weights.cells))


def _described_cells(stack: Sequence[Sequence[Any]]) -> dict[str, LayerDescription]:
    """Describe the cells of a stack: ``l0``, ``l0_reverse``, ``l1``, ..."""
    return {
        f"l{layer}{'_reverse' if place else ''}": _described(f"l{layer}", type(cell).__name__, cell)
        for layer, cells in enumerate(stack)
        for place, cell in enumerate(cells)
    }


def _arguments(kind: type) -> dict[str, str]:
    """Return the annotations of a constructor's arguments, but for the name that a model gives to a layer."""
    parameters = inspect.signature(kind).parameters.values()
    named = {parameter.name: str(parameter.annotation) for parameter in parameters}
    if issubclass(kind, Layer):
        del named["name"]
    return named


# --- Building ---------------------------------------------------------------------------------------------------------


def build(description: LayerDescription, numerics: Numerics) -> Layer:
    """Make the layer that a description means.

    Parameters
    ----------
    description
        As :func:`describe_graph` makes it; from a file, so nothing in it is taken for granted.
    numerics
        What its LSTMs compute with.

    Raises
    ------
    UnsupportedModelError
        If its class or an option is not known.
    FormatError
        If a value is missing or of the wrong type.
    """
    if description.class_name not in LAYERS:
        raise UnsupportedModelError("a layer of this class is not supported; update lstm_engine")
    module = importlib.import_module(f".{LAYERS[description.class_name]}", __package__)
    kind: type[Layer] = getattr(module, description.class_name)
    layer: Layer = _made(kind, description, numerics)
    if isinstance(layer, Dense) and getattr(layer.activation, "axis", -1) != -1:
        # Of all layers with an activation this one alone does not ask whether its input has such an axis.
        raise FormatError(f"expected the activation of a dense layer to be over axis -1, found {layer.activation!r}")
    return layer.renamed(description.name)


def build_lstm(description: ModelDescription, options: Mapping[str, Any]) -> LSTM:
    """Make the LSTM of a description of a model that has one LSTM and nothing else to compute.

    Parameters
    ----------
    description
        As :func:`describe_lstm` makes it.
    options
        Of the :class:`~lstm_engine.LSTM`, on top of its own.
    """
    found = [layer for layer in description.layers if layer.class_name != "InputLayer"]
    if description.framework != FRAMEWORK or len(found) != 1 or "lstm" not in found[0].inner:
        raise UnsupportedModelError("expected an LSTM alone, as lstm.save writes it, found a model; use le.load")
    return _made_lstm(found[0].inner["lstm"], options)


class _Stack(dict[str, LayerDescription]):
    """The cells of a stack as they are described."""


def _made(kind: Any, description: LayerDescription, numerics: Numerics | None = None) -> Any:
    wanted = _arguments(kind)
    given: dict[str, Any] = {**description.config, **description.weights}
    for role, inner in description.inner.items():
        argument, dot, place = role.partition(".")
        if dot:
            given.setdefault(argument, _Stack())[place] = inner
        else:
            given[role] = inner
    for argument in given:
        if argument not in wanted:
            raise UnsupportedModelError(f"its option {argument!r:.100} is not known; update lstm_engine")
    for argument in wanted:
        if argument not in given:
            raise FormatError(f"expected a value {argument!r}, found none")
    values = {argument: _value(argument, wanted[argument], given[argument], numerics) for argument in wanted}
    try:
        return kind(**values)
    except LstmEngineError:
        raise
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        # The types are right, so it is a value that no constructor of ours was given when the file was written.
        raise FormatError(f"its values do not fit {description.class_name}: {error}") from None


def _value(argument: str, annotation: str, value: Any, numerics: Numerics | None) -> Any:
    """Return an argument, its type checked."""
    kinds = {part.strip() for part in annotation.split("|")}
    if isinstance(value, np.ndarray):
        if kinds & _ARRAYS and value.dtype.kind == "f":
            return value
    elif isinstance(value, _Stack):
        if annotation == _STACK:
            return _made_cells(value, (GRUCell, SimpleCell))
    elif isinstance(value, LayerDescription):
        if value.class_name == "LSTM" and "LSTM" in kinds and numerics is not None:
            options = {"compute_type": numerics.compute_type, "backend": numerics.backend}
            return _made_lstm(value, {**options, "num_threads": numerics.threads or 1})
        if "Layer" in kinds and numerics is not None:
            return build(value, numerics)
    elif isinstance(value, dict):
        function = _FUNCTIONS.get(value.get("class_name", ""))
        settings = value.get("config")
        if function is not None and isinstance(settings, dict) and kinds & _ACTIVATIONS:
            return _made(function, LayerDescription(argument, function.__name__, settings))
    elif any(_PLAIN[kind](value) for kind in kinds & _PLAIN.keys()) or (value is None and kinds & _ACTIVATIONS):
        return value
    raise FormatError(f"expected {argument} to be of the type {annotation}, found {value!r:.100}")


def _made_lstm(description: LayerDescription, options: Mapping[str, Any]) -> LSTM:
    config = description.config
    cells = _made_cells(description.inner, (CellWeights,))
    own = {"merge_mode": config.get("merge_mode", "concat"), "zero_masked": config.get("zero_masked", False)}
    weights = LSTMWeights(cells, config.get("direction", "forward"))
    weights.check_finite("lstm")
    return LSTM(weights, **{**own, **options})


def _made_cells(described: Mapping[str, LayerDescription], kinds: Sequence[type]) -> tuple[tuple[Any, ...], ...]:
    """Make the cells of a stack, all layers of one or of two directions."""
    found: dict[tuple[int, int], Any] = {}
    for role, inner in described.items():
        place = re.fullmatch(r"l([0-9]{1,4})(_reverse)?", role)
        kind = _CELLS.get(inner.class_name)
        if place is None or kind not in kinds:
            raise FormatError(f"expected the cells of a stack, found {role!r:.100}")
        found[int(place[1]), int(place[2] is not None)] = _made(kind, inner)
    directions = 1 + any(place for _, place in found)
    wanted = [(layer, place) for layer in range(len(found) // directions) for place in range(directions)]
    if not wanted or sorted(found) != wanted:
        raise FormatError(
            f"expected the cells of a stack, layer by layer, found {', '.join(described) or 'none'!s:.100}"
        )
    return tuple(tuple(found[layer, place] for place in range(directions)) for layer in range(len(found) // directions))
