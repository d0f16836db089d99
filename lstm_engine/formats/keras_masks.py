"""Masks that Keras 3 writes down although they travel along by themselves.

Embedding and Masking attach a mask to their output, and most layers pass it on. When Keras 3 builds a Functional model,
it also records the operations that compute these masks, and hands the results to the layers as the argument ``mask``.
Such a graph says nothing that its layers do not say. This module proves it, call by call: both masks are written as
terms over the model's tensors, and where the terms are equal, the argument and the operations behind it are taken out.
Then a model of Keras 3 has the graph of one of Keras 2. What remains is a mask that the model's author computed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from lstm_engine.description import Call, TensorRef

from .keras_layers import ATTENTION, MERGES, RECURRENT, KerasLayer, KerasModel

__all__ = ["drop_recorded_masks", "unmask_after_heads"]

#: Layers that pass the mask of their input on (Keras: ``supports_masking`` without a ``compute_mask`` of their own).
_PASSING: Final = frozenset(
    {
        "Activation",
        "ActivityRegularization",
        "AlphaDropout",
        "BatchNormalization",
        "Dense",
        "Dropout",
        "ELU",
        "GaussianDropout",
        "GaussianNoise",
        "LayerNormalization",
        "LeakyReLU",
        "Normalization",
        "PReLU",
        "ReLU",
        "Rescaling",
        "Softmax",
        "SpatialDropout1D",
        "TimeDistributed",
        "UnitNormalization",
    }
)

#: A term by its number; None is no mask at all.
_Term = int | None


def unmask_after_heads(model: KerasModel, version: str) -> None:
    """Let the masks end that a MultiHeadAttention layer takes off its inputs, as it has done since Keras 3.8.

    Whatever runs after it and takes the same tensor finds it without a mask, the way past it in a transformer's block
    above all; an operation in between says so. Masks that the graph records are arguments of their own and stay.

    Parameters
    ----------
    model
        A model whose graph is sound.
    version
        Version of the Keras that wrote it.
    """
    found = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", version)
    since = found is not None and (int(found[1]), int(found[2])) >= (3, 8)
    if not since or all(layer.class_name != "MultiHeadAttention" for layer in model.layers):
        return
    layers = {layer.name: layer for layer in model.layers}
    taken: dict[TensorRef, TensorRef | None] = {}
    for name, number in _running_order(model, layers):
        layer = layers[name]
        call = layer.calls[number]
        if layer.operation:
            continue
        for tensor in call.inputs:
            if tensor in taken and taken[tensor] is None:
                bare = f"{tensor.layer}/unmasked"
                while bare in layers:
                    bare += "'"
                layers[bare] = KerasLayer(bare, "ConvertToTensor", {"name": bare}, operation=True)
                layers[bare].calls.append(Call((tensor,)))
                taken[tensor] = TensorRef(bare)
        keywords = dict(call.keywords)
        if layer.class_name == "MultiHeadAttention":
            keywords.pop("query_mask", None)  # since then, what travels with the query has been taken instead
        layer.calls[number] = Call(tuple(taken.get(tensor) or tensor for tensor in call.inputs), keywords)
        if layer.class_name == "MultiHeadAttention":
            for tensor, role in zip(call.inputs, layer.config.get("call_arguments", ()), strict=False):
                if role != "attention_mask":
                    taken.setdefault(tensor, None)
    model.layers[:] = layers.values()


def _running_order(model: KerasModel, layers: Mapping[str, KerasLayer]) -> list[tuple[str, int]]:
    """Return the calls in the order in which Keras 3 runs them: by their distance from the outputs.

    Calls of one distance follow each other as Keras's walk from the outputs meets them (``map_graph``).
    """

    def sources(name: str, number: int) -> list[tuple[str, int]]:
        calls = layers[name].calls
        return [(tensor.layer, tensor.call) for tensor in calls[number].tensors()] if calls else []

    finished: dict[tuple[str, int], None] = {}
    pending = [((tensor.layer, tensor.call), False) for tensor in reversed(model.outputs)]
    while pending:
        node, left = pending.pop()
        if left:
            finished.setdefault(node)
        elif node not in finished:
            pending.append((node, True))
            pending.extend((source, False) for source in reversed(sources(*node)))
    depths: dict[tuple[str, int], int] = {}
    layer_depths: dict[str, int] = {}
    for node in reversed(finished):
        depth = max(depths.setdefault(node, 0), layer_depths.get(node[0], 0))
        depths[node] = layer_depths[node[0]] = depth
        for source in sources(*node):
            depths[source] = max(depth + 1, depths.get(source, 0))
    running = sorted(depths, key=lambda node: -depths[node])
    return [(name, number) for name, number in running if layers[name].calls]


def drop_recorded_masks(model: KerasModel, order: list[tuple[str, int]]) -> None:
    """Take the masks out of ``model`` that its layers hand on by themselves, and the operations that only serve them.

    A mask given together with an initial state stays: Keras 3 does not look at the travelling mask there.

    Parameters
    ----------
    model
        A Functional model whose graph is sound.
    order
        The calls (layer, number), each after all those that it needs.
    """
    if any(layer.operation for layer in model.layers):
        _drop_equal_masks(model, order)
        _drop_unused_operations(model)
    _take_masks_as_inputs(model)


def _drop_equal_masks(model: KerasModel, order: list[tuple[str, int]]) -> None:
    """Take the arguments out that are the masks which travel with the tensors."""
    layers = {layer.name: layer for layer in model.layers}
    terms = _Terms()
    for name, number in order:
        layer = layers[name]
        call = layer.calls[number]
        if layer.class_name == "ConvertToTensor":  # an attention layer's, of a mask that is a tensor already
            terms.values[name, number, 0] = terms.value(call.inputs[0])
            continue
        if layer.operation:
            terms.values[name, number, 0] = terms.operation(
                layer.class_name, _settings(layer), *(terms.value(tensor) for tensor in call.inputs)
            )
            continue
        masks = [terms.masks.get(_key(tensor)) for tensor in call.inputs]
        given = call.keywords.get("mask", ())
        if len(given) == 1:
            recorded = terms.value(given[0])
            if recorded == masks[0] and "initial_state" not in call.keywords:
                keywords = {key: tensors for key, tensors in call.keywords.items() if key != "mask"}
                layer.calls[number] = Call(call.inputs, keywords)
            masks[0] = recorded
        if layer.class_name in ATTENTION:
            travelling = dict(zip(layer.config.get("call_arguments", ()), masks, strict=False))
            keywords = {
                name: tensors
                for name, tensors in call.keywords.items()
                if terms.value(tensors[0]) != travelling.get(name.removesuffix("_mask"))
            }
            layer.calls[number] = Call(call.inputs, keywords)
        for output, mask in enumerate(_masks_after(layer, call, masks, terms)):
            terms.masks[name, number, output] = mask


def _take_masks_as_inputs(model: KerasModel) -> None:
    """Turn the masks that attention layers are still given into inputs of theirs, named as such."""
    for layer in model.layers:
        given = list(layer.calls[0].keywords) if layer.calls and layer.class_name in ATTENTION else []
        # Calls that are given different masks are left as they are, and refused when the graph is put together.
        if given and all(list(call.keywords) == given for call in layer.calls):
            layer.config["call_arguments"] += given
            layer.calls[:] = [Call(tuple(call.tensors())) for call in layer.calls]


class _Terms:
    """Terms over the model's tensors, equal terms having equal numbers."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[Any, ...], int] = {}
        #: Values of the operations' outputs, and masks of the layers' outputs, by (layer, call, output).
        self.values: dict[tuple[str, int, int], int] = {}
        self.masks: dict[tuple[str, int, int], _Term] = {}

    def value(self, tensor: TensorRef) -> int:
        key = _key(tensor)
        return self.values[key] if key in self.values else self._number(("tensor", *key))

    def operation(self, kind: str, settings: dict[str, Any], *inputs: int) -> int:
        return self._number((kind, repr(sorted(settings.items())), inputs))

    def _number(self, term: tuple[Any, ...]) -> int:
        return self._numbers.setdefault(term, len(self._numbers))


