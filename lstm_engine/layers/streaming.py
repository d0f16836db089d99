"""Models as streams: as a chain of compiled stages where there is one, else as a graph that runs chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lstm_engine.activations import Activation
from lstm_engine.arrays import as_float_array, as_index_array, as_plain_array
from lstm_engine.errors import ShapeError

from .base import Array, Layer, State, Tensor
from .core import Activate, Dense, Identity
from .functions import Softmax, split_activation
from .graph import Graph, Node, StreamPlan
from .numerics import Numerics
from .recurrent import LSTMLayer, LSTMStack
from .shaping import LastStep
from .wrappers import TimeDistributed

if TYPE_CHECKING:
    from lstm_engine.arguments import Arguments

__all__ = ["GraphStream", "chain_nodes", "stages"]


def chain_nodes(graph: Graph) -> list[Node] | None:
    """Return the nodes of a graph if each takes the one tensor that the node before it makes, else None."""
    slots = graph.inputs
    if len(slots) > 1:
        return None
    for node in graph.nodes:
        if node.inputs != slots or node.mask is not None or len(node.outputs) != 1:
            return None
        slots = node.outputs
    return list(graph.nodes) if graph.outputs == slots else None


def stages(layer: Layer, rank: int, numerics: Numerics) -> list[tuple[str, Any]] | None:
    """Return a layer of a chain as compiled stages, or None if it has no such form."""
    match layer:
        case LSTMLayer() | LSTMStack():
            return [("lstm", layer.lstm.core)]
        case Identity() | LastStep():  # without masks, the last step so far is the present one
            return []
        case TimeDistributed():
            return stages(layer.layer, rank - 1, numerics)
        case Dense() if not numerics.double:
            _, rest = split_activation(layer.activation)
            if rest is None:
                return [("linear", layer.linear)]
            return [("linear", layer.linear), ("softmax", None)] if isinstance(rest, Softmax) else None
        case Activate() if not numerics.double:
            if layer.activation is None or isinstance(layer.activation, Activation):
                return [] if layer.activation is None else [("activation", layer.activation)]
            last = isinstance(layer.activation, Softmax) and layer.activation.axis % rank == rank - 1
            return [("softmax", None)] if last else None
        case _:
            return None


class GraphStream:
    """Runs chunks of a model's graph: what :class:`~lstm_engine.Stream` uses where there is no chain of stages.

    States are dicts from node keys to arrays whose axis 1 is the batch; an empty dict is the beginning.
    """

    def __init__(self, arguments: Arguments, plan: StreamPlan) -> None:
        self._arguments = arguments
        self._plan = plan

    def states(self, states: Mapping[str, State], rows: int) -> dict[str, State]:
        """Return the state of every node that has one."""
        return self._plan.states(states, rows)

    def state_names(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the arrays that each node carries."""
        return self._plan.state_names()

    def run(self, x: Any, states: Mapping[str, State], batch: int | None) -> tuple[Any, dict[str, State]]:
        """Run a chunk: x (time, ...), or (batch, time, ...) if ``batch`` is given; outputs likewise."""
        return self._advanced(x, states, batch, ("time",))

    def step(self, x: Any, states: Mapping[str, State], batch: int | None) -> tuple[Any, dict[str, State]]:
        """Run one step: x (...), or (batch, ...) if ``batch`` is given; outputs likewise."""
        return self._advanced(x, states, batch, ())

    def repeated(self, x: Any, batch: int | None, times: int) -> Any:
        """Return a step's input for ``times`` batches that all get it: (times * rows, ...); copies."""
        given = zip(self._arguments.gathered((x,)), self._arguments.specs, strict=True)
        arrays = [as_plain_array(value, spec.name) for value, spec in given]
        arrays = [np.concatenate([array if batch is not None else array[None]] * times) for array in arrays]
        return arrays if len(arrays) > 1 else arrays[0]

    def step_rows(
        self, x: Any, states: Mapping[str, State], batch: int, steps: NDArray[np.int64] | None
    ) -> tuple[Any, dict[str, State]]:
        """Run each row by as many steps as ``steps`` says; x (sum of steps, ...), row after row; outputs likewise."""
        if steps is None:
            return self.step(x, states, batch)
        given = self._arguments.gathered((x,))
        total, ends = int(steps.sum()), np.cumsum(steps)
        inputs = [as_plain_array(value, spec.name) for value, spec in zip(given, self._arguments.specs, strict=True)]
        for array, spec in zip(inputs, self._arguments.specs, strict=True):
            if array.shape[:1] != (total,):
                raise ShapeError(f"{spec.name}: expected {total} rows, the sum of steps, found shape {array.shape}")
        after = {name: tuple(array.copy() for array in arrays) for name, arrays in states.items()}
        results: list[Array] = []
        for now in range(max(int(steps.max(initial=0)), 1)):  # once at least, which tells the shape of the outputs
            rows = np.flatnonzero(steps > now)
            places = (ends - steps)[rows] + now
            part = {name: tuple(array[:, rows] for array in arrays) for name, arrays in after.items()}
            x_now = [array[places] for array in inputs]
            y, part = self.step(x_now if len(inputs) > 1 else x_now[0], part, len(rows))
            outputs = y if isinstance(y, tuple) else (y,)
            results = results or [np.empty((total, *output.shape[1:]), output.dtype) for output in outputs]
            for result, output in zip(results, outputs, strict=True):
                result[places] = output
            for name, arrays in after.items():
                for array, new in zip(arrays, part[name], strict=True):
                    array[:, rows] = new
        return (results[0] if len(results) == 1 else tuple(results)), after

    def _advanced(
        self, x: Any, states: Mapping[str, State], batch: int | None, time: tuple[str, ...]
    ) -> tuple[Any, dict[str, State]]:
        rows: tuple[int, ...] = () if batch is None else (batch,)
        inputs = []
        for value, spec in zip(self._arguments.gathered((x,)), self._arguments.specs, strict=True):
            shape = spec.shape[2:] if spec.sequence else spec.shape[1:]
            axes = [*rows, *time, *(f"size {axis}" if size is None else size for axis, size in enumerate(shape))]
            array: Array
            if spec.indices:
                array = as_index_array(value, spec.name, axes)
            else:
                array = as_float_array(value, spec.name, axes, self._arguments.dtype)
            steps = array.shape[len(rows)] if time else 1
            inputs.append(
                Tensor(array.reshape(1 if batch is None else batch, steps, *array.shape[len(rows) + len(time) :]))
            )
        if len({tensor.values.shape[1] for tensor in inputs}) > 1:
            raise ShapeError(
                f"inputs: expected the same number of steps, found {[tensor.values.shape[1] for tensor in inputs]}"
            )
        outputs, states = self._plan.run_chunk(inputs, states)
        shaped = [y.reshape(*rows, *y.shape[1 if time else 2 :]).copy() for y in outputs]
        return (shaped[0] if len(shaped) == 1 else tuple(shaped)), dict(states)
