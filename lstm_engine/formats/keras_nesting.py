"""Models that stand in a layer's place: their layers join the graph of the model that holds them.

A nested model computes what its layers compute, and masks travel through it as if they were called directly. So each
of its layers becomes a layer of the outer model, named after both (``encoder/lstm``), with one call for each call of
the nested model. Only a model within a wrapper stays a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from lstm_engine.description import Call, TensorRef
from lstm_engine.errors import UnsafeFileError

from .keras_layers import KerasLayer, KerasModel, Problems, shown
from .limits import current_limits

__all__ = ["count_calls_from_zero", "inlined", "without_unmasked"]

#: What gives a tensor another mask; see :meth:`_Graph.masked`.
_MASKED = "Activation"


def count_calls_from_zero(model: KerasModel, *, keras_3: bool) -> None:
    """Let references to nested models begin at call 0.

    Keras 1 and 2 count from 1, the call 0 being the one by which the nested model itself was made (but not that of a
    Sequential that had no input of its own). Keras 3 does so for a Functional model among the outputs alone.
    """
    nested = {layer.name: layer for layer in model.layers if layer.model is not None}
    if not nested:
        return

    def from_zero(tensors: list[TensorRef], *, outputs: bool) -> Callable[[TensorRef], TensorRef]:
        numbers: dict[str, set[int]] = {name: set() for name in nested}
        for tensor in tensors:
            numbers.get(tensor.layer, set()).add(tensor.call)
        moved = set()
        for name, layer in nested.items():
            usual = outputs and layer.class_name != "Sequential" if keras_3 else True
            if len(layer.calls) in numbers[name] or (usual and 0 not in numbers[name]):
                moved.add(name)
        return lambda tensor: replace(tensor, call=tensor.call - 1) if tensor.layer in moved else tensor

    calls = [call for layer in model.layers for call in layer.calls]
    change = from_zero([tensor for call in calls for tensor in call.tensors()], outputs=False)
    for layer in model.layers:
        layer.calls[:] = [call.over(change) for call in layer.calls]
    model.outputs = tuple(map(from_zero(list(model.outputs), outputs=True), model.outputs))


def inlined(model: KerasModel, problems: Problems) -> KerasModel:
    """Return ``model`` without models inside: their layers, sharing their weights, are layers of it.

    Parameters
    ----------
    model
        A model whose graph is sound, at every depth.
    problems
        Where two layers of one name are noted.

    Raises
    ------
    UnsafeFileError
        If nested models call each other so often that the graph is beyond the caps.
    """
    if all(part.model is None for layer in model.layers for part in layer.walk()):
        return model
    graph = _Graph(problems)
    graph.add(model, "", 1)
    for name, count in Counter(layer.name for layer in graph.layers).items():
        if count > 1:
            problems.damaged.append(f"expected one layer of the name {shown(name)}, found {count}")
    for layer in graph.layers:
        layer.calls[:] = [call.over(graph.found) for call in layer.calls]
    return KerasModel(model.name, graph.layers, model.inputs, tuple(map(graph.found, model.outputs)), model.saved)


def without_unmasked(model: KerasModel) -> None:
    """Take out what :func:`inlined` put in for masks that have turned out to travel along by themselves."""
    idle = {
        TensorRef(layer.name): layer.calls[0].inputs[0]
        for layer in model.layers
        if layer.joined and not layer.calls[0].keywords
    }

    if idle:
        found = partial(_followed, idle)
        model.layers[:] = [layer for layer in model.layers if TensorRef(layer.name) not in idle]
        for layer in model.layers:
            layer.calls[:] = [call.over(found) for call in layer.calls]
        model.outputs = tuple(map(found, model.outputs))


class _Graph:
    """The outer graph while it is put together."""

    def __init__(self, problems: Problems) -> None:
        self.layers: list[KerasLayer] = []
        self._problems = problems
        self._calls = 0
        #: Inputs and outputs of the nested models, each with the tensor that it stands for.
        self._same: dict[TensorRef, TensorRef] = {}

    def add(self, model: KerasModel, prefix: str, uses: int) -> None:
        """Add the layers of a model that is called ``uses`` times."""
        counts = {layer.name: 1 if layer.class_name == "InputLayer" else len(layer.calls) for layer in model.layers}

        def placed(tensor: TensorRef, use: int) -> TensorRef:
            return TensorRef(prefix + tensor.layer, use * counts[tensor.layer] + tensor.call, tensor.output)

        for layer in model.layers:
            if prefix and layer.class_name == "InputLayer":
                continue
            self._calls += uses * len(layer.calls) * layer.output_count
            if self._calls > (most := current_limits().tensors):
                raise UnsafeFileError(
                    f"{self._problems.subject}: expected at most {most:,} outputs of layers, found more: models inside "
                    "of models call each other too often"
                )
            name = prefix + layer.name
            calls = [call.over(partial(placed, use=use)) for use in range(uses) for call in layer.calls]
            if layer.model is None:
                inner = {role: self._alone(wrapped) for role, wrapped in layer.inner.items()}
                self.layers.append(replace(layer, name=name, calls=calls, inner=inner))
                continue
            for number, call in enumerate(calls):
                self._connect(layer.model, name, number, call)
            self.add(layer.model, f"{name}/", len(calls))

    def _connect(self, model: KerasModel, name: str, number: int, call: Call) -> None:
        """Note what the ends of a nested model stand for in one of its calls."""
        for place, (end, given) in enumerate(zip(model.inputs, call.inputs, strict=True)):
            mask = call.keywords.get(f"mask {place}")
            tensor = given if mask is None else self._masked(given, mask, f"{name}/{end.layer}:{number}")
            self._same[TensorRef(f"{name}/{end.layer}", number)] = tensor
        counts = {layer.name: 1 if layer.class_name == "InputLayer" else len(layer.calls) for layer in model.layers}
        for output, end in enumerate(model.outputs):
            inside = TensorRef(f"{name}/{end.layer}", number * counts[end.layer] + end.call, end.output)
            self._same[TensorRef(name, number, output)] = inside

    def _masked(self, tensor: TensorRef, mask: tuple[TensorRef, ...], name: str) -> TensorRef:
        """Return ``tensor`` with the mask that a nested model is given for it."""
        config = {"name": name, "activation": "linear"}
        self.layers.append(KerasLayer(name, _MASKED, config, calls=[Call((tensor,), {"mask": mask})], joined=True))
        return TensorRef(name)

    def _alone(self, layer: KerasLayer) -> KerasLayer:
        """Return a wrapped layer, the model that it may be without models inside."""
        inner = {role: self._alone(wrapped) for role, wrapped in layer.inner.items()}
        model = None if layer.model is None else inlined(layer.model, self._problems)
        return replace(layer, inner=inner, model=model)

    def found(self, tensor: TensorRef) -> TensorRef:
        """Return what computes a tensor."""
        return _followed(self._same, tensor)


def _followed(same: dict[TensorRef, TensorRef], tensor: TensorRef) -> TensorRef:
    """Return what a tensor stands for in the end; all on the way there stand for that from then on."""
    way = []
    while tensor in same:
        way.append(tensor)
        tensor = same[tensor]
    same.update(dict.fromkeys(way, tensor))
    return tensor
