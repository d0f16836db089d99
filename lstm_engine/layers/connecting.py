"""From the calls of a description to the nodes of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lstm_engine.description import Call, LayerDescription, ModelDescription, TensorRef
from lstm_engine.errors import FormatError, ShapeError, UnsupportedModelError

from .base import Layer, Shape
from .graph import GraphBuilder
from .keras_config import Problems

__all__ = ["connect", "input_shape"]

#: A use of a layer in a description: the layer's name and the number of the call.
_Use = tuple[str, int]


def input_shape(layer: LayerDescription, problems: Problems) -> Shape:
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


def connect(
    description: ModelDescription,
    inputs: Mapping[str, Shape],
    layers: Mapping[str, Layer],
    builder: GraphBuilder,
    problems: Problems,
) -> dict[TensorRef, int]:
    """Add all calls of a model to ``builder``, each after those that it needs.

    Parameters
    ----------
    description
        The model.
    inputs
        Shapes of its input layers by name.
    layers
        Its other layers by name.
    builder
        The graph, still empty.
    problems
        Where problems are noted.

    Returns
    -------
    dict
        The slot of each tensor.
    """
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
    place_of = {use: place for place, use in enumerate(waiting)}
    users: dict[TensorRef, list[_Use]] = {}
    absent: dict[_Use, int] = {}
    for use, call in waiting.items():
        needed = {ref for ref in call.tensors() if ref not in slots}
        absent[use] = len(needed)
        for ref in needed:
            users.setdefault(ref, []).append(use)
    ready = [use for use, count in absent.items() if count == 0]
    failed = False
    while ready and not problems.damaged:
        then: list[_Use] = []
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
                for place, slot in enumerate(made):
                    ref = TensorRef(name, number, place)
                    slots[ref] = slot
                    for user in users.get(ref, ()):
                        absent[user] -= 1
                        if absent[user] == 0:
                            then.append(user)
        ready = sorted(then, key=place_of.__getitem__)
    if not failed:
        _note_missing(description, waiting, slots, problems)
    return slots


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
        missing = ", ".join(f"{ref.layer}:{ref.call}:{ref.output}" for ref in call.tensors() if ref not in slots)
        problems.damaged.append(
            f"layer {name!r}, call {number}: expected tensors of the graph, found none for {missing}"
        )
    for ref in description.outputs:
        if ref not in slots:
            problems.damaged.append(
                f"the model's output {ref.layer!r}, call {ref.call}, output {ref.output} is missing"
            )
