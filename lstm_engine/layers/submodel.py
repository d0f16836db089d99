"""A whole model as one layer: what stands in a TimeDistributed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from .base import Array, Context, Layer, Shape, Tensor
from .graph import Graph
from .numerics import Numerics

__all__ = ["Submodel"]


class Submodel(Layer):
    """A graph of layers as one layer; a model in the place of a layer is not one, its layers are the outer model's.

    Parameters
    ----------
    graph
        The layers and how they are connected.
    name
        The layer's name; a model gives it one if None.
    """

    kind = "Model"
    uses_mask: ClassVar[bool] = True

    def __init__(self, graph: Graph, *, name: str | None = None) -> None:
        super().__init__(name)
        self.graph = graph
        users = [node.layer for node in graph.nodes if not set(graph.inputs).isdisjoint(node.inputs)]
        wanted = {layer.takes_indices for layer in users}
        self.takes_indices = True in wanted and False not in wanted

    @property
    def time_major(self) -> bool:
        return any(node.layer.time_major for node in self.graph.nodes)

    def _layers(self) -> dict[str, Layer]:
        return {node.layer.name: node.layer for node in self.graph.nodes}

    def weights(self) -> dict[str, Array]:
        return {
            f"{name}/{weight}": array
            for name, layer in self._layers().items()
            for weight, array in layer.weights().items()
        }

    def memory_bytes(self) -> int:
        return sum(layer.memory_bytes() for layer in self._layers().values())

    def _prepare(self, numerics: Numerics) -> None:
        prepared = {name: layer.prepare(numerics) for name, layer in self._layers().items()}
        nodes = tuple(replace(node, layer=prepared[node.layer.name]) for node in self.graph.nodes)
        self.graph = replace(self.graph, nodes=nodes)

    def output_shapes(self, shapes: Sequence[Shape]) -> tuple[Shape, ...]:
        known = dict(zip(self.graph.inputs, shapes, strict=True))
        for node in self.graph.nodes:
            made = node.layer.output_shapes([known[slot] for slot in node.inputs])
            known.update(zip(node.outputs, made, strict=True))
        return tuple(known[slot] for slot in self.graph.outputs)

    def call(self, inputs: Sequence[Tensor], context: Context) -> tuple[Tensor, ...]:
        return tuple(self.graph.run(inputs, context))
