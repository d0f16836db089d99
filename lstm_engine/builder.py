"""From a model's description to the model that computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .description import Call, LayerDescription, ModelDescription, TensorRef
from .errors import FormatError, ShapeError, UnsupportedModelError, raise_together
from .layers import native
from .layers.base import Layer, Shape
from .layers.graph import GraphBuilder
from .layers.keras_activations import KerasVersion
from .layers.keras_config import Problems
from .layers.keras_layers import build_layer
from .layers.numerics import Numerics
from .model import Model, TensorSpec
from .options import Backend, ComputeType, check_options

__all__ = ["build_model"]

#: A use of a layer in a description: the layer's name and the number of the call.
_Use = tuple[str, int]


def build_model(
    description: ModelDescription,
    *,
    compute_type: ComputeType = "float32",
    num_threads: int = 1,
    backend: Backend = "auto",
) -> Model:
    """Make the model that a description means.

    Parameters
    ----------
    description
        What the file says.
    compute_type, num_threads, backend
        As in :func:`lstm_engine.load`.

    Raises
    ------
    UnsupportedModelError
        If layers, options or values are not implemented: all of them are named.
    FormatError
        If the parts of the description do not fit together: all problems are named.
    """
    check_options(compute_type, num_threads, backend)
    numerics = Numerics(compute_type, backend)
    problems = Problems()
    build = _layer_builder(description, numerics, problems)
    inputs: dict[str, Shape] = {}
    layers: dict[str, Layer] = {}
    for layer in description.layers:
        if layer.class_name == "InputLayer":
            inputs[layer.name] = _input_shape(layer, problems)
        else:
            built = build(layer)
            if built is not None:
                layers[layer.name] = built
    _raise(description, problems)
    prepared = {name: layer.prepare(numerics) for name, layer in layers.items()}
    return _connected(description, inputs, prepared, numerics)


def _layer_builder(
    description: ModelDescription, numerics: Numerics, problems: Problems
) -> Callable[[LayerDescription], Layer | None]:
    """Return what makes a layer of the description's framework, or notes why it cannot."""
    if description.framework == "keras":
        try:
            version = KerasVersion(description.version)
        except FormatError as error:
            raise FormatError(f"{description.source}: {error}") from None
        return lambda layer: build_layer(layer, version, problems)
    if description.framework != native.FRAMEWORK:
        raise UnsupportedModelError(
            f"{description.source}: expected a model of keras or {native.FRAMEWORK}, found one of "
            f"{description.framework!r:.100}"
        )

    def build_native(layer: LayerDescription) -> Layer | None:
        where = f"layer {layer.name!r} ({layer.class_name})"
        try:
            return native.build(layer, numerics)
        except UnsupportedModelError as error:
            problems.unsupported.append(f"{where}: {error}")
        except (FormatError, ShapeError) as error:
            problems.damaged.append(f"{where}: {error}")
        return None

    return build_native


def _raise(description: ModelDescription, problems: Problems) -> None:
    """Raise what was noted, if anything was."""
    subject = description.source
    if problems.unsupported and problems.damaged:
        raise_together(UnsupportedModelError, subject, problems.unsupported + problems.damaged)
    raise_together(UnsupportedModelError, subject, problems.unsupported)
    raise_together(FormatError, subject, problems.damaged)


def _input_shape(layer: LayerDescription, problems: Problems) -> Shape:
    """Return the shape that an input layer states, the batch left open: a row never depends on the others."""
    config = layer.config
    for option in ("sparse", "ragged"):
        if config.get(option):
            problems.unsupported.append(
                f"layer {layer.name!r} (InputLayer): {option}={config[option]!r} is not supported"
            )
    if config.get("dtype") == "string":
        problems.unsupported.append(f"layer {layer.name!r} (InputLayer): dtype='string' is not supported")
    shape: Any = next((config[key] for key in ("batch_shape", "batch_input_shape") if config.get(key)), None)
    if (
        not isinstance(shape, (list, tuple))
        or len(shape) < 2
        or any(size is not None and (not isinstance(size, int) or size < 0) for size in shape)
    ):
        problems.damaged.append(
            f"layer {layer.name!r} (InputLayer): expected batch_shape to be [batch, ...], found {shape!r}"
        )
        return (None, None)
    return (None, *shape[1:])