def _key(tensor: TensorRef) -> tuple[str, int, int]:
    return tensor.layer, tensor.call, tensor.output


def _settings(operation: KerasLayer) -> dict[str, Any]:
    """Return the settings of an operation that make a difference."""
    defaults = {"name": operation.name, "keepdims": False}
    settings = {key: value for key, value in operation.config.items() if key not in defaults or value != defaults[key]}
    if operation.class_name == "NotEqual" and isinstance(settings.get("x2"), int | float):
        settings["x2"] = float(settings["x2"])
    return settings


def _masks_after(layer: KerasLayer, call: Call, masks: list[_Term], terms: _Terms) -> list[_Term]:
    """Return the masks of a call's first outputs as Keras 3.4 and later compute them; the others have none."""
    kind, config = layer.class_name, layer.config
    result: _Term = None
    if kind == "Embedding":
        if config.get("mask_zero"):
            result = terms.operation("NotEqual", {"x2": 0.0}, terms.value(call.inputs[0]))
    elif kind == "Masking":
        value = config.get("mask_value", 0.0)
        if isinstance(value, int | float):
            counts = terms.operation("NotEqual", {"x2": float(value)}, terms.value(call.inputs[0]))
            result = terms.operation("Any", {"axis": -1}, counts)
    elif kind in RECURRENT:
        result = masks[0] if config.get("return_sequences") else None
    elif kind == "Bidirectional":
        result = masks[0] if layer.inner["forward_layer"].config.get("return_sequences") else None
        return [result] * (2 if config.get("merge_mode", "concat") is None else 1)
    elif kind == "Concatenate":
        result = _concatenated(config.get("axis", -1), call, masks, terms)
    elif kind in ATTENTION:
        result = masks[0]
    elif kind in MERGES and kind != "Dot":
        if all(mask is not None for mask in masks):
            result = masks[0]
            for mask in masks[1:]:
                result = terms.operation("LogicalOr", {}, *(term for term in (result, mask) if term is not None))
    elif kind in _PASSING:
        result = masks[0]
    return [result]


