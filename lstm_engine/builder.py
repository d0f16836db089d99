"""From a model's description to the model that computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .description import LayerDescription, ModelDescription
from .errors import FormatError, ShapeError, UnsupportedModelError, raise_together
from .layers import native
from .layers.base import Layer, Shape
from .layers.connecting import connect, input_shape
from .layers.graph import GraphBuilder
from .layers.keras_activations import KerasVersion
from .layers.keras_config import Problems
from .layers.keras_layers import build_layer
from .layers.numerics import Numerics
from .model import Model, TensorSpec
from .options import Backend, ComputeType, check_options
from .thread_count import NumThreads, shared_threads

__all__ = ["build_model"]


def build_model(
    description: ModelDescription,
    *,
    compute_type: ComputeType = "float32",
    num_threads: NumThreads = 1,
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
    numerics = Numerics(compute_type, backend, shared_threads(num_threads))
    problems = Problems()
    build = _layer_builder(description, numerics, problems)
    inputs: dict[str, Shape] = {}
    layers: dict[str, Layer] = {}
    for layer in description.layers:
        if layer.class_name == "InputLayer":
            inputs[layer.name] = input_shape(layer, problems)
        else:
            built = build(layer)
            if built is not None:
                layers[layer.name] = built
    _raise(description, problems)
    prepared: dict[str, Layer] = {}
    for name, made in layers.items():
        try:
            prepared[name] = made.prepare(numerics)
        except FormatError as error:  # packed, the weights are beyond what the file may ask for
            raise FormatError(f"{description.source}: layer {name!r}: {error}") from None
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


def _connected(
    description: ModelDescription, inputs: Mapping[str, Shape], layers: Mapping[str, Layer], numerics: Numerics
) -> Model:
    """Put the graph together."""
    builder = GraphBuilder()
    problems = Problems()
    slots = connect(description, inputs, layers, builder, problems)
    _raise(description, problems)
    graph = builder.build([slots[ref] for ref in description.outputs])
    taken: dict[int, set[bool | None]] = {}
    for node in graph.nodes:
        for slot in node.inputs:
            taken.setdefault(slot, set()).add(node.layer.takes_indices)
    specs = []
    for place, ref in enumerate(description.inputs):
        wanted = taken.get(graph.inputs[place], set())
        indices = True in wanted and False not in wanted
        specs.append(
            TensorSpec(
                description.input_names[place] if description.input_names else ref.layer,
                graph.input_shapes[place],
                "int64" if indices else numerics.dtype.name,
            )
        )
    outputs = [
        TensorSpec(_output_name(description, place), shape, numerics.dtype.name)
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


def _output_name(description: ModelDescription, place: int) -> str:
    """Return the name of an output: the layer's, with the output's number behind if it is not the first."""
    ref = description.outputs[place]
    name = description.output_names[place] if description.output_names else ref.layer
    return f"{name}:{ref.output}" if ref.output else name
