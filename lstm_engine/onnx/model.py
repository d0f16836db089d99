"""The model around an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from lstm_engine.arguments import Arguments, TensorSpec
from lstm_engine.arrays import as_float_array, as_index_array, as_mask
from lstm_engine.errors import ShapeError, UnsupportedModelError, raise_together
from lstm_engine.formats.limits import Limits, current_limits, nonfinite_allowed, reading
from lstm_engine.layers.base import Layer
from lstm_engine.layers.numerics import Numerics
from lstm_engine.model import Model
from lstm_engine.options import Backend, ComputeType, check_options
from lstm_engine.thread_count import NumThreads, shared_threads

from .graph import OnnxGraph, OnnxNode, OnnxValue, graphs
from .program import Program
from .recurrent import LSTM_OPERATORS, lstm_weights
from .table import Array

if TYPE_CHECKING:
    from lstm_engine._core import Stream
    from lstm_engine.weights import LSTMWeights

__all__ = ["OnnxModel", "build_onnx_model", "lstm_weights_from_onnx"]


class OnnxModel(Model):
    """A model that computes an ONNX graph, node by node; immutable, picklable, shared by any number of threads.

    Inputs go in the graph's order and have the graph's types; states are inputs and outputs like any other.

    Parameters
    ----------
    graph
        What the file says.
    numerics
        Compute type and backend.

    Raises
    ------
    UnsupportedModelError, FormatError
        As of :class:`~lstm_engine.onnx.program.Program`.
    """

    _program: Program
    _limits: Limits
    _allow_nonfinite: bool

    def __init__(self, graph: OnnxGraph, numerics: Numerics) -> None:
        self.__dict__.update(
            _program=Program(graph, numerics),
            _limits=current_limits(),
            _allow_nonfinite=nonfinite_allowed(),
            _arguments=Arguments(
                tuple(_spec(value, numerics) for value in graph.inputs), numerics.dtype, uses_mask=False
            ),
            _outputs=tuple(_spec(value, numerics) for value in graph.outputs),
            _numerics=numerics,
            _name=graph.name,
            _source=graph.source,
        )

    @property
    def _rows_apart(self) -> bool:
        return False  # a graph may put time before the batch

    @property
    def _in_rows(self) -> bool:
        graph = self._program.graph
        firsts = {value.axes[0] if value.axes else None for value in (*graph.inputs, *graph.outputs)}
        name = next(iter(firsts)) if graph.inputs and len(firsts) == 1 else None
        return isinstance(name, str) and "batch" in name.lower()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self._program.graph, self._numerics, self._limits, self._allow_nonfinite)

    # --- What it is -----------------------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[Layer, ...]:
        """None: an ONNX graph has nodes, which :meth:`summary` lists."""
        return ()

    def architecture(self) -> OnnxGraph:
        """Return the graph as plain data, which makes the same model again."""
        return self._program.graph

    def memory_bytes(self) -> int:
        """Return the bytes that the weights take, packed copies included."""
        return self._program.memory_bytes()

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the nodes that run at each call.

        Parameters
        ----------
        print_fn
            Called with each line.
        """
        rows = [("Node (operator)", "Outputs", "Weights", "Inputs")]
        rows += [(f"{spec.name} (Input)", str(spec.shape), "0", "") for spec in self.inputs]
        for depth, program, step in self._program.walk():
            node = step.site.node
            outputs = ", ".join(name for name in node.outputs if name)
            inputs = ", ".join(name for name in node.inputs if name and name not in program.constants)
            named = f"{node.name} ({node.operator})".strip()
            rows.append((f"{'. ' * depth}{named}", outputs, f"{step.parameters:,}", inputs))
        graph = self._program.graph
        arrays = [array for inner in graphs(graph) for array in inner.initializers.values()]
        total = sum(array.size for array in arrays if array.dtype.kind == "f")
        self._print_table(rows, f" ({graph.producer}, opset {graph.opset})", total, print_fn)

    # --- Calls ----------------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, mask: Any = None, lengths: Any = None) -> Any:
        """Compute the outputs.

        Parameters
        ----------
        *inputs
            One array for each input, in the graph's order; or a single list or tuple of them, or a dict by name.
        mask, lengths
            None: an ONNX graph takes them, if at all, as inputs.

        Returns
        -------
        numpy.ndarray or tuple of numpy.ndarray
            The output, or all outputs where the model has several.

        Raises
        ------
        ShapeError
            If an argument does not fit, naming it and the node where that shows.
        """
        for name, value in (("mask", mask), ("lengths", lengths)):
            if value is not None:
                raise ShapeError(f"{name}: expected None, since an ONNX graph takes lengths as an input, found one")
        gathered = self._arguments.gathered(inputs)
        arrays = [_converted(value, spec) for value, spec in zip(gathered, self.inputs, strict=True)]
        outputs = [_owned(value) for value in self._program.run(arrays)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def predict(
        self, x: Any, batch_size: int = 64, progress: bool = False, *, mask: Any = None, lengths: Any = None
    ) -> Any:
        """Compute the outputs, batch by batch where the graph says which axis is the batch.

        That is the first axis of every input and output, under one name that has "batch" in it, as the exporters
        of PyTorch and Keras write it. In any other case it is one call.

        Parameters
        ----------
        x
            As in a call: an array, or a list, tuple or dict of arrays for several inputs.
        batch_size, progress, mask, lengths
            As of :meth:`Model.predict`.

        Returns
        -------
        numpy.ndarray or tuple of numpy.ndarray
            As of a call.

        Raises
        ------
        ShapeError
            If an argument does not fit, naming it.
        """
        if not self._in_rows or mask is not None or lengths is not None:
            return self(x, mask=mask, lengths=lengths)
        return super().predict(x, batch_size, progress)

    # --- Streams --------------------------------------------------------------------------------------------------

    def stream(self, batch: int | None = None) -> Stream:
        """Refuse: the states of an ONNX graph are its inputs and outputs, and it cannot be told which belong together.

        Raises
        ------
        UnsupportedModelError
            Always.
        """
        self._refuse_stream()

    def _refuse_stream(self) -> NoReturn:
        raise UnsupportedModelError(
            f"{self._source}: an ONNX graph cannot run in a stream: its states are ordinary inputs and outputs; give "
            "them from call to call yourself, or stream an LSTM of it: le.LSTM.from_onnx(path, node).stream()"
        )

    def _stream_plan(self) -> NoReturn:
        self._refuse_stream()

    def _stream_chain(self) -> NoReturn:
        self._refuse_stream()


def _rebuild(graph: OnnxGraph, numerics: Numerics, limits: Limits, allow_nonfinite: bool) -> OnnxModel:
    """Make an unpickled model: packed anew, for the CPU of the process that reads it."""
    with reading(limits, allow_nonfinite):
        return OnnxModel(graph, numerics)


def _spec(value: OnnxValue, numerics: Numerics) -> TensorSpec:
    floats = numerics.double and value.dtype.startswith("float")
    return TensorSpec(value.name, value.shape, "float64" if floats else value.dtype)


def _converted(value: Any, spec: TensorSpec) -> Array:
    """Return an input in the graph's type."""
    axes = tuple(f"size {axis}" if size is None else size for axis, size in enumerate(spec.shape))
    dtype = np.dtype(spec.dtype)
    if isinstance(value, np.ndarray) and value.dtype == dtype:
        array = value
        if array.ndim != len(axes) or any(
            size not in (None, s) for s, size in zip(array.shape, spec.shape, strict=True)
        ):
            raise ShapeError(f"{spec.name}: expected shape {spec.shape}, found {array.shape}")
        return array
    if dtype.kind == "b":
        return as_mask(value, spec.name, axes)
    if dtype.kind in "iu":
        whole = as_index_array(value, spec.name, axes)
        bounds = np.iinfo(dtype)
        if whole.size and not (bounds.min <= int(whole.min()) and int(whole.max()) <= bounds.max):
            raise ShapeError(f"{spec.name}: expected integers that {dtype} holds, found {whole.min()} to {whole.max()}")
        return whole.astype(dtype)
    return as_float_array(value, spec.name, axes, dtype)


def _owned(value: Array) -> Array:
    """Return an output that nothing else shares: no input, no constant, no other output."""
    return np.array(value, order="C")


def build_onnx_model(
    graph: OnnxGraph, *, compute_type: ComputeType = "float32", num_threads: NumThreads = 1, backend: Backend = "auto"
) -> OnnxModel:
    """Make the model that an ONNX graph means.

    Parameters
    ----------
    graph
        What the file says.
    compute_type, num_threads, backend
        As in :func:`lstm_engine.load`.

    Raises
    ------
    UnsupportedModelError, FormatError
        As of :class:`OnnxModel`.
    """
    check_options(compute_type, num_threads, backend)
    return OnnxModel(graph, Numerics(compute_type, backend, shared_threads(num_threads)))


def lstm_weights_from_onnx(graph: OnnxGraph, node: str | None) -> LSTMWeights:
    """Return the weights of one LSTM node of a graph.

    Parameters
    ----------
    graph
        What the file says.
    node
        Name of the node, or of one of its outputs; None if the graph has exactly one LSTM.

    Raises
    ------
    UnsupportedModelError
        If there is no such node, or several and none was named, or its weights are not constant.
    """
    lstms = [found for inner in graphs(graph) for found in inner.nodes if found.operator in LSTM_OPERATORS]
    chosen = lstms if node is None else [found for found in lstms if node and node in (found.name, *found.outputs)]
    if len(chosen) != 1:
        wanted = "exactly one LSTM node" if node is None else f"an LSTM node {node!r}"
        listed = [f"  {found.describe()}, weights {_shapes(graph, found.inputs[1:3])}" for found in lstms]
        hint = "; name one with node=" if lstms else "; its recurrent layers were written as other operators"
        raise UnsupportedModelError(
            "\n".join([f"{graph.source}: expected {wanted}, found {len(lstms)} LSTM nodes{hint}", *listed])
        )
    return _weights_of(graph, chosen[0])


def _shapes(graph: OnnxGraph, names: tuple[str, ...]) -> str:
    shapes = [str(graph.initializers[name].shape) for name in names if name in graph.initializers]
    return " and ".join(shapes) or "computed by the graph"


def _weights_of(graph: OnnxGraph, node: OnnxNode) -> LSTMWeights:
    """Return the weights of an LSTM node."""
    found = [place for place in Program(graph, Numerics("float32")).walk() if place[2].site.node is node]
    if not found:
        raise UnsupportedModelError(f"{graph.source}: {node.describe()}: stands in a branch that is never taken")
    ((_, program, step),) = found
    constants = [program.constants.get(name) for name in node.inputs]
    w, r, b, p = LSTM_OPERATORS[node.operator](*constants)
    computed = [
        name for place, name in enumerate(node.inputs) if place in (1, 2, 3, 7) and name not in (*program.constants, "")
    ]
    raise_together(
        UnsupportedModelError,
        f"{graph.source}: {node.describe()}",
        [f"expected constant weights, found {name!r}, which is computed from the inputs" for name in computed],
    )
    return lstm_weights(step.site, w, r, b, p)