def _concatenated(axis: Any, call: Call, masks: list[_Term], terms: _Terms) -> _Term:
    """Return the mask of a Concatenate layer whose masks lack the last axis of its inputs."""
    if all(mask is None for mask in masks):
        return None
    parts = []
    for tensor, mask in zip(call.inputs, masks, strict=True):
        value = terms.value(tensor)
        if mask is None:
            parts.append(terms.operation("OnesLike", {"dtype": "bool"}, value))
        else:
            expanded = terms.operation("ExpandDims", {"axis": -1}, mask)
            zeros = terms.operation("ZerosLike", {"dtype": "bool"}, value)
            parts.append(terms.operation("LogicalOr", {}, expanded, zeros))
    joined = terms.operation("Concatenate", {"axis": axis}, *parts)
    return terms.operation("Any", {"axis": -1}, joined)


def _drop_unused_operations(model: KerasModel) -> None:
    """Take out the operations whose results nothing uses, again and again until all that remain are used."""
    layers = {layer.name: layer for layer in model.layers}
    uses = dict.fromkeys(layers, 0)
    for layer in model.layers:
        for name in _sources(layer):
            uses[name] += 1
    unused = [layer.name for layer in model.layers if layer.operation and not uses[layer.name]]
    dropped: set[str] = set()
    while unused:
        name = unused.pop()
        dropped.add(name)
        for source in _sources(layers[name]):
            uses[source] -= 1
            if not uses[source] and layers[source].operation:
                unused.append(source)
    model.layers[:] = [layer for layer in model.layers if layer.name not in dropped]


def _sources(layer: KerasLayer) -> list[str]:
    return [tensor.layer for call in layer.calls for tensor in call.tensors()]
