"""How the layers of a model are connected, and how the graph runs: on whole sequences or chunk by chunk.

A graph is a list of nodes in an order in which every node finds its inputs ready. Tensors live in numbered slots and
are let go after their last use, so a call holds no more than it still needs. The same loop serves a call
and a chunk of a stream.

In a stream every tensor has a time axis behind the batch. For a tensor that has one in the model too, it is the same
axis. For one that has lost it, as the output of ``LSTM(return_sequences=False)``, it holds what the model would
give if the sequence ended at each step; nodes that work on such tensors see the steps as further rows
of the batch, which changes no bit, since a row's result never depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lstm_engine.errors import FormatError, UnsupportedModelError

from .base import Array, Context, Layer, Shape, State, Tensor

__all__ = ["Graph", "GraphBuilder", "Node", "StreamPlan"]


@dataclass(frozen=True, slots=True)
class Node:
    """One use of a layer.

    Parameters
    ----------
    layer
        The layer.
    key
        The layer's name; for its second and later uses with a number behind.
    inputs, outputs
        Slots of its tensors.
    mask
        Slot of the mask that it is given as an argument, or None.
    release
        Slots that nobody needs after this node.
    input_shapes, output_shapes
        Shapes as far as the model fixes them.
    """

    layer: Layer
    key: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    mask: int | None
    release: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in the order in which they run.

    Parameters
    ----------
    nodes
        The nodes.
    slots
        Number of slots.
    inputs, outputs
        Slots of the model's inputs and outputs, in the model's order.
    input_shapes, output_shapes
        Their shapes.
    """

    nodes: tuple[Node, ...]
    slots: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]

    def run(self, inputs: Sequence[Tensor], context: Context, plan: StreamPlan | None = None) -> list[Tensor]:
        """Run all nodes.

        Parameters
        ----------
        inputs
            One tensor for each input, checked.
        context
            Of this call.
        plan
            In a stream: which tensors have kept their time axis.

        Returns
        -------
        list of Tensor
            One for each output.
        """
        slots: list[Tensor | None] = [None] * self.slots
        for slot, given in zip(self.inputs, inputs, strict=True):
            slots[slot] = given
        for node in self.nodes:
            tensors = [tensor for slot in node.inputs if (tensor := slots[slot]) is not None]
            if node.mask is not None and (mask := slots[node.mask]) is not None:
                tensors[0] = _with_mask(tensors[0], mask, context)
            context.node, context.explicit_mask = node.key, node.mask is not None
            if plan is None or plan.timed[node.inputs[0]]:
                outputs = node.layer.call(tensors, context)
            else:
                outputs = _call_step_by_step(node.layer, tensors)
            for slot, output in zip(node.outputs, outputs, strict=True):
                slots[slot] = output
            for slot in node.release:
                slots[slot] = None
        return [tensor for slot in self.outputs if (tensor := slots[slot]) is not None]

    def time_major(self) -> tuple[bool, ...]:
        """Return for each input whether it reaches a layer that takes it for (time, batch, ...)."""
        found: set[int] = set()
        for node in reversed(self.nodes):
            if node.layer.time_major and len(node.input_shapes[0]) == 3:  # not in a TimeDistributed
                found.add(node.inputs[0])
            elif not found.isdisjoint(node.outputs) and len(node.output_shapes[0]) >= len(node.input_shapes[0]):
                found.update(node.inputs)
        return tuple(slot in found for slot in self.inputs)


def _with_mask(tensor: Tensor, given: Tensor, context: Context) -> Tensor:
    """Return ``tensor`` with the mask that the graph computes for it.

    It replaces the one that travels with the tensor. But what the caller of the model masks stays masked: the
    graph knows nothing of that.
    """
    mask = given.values.astype(np.bool_, copy=False)
    carried = tensor.mask
    if context.caller_masked and carried is not None and carried.shape == mask.shape:
        # Where the computed mask takes nothing away the caller's own goes on, so that lengths can still be used.
        mask = carried if not (carried & ~mask).any() else carried & mask
    return tensor._replace(mask=mask)