def _connected(
    description: ModelDescription, inputs: Mapping[str, Shape], layers: Mapping[str, Layer], numerics: Numerics
) -> Model:
    """Put the graph together."""
    builder = GraphBuilder()
    problems = Problems()
    slots: dict[TensorRef, int] = {}
    for ref in description.inputs:
        if ref.layer not in inputs:
            problems.damaged.append(f"the model's input {ref.layer!r} is no InputLayer")
            continue
        slots[ref] = builder.add_input(inputs[ref.layer])
    waiting: dict[_Use, Call] = {
        (layer.name, number): call
        for layer in description.layers
        if layer.class_name != "InputLayer"
        for number, call in enumerate(layer.calls)
    }
    failed = False
    while waiting and not problems.damaged:
        ready = [use for use, call in waiting.items() if all(ref in slots for ref in _refs(call))]
        if not ready:
            break
        for use in ready:
            name, number = use
            call, layer = waiting.pop(use), layers[name]
            states = call.keywords.get("initial_state", ())
            masks = call.keywords.get("mask", ())
            try:
                _check_keywords(call)
                made = builder.add(
                    layer,
                    [slots[ref] for ref in (*call.inputs, *states)],
                    slots[masks[0]] if masks else None,
                )
            except UnsupportedModelError as error:
                problems.unsupported.append(f"layer {name!r} ({layer.kind}): {error}")
                failed = True
            except (FormatError, ShapeError) as error:
                problems.damaged.append(f"layer {name!r} ({layer.kind}): {error}")
                failed = True
            else:
                slots.update({TensorRef(name, number, place): slot for place, slot in enumerate(made)})
    if not failed:
        _note_missing(description, waiting, slots, problems)
    _raise(description, problems)
    graph = builder.build([slots[ref] for ref in description.outputs])
    specs = []
    for place, ref in enumerate(description.inputs):
        users = [node.layer for node in graph.nodes if graph.inputs[place] in node.inputs]
        wanted = {layer.takes_indices for layer in users}
        indices = True in wanted and False not in wanted
        specs.append(
            TensorSpec(
                description.input_names[place] if description.input_names else ref.layer,
                graph.input_shapes[place],
                "int64" if indices else numerics.compute_type,
            )
        )
    outputs = [
        TensorSpec(_output_name(description, place), shape, numerics.compute_type)
        for place, shape in enumerate(graph.output_shapes)
    ]
    return Model(
        graph,
        specs,
        outputs,
        numerics,
        name=description.name,
        source=description.source,
        architecture=description,
    )


def _refs(call: Call) -> list[TensorRef]:
    return [*call.inputs, *(ref for refs in call.keywords.values() for ref in refs)]


def _check_keywords(call: Call) -> None:
    """Raise unless the tensors given by name are known."""
    for keyword, refs in call.keywords.items():
        if keyword not in ("initial_state", "mask"):
            raise UnsupportedModelError(f"its argument {keyword!r} is not supported")
        if keyword == "mask" and len(refs) > 1:
            raise UnsupportedModelError(f"expected one mask, found {len(refs)}")


def _note_missing(
    description: ModelDescription, waiting: Mapping[_Use, Call], slots: Mapping[TensorRef, int], problems: Problems
) -> None:
    """Note calls that wait for tensors that nobody makes, and outputs of the model that nobody makes."""
    for (name, number), call in waiting.items():
        missing = ", ".join(f"{ref.layer}:{ref.call}:{ref.output}" for ref in _refs(call) if ref not in slots)
        problems.damaged.append(
            f"layer {name!r}, call {number}: expected tensors of the graph, found none for {missing}"
        )
    for ref in description.outputs:
        if ref not in slots:
            problems.damaged.append(
                f"the model's output {ref.layer!r}, call {ref.call}, output {ref.output} is missing"
            )


def _output_name(description: ModelDescription, place: int) -> str:
    """Return the name of an output: the layer's, with the output's number behind if it is not the first."""
    ref = description.outputs[place]
    name = description.output_names[place] if description.output_names else ref.layer
    return f"{name}:{ref.output}" if ref.output else name
