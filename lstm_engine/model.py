"""The model: layers connected to a graph, called on whole sequences or opened as a stream."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .arguments import Arguments, TensorSpec
from .arrays import as_plain_array
from .errors import FormatError, LstmEngineError, ShapeError, UnsupportedModelError
from .layers.base import Layer, Shape
from .layers.core import Activate, Dense, Embedding, Identity, Masking
from .layers.graph import Graph, GraphBuilder, StreamPlan
from .layers.normalization import LayerNormalization
from .layers.numerics import Numerics
from .layers.recurrent import LSTMLayer, LSTMStack, RecurrentLayer
from .layers.streaming import GraphStream, chain_nodes
from .layers.streaming import stages as stages_of
from .layers.torch_layers import BatchNorm1d, Conv1d
from .lstm import LSTM
from .options import Backend, ComputeType, check_options
from .thread_count import NumThreads, shared_threads

if TYPE_CHECKING:
    from ._core import SlidingWindow, Stream, StreamPool
    from .accuracy import AccuracyReport
    from .description import ModelDescription
    from .report import Report

__all__ = ["Model", "Sequential", "TensorSpec"]

Array = NDArray[Any]


class Model:
    """A model that computes: immutable, picklable, shared by any number of threads.

    Made by :func:`lstm_engine.load` or :class:`Sequential`. A layer that Keras calls stateful begins at zero
    in every call: memory between calls is that of a stream.

    Parameters
    ----------
    graph
        The layers and how they are connected; the layers are prepared.
    inputs, outputs
        What goes in and comes out, in order.
    numerics
        Compute type and backend.
    name
        The model's name.
    source
        The file that it came from, for messages; empty for none.
    architecture
        The description that it was made from; None for a model that was put together by hand.
    """

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        numerics: Numerics,
        *,
        name: str = "model",
        source: str = "",
        architecture: ModelDescription | None = None,
    ) -> None:
        uses_mask = any(node.layer.uses_mask for node in graph.nodes)
        in_rows = not any(node.layer.time_major for node in graph.nodes)
        self.__dict__.update(
            _graph=graph,
            _arguments=Arguments(tuple(inputs), numerics.dtype, uses_mask, () if in_rows else graph.time_major()),
            _outputs=tuple(outputs),
            _numerics=numerics,
            _name=name,
            _source=source,
            _architecture=architecture,
        )

    _graph: Graph
    _arguments: Arguments
    _outputs: tuple[TensorSpec, ...]
    _numerics: Numerics
    _name: str
    _source: str
    _architecture: ModelDescription | None

    @property
    def _rows_apart(self) -> bool:
        """Whether axis 0 of every input and output is the batch, whose rows do not depend on each other."""
        return self._in_rows

    @property
    def _in_rows(self) -> bool:
        """Whether a call may be cut into batches along axis 0 of every input and output."""
        return not self._arguments.time_major

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Model is immutable: {name!r} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Model is immutable: {name!r} cannot be deleted")

    # --- What it is -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    @property
    def source(self) -> str:
        """The file that the model came from; empty for none."""
        return self._source

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs, in the order of a call."""
        return self._arguments.specs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs, in the order of what a call returns."""
        return self._outputs

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, each once, in the order in which they run."""
        return tuple({node.layer.name: node.layer for node in self._graph.nodes}.values())

    @property
    def compute_type(self) -> str:
        """The type that it computes in."""
        return self._numerics.compute_type

    @property
    def num_threads(self) -> int:
        """Threads that a call may use, its caller's included."""
        return 1 if self._numerics.threads is None else self._numerics.threads.count

    @property
    def backend(self) -> str:
        """The backend of the recurrent layers as it was asked for: ``"auto"``, ``"fused"`` or ``"blas"``."""
        return self._numerics.backend

    def memory_bytes(self) -> int:
        """Return the bytes that the weights take, packed copies included."""
        return sum(layer.memory_bytes() for layer in self.layers)

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print a table of the layers, their output shapes and their numbers of weights.

        Parameters
        ----------
        print_fn
            Called with each line.
        """
        rows = [("Layer (kind)", "Output shape", "Weights", "Input")]
        rows += [(f"{spec.name} (Input)", str(spec.shape), "0", "") for spec in self.inputs]
        makers = dict(zip(self._graph.inputs, (spec.name for spec in self.inputs), strict=True))
        counted: set[str] = set()
        for node in self._graph.nodes:
            makers.update(dict.fromkeys(node.outputs, node.key))
            weights = 0 if node.layer.name in counted else node.layer.parameters
            counted.add(node.layer.name)
            shapes = ", ".join(map(str, node.output_shapes))
            sources = ", ".join(makers[slot] for slot in node.inputs)
            rows.append((f"{node.key} ({node.layer.kind})", shapes, f"{weights:,}", sources))
        self._print_table(rows, "", sum(layer.parameters for layer in self.layers), print_fn)

    def _print_table(
        self, rows: Sequence[tuple[str, str, str, str]], writer: str, weights: int, print_fn: Callable[[str], Any]
    ) -> None:
        """Print the rows of :meth:`summary`, the heads of the columns first, between the model's name and its size."""
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        print_fn(f"Model: {self._name!r}{writer}")
        for place, row in enumerate(rows):
            cells = [row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]), row[3]]
            print_fn("  ".join(cells).rstrip())
            if place == 0:
                print_fn("-" * (sum(widths) + 6))
        print_fn(f"Weights: {weights:,}; {self.memory_bytes():,} bytes in memory; computes in {self.compute_type}")

    # --- Files ----------------------------------------------------------------------------------------------------

    def accuracy_report(self, x: Any, compute_type: ComputeType | None = None) -> AccuracyReport:
        """Compare a compute type with float32, on data of your own: error of each output, speed-up and memory.

        Parameters
        ----------
        x
            Inputs as for a call; of a model with several a list, tuple or dict of them.
        compute_type
            The type to compare; this model's own if None.

        Raises
        ------
        ShapeError
            If the inputs do not fit, or give no outputs to compare.
        UnsupportedModelError
            If the type is float32 itself, or not known.
        """
        from .accuracy import accuracy_report

        return accuracy_report(self, x, compute_type)

    def architecture(self) -> Any:
        """Return the model as plain data, which makes the same model again.

        Returns
        -------
        ModelDescription or OnnxGraph
            Of :mod:`lstm_engine.description`; of :mod:`lstm_engine.onnx.graph` for an ONNX model.

        Raises
        ------
        UnsupportedModelError
            If a layer cannot be described, naming it.
        """
        if self._architecture is not None:
            return self._architecture
        from . import __version__
        from .layers.native import describe_graph

        return describe_graph(self._graph, self.inputs, self._outputs, self._name, __version__)

    @property
    def report(self) -> Report:
        """What loading the file found: each weight's key in it, what was inferred, what was ignored."""
        from .report import report_of

        return report_of(self.architecture())

    def save(self, path: str | os.PathLike[str], *, golden: Any = None) -> None:
        """Save the model to a safetensors file that :func:`lstm_engine.load` makes the same model from.

        Loaded with the compute type and backend of this one, it gives the same bits.

        Parameters
        ----------
        path
            Where to. What lies there is replaced once the new file is whole; if saving fails it stays.
        golden
            Inputs as for :meth:`predict`, kept in the file with this model's outputs for them:
            ``lstm-engine verify`` and ``le.load(path, verify=True)`` compare. None for none.

        Raises
        ------
        UnsupportedModelError
            If the model has something that cannot be saved, naming it.
        ShapeError
            If ``golden`` does not fit.
        OSError
            If the file cannot be written.
        """
        from .saving import save

        save(self, path, golden=golden)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the model as ONNX, of opset 17, with a dynamic batch (and time); needs the package onnx.

        Parameters
        ----------
        path
            Where to. What lies there is replaced once the new file is whole.

        Raises
        ------
        UnsupportedModelError
            If the model has something that ONNX has no words for, such as masks; all of it is named.
        LstmEngineError
            If the package onnx is not installed.
        OSError
            If the file cannot be written.
        """
        from .export.onnx import write_onnx

        write_onnx(self, path)

    def __repr__(self) -> str:
        return (
            f"<Model {self._name!r}: {', '.join(f'{spec.name} {spec.shape}' for spec in self.inputs)} -> "
            f"{', '.join(f'{spec.name} {spec.shape}' for spec in self._outputs)}, {self.compute_type}>"
        )

    # --- Calls ----------------------------------------------------------------------------------------------------

    def __call__(self, *inputs: Any, mask: Any = None, lengths: Any = None) -> Any:
        """Compute the outputs, as the framework's ``predict`` does.

        Parameters
        ----------
        *inputs
            One array for each input of the model, in order; or a single list or tuple of them, or a dict by name. Each
            has the shape of its :class:`TensorSpec`; an axis of size 1 at the end may be left out, or be too many.
            Floats are rounded to the compute type, integers and bools converted where that is exact.
        mask
            (batch, time) of bool, True where a step counts: Keras's mask of the input. It joins those that the model
            makes itself. For a model of several sequences a tuple or list with one for each input, None for none, or
            a dict by name. For an input with time in front of the batch (Keras 2's ``time_major``) it is (time, batch).
        lengths
            (batch,) of int: only the first steps of each row count. Outputs of recurrent layers past a row's length
            are zero and backward layers begin at its last real step, as with PyTorch's packed sequences. For several
            sequences as with ``mask``. Not together with ``mask``.

        Returns
        -------
        numpy.ndarray or tuple of numpy.ndarray
            The output, or all outputs where the model has several. An empty batch gives empty outputs. A
            sequence without a step gives a last output of zeros.

        Raises
        ------
        ShapeError
            If an argument does not fit, naming it.
        """
        tensors, context = self._arguments.tensors(inputs, mask, lengths)
        outputs = [tensor.values for tensor in self._graph.run(tensors, context)]
        # A layer that changes nothing gives back what it got: the caller's array must not be shared.
        given = [tensor.values for tensor in tensors]
        outputs = [y.copy() if any(np.may_share_memory(y, x) for x in given) else y for y in outputs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def predict(
        self,
        x: Any,
        batch_size: int = 64,
        progress: bool = False,
        *,
        mask: Any = None,
        lengths: Any = None,
    ) -> Any:
        """Compute the outputs batch by batch, so that memory stays bounded: the same bits as one call.

        A model with a layer of Keras's ``time_major=True`` is called once, for axis 0 is not the batch.

        Parameters
        ----------
        x
            As in a call: an array, or a list, tuple or dict of arrays for several inputs.
        batch_size
            Rows of one batch.
        progress
            Whether to show a progress bar (needs the package tqdm).
        mask, lengths
            As in a call.

        Returns
        -------
        numpy.ndarray or tuple of numpy.ndarray
            As of a call.

        Raises
        ------
        ShapeError
            If an argument does not fit, naming it.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
            raise ShapeError(f"batch_size: expected a positive integer, found {batch_size!r}")
        if not self._in_rows:
            return self(x, mask=mask, lengths=lengths)
        arrays = [
            as_plain_array(value, spec.name)
            for value, spec in zip(self._arguments.gathered((x,)), self.inputs, strict=True)
        ]
        for array, spec in zip(arrays, self.inputs, strict=True):
            if array.ndim == 0:
                raise ShapeError(f"{spec.name}: expected shape {spec.shape}, found a single number")
        masks, all_lengths = self._arguments.per_input("mask", mask), self._arguments.per_input("lengths", lengths)
        rows = arrays[0].shape[0]
        starts: Any = range(0, max(rows, 1), int(batch_size))
        if progress:
            try:
                from tqdm.auto import tqdm
            except ImportError as error:
                raise LstmEngineError(
                    "progress: expected the package tqdm, found none; install it, or use progress=False"
                ) from error
            starts = tqdm(starts, unit="batch")
        results: list[Array] = []
        for start in starts:
            part = slice(start, start + int(batch_size))
            outputs = self(
                *(array[part] for array in arrays),
                mask=self._sliced(masks, part),
                lengths=self._sliced(all_lengths, part),
            )
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            if not results:
                self._check_rows(arrays, masks, all_lengths)
                results = [np.empty((rows, *output.shape[1:]), output.dtype) for output in outputs]
            for result, output in zip(results, outputs, strict=True):
                result[part] = output
        return results[0] if len(results) == 1 else tuple(results)

    def _check_rows(self, arrays: Sequence[Array], masks: Sequence[Any], lengths: Sequence[Any]) -> None:
        """Raise ShapeError unless everything that is cut into batches has the same number of rows."""
        rows = arrays[0].shape[0]
        named = [(spec.name, array) for spec, array in zip(self.inputs, arrays, strict=True)]
        named += [("mask", np.asarray(mask)) for mask in masks if mask is not None]
        named += [("lengths", np.asarray(given)) for given in lengths if given is not None]
        for name, array in named:
            if array.shape[:1] != (rows,):
                raise ShapeError(f"{name}: expected {rows} rows as in {self.inputs[0].name}, found shape {array.shape}")

    def _sliced(self, values: Sequence[Any], part: slice) -> Any:
        """Return one batch of masks or lengths, in the form that a call takes."""
        if all(value is None for value in values):
            return None
        return tuple(None if value is None else np.asarray(value)[part] for value in values)

    # --- Streams --------------------------------------------------------------------------------------------------

    def stream(self, batch: int | None = None) -> Stream:
        """Open a stream: a step or a chunk at a time, with the state carried along.

        Parameters
        ----------
        batch
            Rows that advance together; None for one row without a batch axis.

        Returns
        -------
        Stream
            Its outputs at each step are those that the model would give if the sequence ended there.

        Raises
        ------
        UnsupportedModelError
            If an output depends on later steps, naming the layer and the reason.
        """
        from ._core import Stream

        return Stream(self, batch)

    def stream_pool(
        self,
        capacity: int = 10_000,
        *,
        idle_timeout: float | None = None,
        on_evict: Callable[[int, bytes], Any] | None = None,
    ) -> StreamPool:
        """Make a pool of independent streams, any of which advance together in one call.

        Parameters
        ----------
        capacity
            Most streams that are open at a time; memory for all is taken at once.
        idle_timeout
            Seconds: where the pool is full, opening a stream may close the one that was not used for longest if that
            is as long. None: never.
        on_evict
            Called as ``on_evict(id, snapshot)`` before a stream is closed for being idle.

        Raises
        ------
        UnsupportedModelError
            If an output depends on later steps, naming the layer and the reason.
        """
        from ._core import StreamPool

        return StreamPool(self, capacity, idle_timeout=idle_timeout, on_evict=on_evict)

    def sliding_window(self, length: int = 50, batch: int | None = None) -> SlidingWindow:
        """Make a sliding window: for every sample a prediction over the last ``length`` samples from a zero state.

        The same bits as calling it on the window, for the price of one step of each window in flight.

        Parameters
        ----------
        length
            Samples that each prediction is over.
        batch
            Rows (instruments, sensors) that are fed together; None for one row without a batch axis.

        Raises
        ------
        UnsupportedModelError
            If an output depends on later steps, naming the layer and the reason.
        """
        from ._core import SlidingWindow

        return SlidingWindow(self, length, batch)

    def _stream_plan(self) -> StreamPlan:
        """Return how the graph runs as a stream.

        Raises
        ------
        UnsupportedModelError
            If it cannot.
        """
        return StreamPlan.of(self._graph, [spec.sequence for spec in self.inputs])

    def _stream_chain(self) -> list[tuple[str, Any]] | None:
        """Return the model as a chain of compiled stages, or None if it is none.

        A stage is ``("lstm", CoreLSTM)``, ``("linear", Linear)``, ``("activation", Activation)`` or
        ``("softmax", None)``.

        Raises
        ------
        UnsupportedModelError
            If the model cannot run in a stream.
        """
        self._stream_plan()
        stages: list[tuple[str, Any]] = []
        (spec, *others) = self.inputs
        nodes = chain_nodes(self._graph)
        if others or spec.indices or len(spec.shape) != 3 or nodes is None:
            return None
        for node in nodes:
            more = stages_of(node.layer, len(node.input_shapes[0]), self._numerics)
            if more is None:
                return None
            stages += more
        return stages if stages and stages[0][0] in ("lstm", "linear") else None

    def _stream_names(self) -> list[str]:
        """Return the names of the LSTM layers of the chain."""
        return [node.key for node in self._graph.nodes if isinstance(node.layer, (LSTMLayer, LSTMStack))]

    def _stream_graph(self) -> GraphStream:
        """Return what runs chunks where there is no chain."""
        return GraphStream(self._arguments, self._stream_plan())


class Sequential(Model):
    """A model of layers one behind the other, put together by hand: for PyTorch weights above all.

    ::

        le.Sequential([
            le.Embedding.from_torch("model.pt", "embed"),
            le.LSTM.from_torch("model.pt", "lstm"),
            le.LastStep(),
            le.Dense.from_torch("model.pt", "fc", activation="softmax"),
        ])

    An LSTM gives every step, and the layers after it work on every step, as in PyTorch. ``le.LastStep()`` keeps the
    last one (``y[:, -1]``, aware of ``lengths`` and ``mask``); ``le.FinalHidden(lstm)`` in place of the
    LSTM gives its final hidden state (``h[-1]``, both directions side by side if it has two).

    Parameters
    ----------
    layers
        Layers and :class:`~lstm_engine.LSTM` objects. Their arrays have time in front of the features: (batch, time,
        features), convolutions and batch normalization included, around which PyTorch's models transpose.
    input_shape
        Shape of the input without the batch axis, None for an open size. If it is None, it is (time,) for an
        embedding and (time, features) for anything else that knows its number of features.
    compute_type
        As of :func:`lstm_engine.load`; that of the LSTMs if None.
    num_threads
        As in :func:`lstm_engine.load`; an LSTM keeps its own.
    backend
        Of the layers; an LSTM keeps its own.
    name
        The model's name.

    Raises
    ------
    UnsupportedModelError
        If a layer is of no kind that can be in a chain, or LSTMs of two compute types are mixed.
    ShapeError
        If a layer does not fit the one before it.
    """

    def __init__(
        self,
        layers: Sequence[Layer | LSTM],
        *,
        input_shape: Sequence[int | None] | None = None,
        compute_type: ComputeType | None = None,
        num_threads: NumThreads = 1,
        backend: Backend = "auto",
        name: str = "sequential",
    ) -> None:
        wrapped = [self._layer(layer, place) for place, layer in enumerate(layers)]
        if not wrapped:
            raise UnsupportedModelError("layers: expected at least one, found none")
        types = {layer.lstm.compute_type for layer in wrapped if isinstance(layer, LSTMStack)}
        types |= set() if compute_type is None else {compute_type}
        if len(types) > 1:
            raise UnsupportedModelError(
                f"compute_type: expected one for the whole model, found {' and '.join(sorted(types))}"
            )
        chosen: Any = types.pop() if types else "float32"
        check_options(chosen, num_threads, backend)
        numerics = Numerics(chosen, backend, shared_threads(num_threads))
        shape = _first_shape(wrapped) if input_shape is None else (None, *input_shape)
        indices = wrapped[0].takes_indices is True
        builder = GraphBuilder()
        slots: tuple[int, ...] = (builder.add_input(shape),)
        for layer in _named(wrapped):
            try:
                slots = builder.add(layer.prepare(numerics), slots)
            except FormatError as error:
                raise ShapeError(f"layers: {layer.name!r} ({layer.kind}): {error}") from None
        graph = builder.build(slots)
        super().__init__(
            graph,
            [TensorSpec("x", shape, "int64" if indices else numerics.dtype.name)],
            [TensorSpec(graph.nodes[-1].layer.name, graph.output_shapes[0], numerics.dtype.name)],
            numerics,
            name=name,
        )

    @staticmethod
    def _layer(layer: Any, place: int) -> Layer:
        if isinstance(layer, LSTM):
            return LSTMStack(layer)
        if not isinstance(layer, Layer):
            raise UnsupportedModelError(
                f"layers[{place}]: expected a layer such as le.Dense, or an le.LSTM, found {type(layer).__name__}; "
                "use from_torch to take its weights over"
            )
        return layer


def _first_shape(layers: Sequence[Layer]) -> Shape:
    """Return the input's shape as the first layers tell it."""
    for layer in layers:
        match layer:
            case Embedding():
                return (None, None)
            case LSTMStack():
                return (None, None, layer.lstm.input_size)
            case Dense():
                return (None, None, layer.in_features)
            case RecurrentLayer():
                return (None, None, layer.recurrence.input_size)
            case Conv1d():
                return (None, layer.channels, None) if layer.channels_first else (None, None, layer.channels)
            case BatchNorm1d() if not layer.channels_first:
                return (None, None, layer.mean.size)
            case LayerNormalization() if layer.gamma is not None:
                return (None, *(None,) * (layer.gamma.ndim == 1), *layer.gamma.shape)
            case Activate() | Identity() | Masking() | LayerNormalization():
                continue
        break
    raise UnsupportedModelError(
        f"input_shape: expected one, since a model that begins with {layers[0].kind} does not tell its input"
    )


def _named(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers with a name each, unique in the model."""
    used: set[str] = set()
    result = []
    for layer in layers:
        base = layer.name or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", layer.kind).lower()
        number, name = 0, base
        while name in used:
            number += 1
            name = f"{base}_{number}"
        used.add(name)
        result.append(layer if layer.name == name else layer.renamed(name))
    return result