def _call_step_by_step(layer: Layer, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Call a layer on (batch, time, ...) whose time axis the layer is not to see: steps become rows."""
    batch, time = tensors[0].values.shape[:2]

    def rows(array: Array) -> Array:
        return array.reshape(batch * time, *array.shape[2:])

    outputs = layer.call(
        [Tensor(rows(values), None if mask is None else rows(mask)) for values, mask in tensors], Context()
    )
    return tuple(
        Tensor(
            values.reshape(batch, time, *values.shape[1:]),
            None if mask is None else mask.reshape(batch, time, *mask.shape[1:]),
        )
        for values, mask in outputs
    )


class GraphBuilder:
    """Puts a graph together, node by node, working out shapes on the way."""

    def __init__(self) -> None:
        self.shapes: list[Shape] = []
        self._inputs: list[int] = []
        self._nodes: list[Node] = []
        self._uses: dict[str, int] = {}

    def add_input(self, shape: Shape) -> int:
        """Add an input of the model; return its slot."""
        self._inputs.append(self._slot(shape))
        return self._inputs[-1]

    def add(self, layer: Layer, inputs: Sequence[int], mask: int | None = None) -> tuple[int, ...]:
        """Add a use of a layer; return the slots of its outputs.

        Raises
        ------
        FormatError, UnsupportedModelError
            If the layer cannot take inputs of these shapes; the message does not name the layer.
        """
        input_shapes = tuple(self.shapes[slot] for slot in inputs)
        output_shapes = layer.output_shapes(input_shapes)
        if mask is not None and self.shapes[mask] != input_shapes[0][: len(self.shapes[mask])]:
            found, wanted = self.shapes[mask], input_shapes[0]
            if len(found) >= len(wanted) or any(
                a is not None and b is not None and a != b for a, b in zip(found, wanted, strict=False)
            ):
                raise FormatError(f"its mask has shape {found}, its input has shape {wanted}")
        outputs = tuple(self._slot(shape) for shape in output_shapes)
        use = self._uses.get(layer.name, 0)
        self._uses[layer.name] = use + 1
        key = f"{layer.name}:{use}" if use else layer.name
        self._nodes.append(Node(layer, key, tuple(inputs), outputs, mask, (), input_shapes, output_shapes))
        return outputs

    def _slot(self, shape: Shape) -> int:
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def build(self, outputs: Sequence[int]) -> Graph:
        """Return the graph with these outputs; nodes that none of them needs are left out."""
        needed = set(outputs)
        kept: list[Node] = []
        for node in reversed(self._nodes):
            if not needed.isdisjoint(node.outputs):
                kept.append(node)
                needed.update(node.inputs, () if node.mask is None else (node.mask,))
        kept.reverse()
        alive = set(outputs)
        nodes: list[Node] = []
        for node in reversed(kept):
            touched = {*node.inputs, *node.outputs, *(() if node.mask is None else (node.mask,))}
            nodes.append(replace(node, release=tuple(sorted(touched - alive))))
            alive |= touched
        nodes.reverse()
        return Graph(
            tuple(nodes),
            len(self.shapes),
            tuple(self._inputs),
            tuple(outputs),
            tuple(self.shapes[slot] for slot in self._inputs),
            tuple(self.shapes[slot] for slot in outputs),
        )


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """How a graph runs as a stream.

    Parameters
    ----------
    graph
        The graph.
    timed
        For each slot whether its tensor has a time axis in the model too.
    """

    graph: Graph
    timed: tuple[bool, ...]

    @classmethod
    def of(cls, graph: Graph, timed_inputs: Sequence[bool]) -> StreamPlan:
        """Return the plan of a graph.

        Parameters
        ----------
        graph
            The graph.
        timed_inputs
            For each input whether its axis 1 is time.

        Raises
        ------
        UnsupportedModelError
            If an output depends on later steps, naming the layer and the reason.
        """
        timed = [False] * graph.slots
        for slot, flag in zip(graph.inputs, timed_inputs, strict=True):
            timed[slot] = flag
        for node in graph.nodes:
            flags = {timed[slot] for slot in node.inputs}
            try:
                if len(flags) > 1:
                    raise UnsupportedModelError("it joins a sequence with a result of the whole sequence")
                if flags == {True}:
                    outputs = node.layer.stream(node.input_shapes)
                elif node.layer.untimed_obstacle is not None:
                    raise UnsupportedModelError(node.layer.untimed_obstacle)
                else:
                    outputs = (False,) * len(node.outputs)
            except UnsupportedModelError as error:
                raise UnsupportedModelError(
                    f"layer {node.layer.name!r} ({node.layer.kind}) cannot run in a stream: {error}; "
                    "call the model on whole sequences"
                ) from None
            for slot, flag in zip(node.outputs, outputs, strict=True):
                timed[slot] = flag
        return cls(graph, tuple(timed))

    def states(self, states: Mapping[str, State], batch: int) -> dict[str, State]:
        """Return the state of every node that has one: that of ``states``, or the one at the beginning."""
        result: dict[str, State] = {}
        for node in self.graph.nodes:
            if self.timed[node.inputs[0]]:
                state = states.get(node.key) or node.layer.initial_state(batch, node.input_shapes)
                if state:
                    result[node.key] = state
        return result

    def state_names(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the arrays that each node carries, by node key."""
        return {node.key: node.layer.state_names for node in self.graph.nodes}

    def run_chunk(self, inputs: Sequence[Tensor], states: Mapping[str, State]) -> tuple[list[Array], dict[str, State]]:
        """Run a chunk of any length, 0 included.

        Parameters
        ----------
        inputs
            (batch, time, ...) for each input of the model, checked.
        states
            State by node key; a node that is not in it begins at zero. Left as it is.

        Returns
        -------
        outputs, states
            (batch, time, ...) for each output of the model, and the states after the chunk.
        """
        before = self.states(states, inputs[0].values.shape[0])
        context = Context(states=before)
        outputs = self.graph.run(inputs, context, self)
        return [tensor.values for tensor in outputs], {**before, **context.new_states}
