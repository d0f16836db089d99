"""A model as an ONNX graph of standard operators, opset 17: an LSTM node for each layer and direction pair.

ONNX has no masks, so a model that makes them is refused, as is all else that the operators have no words for. The axes
that the model leaves open stay open: the batch, and the time axis.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from lstm_engine.activations import Activation
from lstm_engine.errors import LstmEngineError, UnsupportedModelError, raise_together
from lstm_engine.layers.bidirectional import BidirectionalLayer
from lstm_engine.layers.core import Activate, Dense, Embedding, Identity
from lstm_engine.layers.functions import ClippedReLU, Composed, LogSoftmax, Softmax
from lstm_engine.layers.merging import Concatenate, Merge
from lstm_engine.layers.normalization import BatchNormalization, LayerNormalization
from lstm_engine.layers.pooling import GlobalAveragePooling1D, GlobalMaxPooling1D
from lstm_engine.layers.recurrent import FinalHidden, LSTMLayer, LSTMStack
from lstm_engine.layers.shaping import Flatten, LastStep, Permute, RepeatVector, Reshape
from lstm_engine.layers.wrappers import TimeDistributed
from lstm_engine.replacement import replacement

if TYPE_CHECKING:
    from lstm_engine.layers.base import Layer, Shape
    from lstm_engine.layers.graph import Node
    from lstm_engine.model import Model
    from lstm_engine.weights import CellWeights, LSTMWeights

__all__ = ["OPSET", "write_onnx"]

#: Version of ONNX's operators; the first with LayerNormalization.
OPSET: Final = 17

#: Version of the file's frame that belongs to it.
_IR_VERSION: Final = 8

#: Activations with an operator of their own: its name, and the attributes that our alpha and beta become.
_OPERATORS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "linear": ("Identity", ()),
    "sigmoid": ("Sigmoid", ()),
    "tanh": ("Tanh", ()),
    "relu": ("Relu", ()),
    "hard_sigmoid": ("HardSigmoid", ("alpha", "beta")),
    "softsign": ("Softsign", ()),
    "elu": ("Elu", ("alpha",)),
    "selu": ("Selu", ()),
    "softplus": ("Softplus", ()),
    "exponential": ("Exp", ()),
    "leaky_relu": ("LeakyRelu", ("alpha",)),
    "thresholded_relu": ("ThresholdedRelu", ("alpha",)),
}

#: Those that the gates of an LSTM node may have, likewise.
_GATES: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    **{kind: _OPERATORS[kind] for kind in _OPERATORS if kind not in ("linear", "selu", "exponential")},
    "affine": ("Affine", ("alpha", "beta")),
    "scaled_tanh": ("ScaledTanh", ("alpha", "beta")),
}

#: Places of ONNX's gates (input, output, forget, cell) in ours, and of its peepholes.
_GATE_ORDER: Final = (0, 3, 1, 2)
_PEEPHOLE_ORDER: Final = (0, 2, 1)

_MERGES: Final = {
    "Add": "Sum", "Average": "Mean", "Maximum": "Max", "Minimum": "Min", "Multiply": "Mul", "Subtract": "Sub"
}  # fmt: skip


def write_onnx(model: Model, path: str | os.PathLike[str]) -> None:
    """Write a model as ONNX; see :meth:`lstm_engine.Model.to_onnx`."""
    try:
        import onnx
    except ImportError as error:
        raise LstmEngineError(
            "to_onnx: expected the package onnx, found none; install lstm_engine with [onnx]"
        ) from error
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{os.fsdecode(path)}: expected an existing folder {target.parent}; make it first")
    graph = _Writer(onnx).graph(model)
    opset = onnx.helper.make_opsetid("", OPSET)
    proto = onnx.helper.make_model(graph, producer_name="lstm_engine", opset_imports=[opset], ir_version=_IR_VERSION)
    onnx.checker.check_model(proto, full_check=True)
    with replacement(target) as file:
        file.write(proto.SerializeToString())


class _Writer:
    """The graph while it is written: every method that writes nodes returns the names of what they make."""

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._layer = ""

    def graph(self, model: Model) -> Any:
        """Return the graph of a model."""
        nodes = getattr(model, "_graph", None)
        if nodes is None:
            raise UnsupportedModelError("to_onnx: the model came from an ONNX file; copy that file")
        problems: list[str] = []
        names: dict[int, str] = {slot: spec.name for slot, spec in zip(nodes.inputs, model.inputs, strict=True)}
        for node in nodes.nodes:
            self._layer = node.key.replace(":", "_")
            writer = _WRITERS.get(type(node.layer))
            try:
                if writer is None:
                    raise UnsupportedModelError("it has no counterpart among the operators that are written")
                if node.layer.time_major:
                    raise UnsupportedModelError("time_major=True is not written: its axes have no names of their own")
                if node.mask is not None:
                    raise UnsupportedModelError("it is given a mask, and ONNX has none")
                made = writer(self, node, [names[slot] for slot in node.inputs])
            except UnsupportedModelError as error:
                problems.append(f"layer {node.layer.name!r} ({node.layer.kind}): {error}")
                made = [""] * len(node.outputs)  # nothing is written; the layers behind it are looked at all the same
            names.update(zip(node.outputs, made, strict=True))
        raise_together(UnsupportedModelError, "to_onnx", problems)
        helper, kinds = self._onnx.helper, self._onnx.TensorProto
        several = len(model.inputs) > 1
        inputs = [
            helper.make_tensor_value_info(
                spec.name,
                kinds.INT64 if spec.indices else kinds.FLOAT,
                _axes(spec.shape, f"{spec.name}_" if several else ""),
            )
            for spec in model.inputs
        ]
        outputs = []
        used = {spec.name for spec in model.inputs}
        for slot, spec in zip(nodes.outputs, model.outputs, strict=True):
            name = spec.name if spec.name not in used else f"{spec.name}_output"
            used.add(name)
            self._nodes.append(helper.make_node("Identity", [names[slot]], [name]))
            outputs.append(helper.make_tensor_value_info(name, kinds.FLOAT, ["batch", *spec.shape[1:]]))
        return helper.make_graph(self._nodes, model.name, inputs, outputs, self._constants)

    # --- Pieces -----------------------------------------------------------------------------------------------------

    def add(self, operator: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node."""
        number = len(self._nodes)
        made = [f"{self._layer}/{operator}_{number}{f'_{place}' if place else ''}" for place in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(operator, list(inputs), made, made[0], **attributes))
        return made

    def one(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output."""
        return self.add(operator, inputs, **attributes)[0]

    def constant(self, value: Any, name: str = "constant", dtype: Any = np.float32) -> str:
        """Add an array."""
        label = f"{self._layer}/{name}_{len(self._constants)}"
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(np.asarray(value).astype(dtype)).reshape(np.shape(value))
        self._constants.append(self._onnx.numpy_helper.from_array(array, label))
        return label

    def sizes(self, *values: int) -> str:
        """Add an array of sizes or axes."""
        return self.constant(np.array(values, dtype=np.int64), "sizes", np.int64)

    def activation(self, activation: Any, x: str) -> str:
        """Add what computes an activation."""
        match activation:
            case None:
                return x
            case Activation(kind=kind, alpha=alpha, beta=beta) if kind in _OPERATORS:
                operator, names = _OPERATORS[kind]
                return self.one(operator, x, **dict(zip(names, (alpha, beta), strict=False)))
            case Activation(kind="silu"):
                return self.one("Mul", x, self.one("Sigmoid", x))
            case Activation(kind="affine", alpha=alpha, beta=beta):
                return self.one("Add", self.one("Mul", x, self.constant(alpha)), self.constant(beta))
            case Activation(kind="scaled_tanh", alpha=alpha, beta=beta):
                inner = self.one("Tanh", self.one("Mul", x, self.constant(beta)))
                return self.one("Mul", inner, self.constant(alpha))
            case Activation(kind="gelu"):
                inner = self.one("Erf", self.one("Mul", x, self.constant(1.0 / math.sqrt(2.0))))
                return self._halved(x, inner)
            case Activation(kind="gelu_tanh"):
                cube = self.one("Mul", self.one("Mul", x, x), x)
                sums = self.one("Add", x, self.one("Mul", cube, self.constant(0.044715)))
                return self._halved(x, self.one("Tanh", self.one("Mul", sums, self.constant(math.sqrt(2.0 / math.pi)))))
            case Softmax(axis=axis):
                return self.one("Softmax", x, axis=axis)
            case LogSoftmax(axis=axis):
                return self.one("LogSoftmax", x, axis=axis)
            case ClippedReLU(negative_slope=0.0, threshold=0.0, max_value=most) if most is not None and most >= 0.0:
                return self._clipped(x, 0.0, most)
            case Composed(kind="relu6"):
                return self._clipped(x, 0.0, 6.0)
            case Composed(kind="hard_tanh"):
                return self._clipped(x, -1.0, 1.0)
            case Composed(kind="hard_silu"):
                return self.one("HardSwish", x)
            case Composed(kind="log_sigmoid"):
                return self.one("Neg", self.one("Softplus", self.one("Neg", x)))
            case Composed(kind="mish"):
                return self.one("Mul", x, self.one("Tanh", self.one("Softplus", x)))
        raise UnsupportedModelError(f"its activation {activation!r} has no counterpart")

    def _halved(self, x: str, inner: str) -> str:
        """Add 0.5 * x * (1 + inner)."""
        return self.one("Mul", self.one("Mul", x, self.constant(0.5)), self.one("Add", inner, self.constant(1.0)))

    def _clipped(self, x: str, least: float, most: float) -> str:
        return self.one("Clip", x, self.constant(least), self.constant(most))

    # --- LSTMs ------------------------------------------------------------------------------------------------------

    def lstm(self, weights: LSTMWeights, x: str, states: Sequence[str] = ()) -> tuple[str, list[tuple[str, str]]]:
        """Add the nodes of a stack on x (batch, time, features).

        Returns
        -------
        y, states
            (batch, time, directions * units), and (directions, batch, units) of h and c for each layer.
        """
        if states and (weights.num_layers > 1 or len(states) != 2 * weights.num_directions):
            raise UnsupportedModelError("an initial state of several cells has no counterpart")
        ends = []
        for cells in weights.cells:
            time_first = self.one("Transpose", x, perm=[1, 0, 2])
            initial = [self._joined([self._row(state) for state in states[place::2]], 0) for place in (0, 1)]
            inputs, attributes = self._cell_arguments(cells, weights.direction)
            first = [time_first, *inputs[:3], "", *(initial if states else ["", ""]), *inputs[3:]]
            y, h, c = self.add("LSTM", first, 3, **attributes)
            ends.append((h, c))
            side_by_side = self.one("Transpose", y, perm=[2, 0, 1, 3])
            x = self.one("Reshape", side_by_side, self.sizes(0, 0, weights.num_directions * weights.hidden_size))
        return x, ends

    def _row(self, state: str) -> str:
        return self.one("Unsqueeze", state, self.sizes(0))

    def _joined(self, parts: Sequence[str], axis: int) -> str:
        if not parts:
            return ""
        return parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=axis)[0]

    def _cell_arguments(self, cells: Sequence[CellWeights], direction: str) -> tuple[list[str], dict[str, Any]]:
        """Return W, R, B and P, and the attributes, of one layer."""
        first = cells[0]
        functions: list[str] = []
        parameters: dict[str, list[float]] = {"alpha": [], "beta": []}
        for cell in cells:
            gates = {cell.input_activation, cell.output_activation}
            if len(gates | ({cell.forget_activation} if not cell.coupled else set())) > 1:
                raise UnsupportedModelError("different activations of its three gates have no counterpart")
            for option in ("projection", "cell_clip"):
                if getattr(cell, option) is not None:
                    raise UnsupportedModelError(f"a {option} has no counterpart")
            if (cell.gate_clip, cell.coupled) != (first.gate_clip, first.coupled):
                raise UnsupportedModelError("directions of different options have no counterpart")
            for activation in (cell.input_activation, cell.cell_activation, cell.hidden_activation):
                if activation.kind not in _GATES:
                    raise UnsupportedModelError(f"the activation {activation.kind!r} of a cell has no counterpart")
                function, names = _GATES[activation.kind]
                functions.append(function)
                for name in names:
                    parameters[name].append(float(getattr(activation, name)))
        hidden = first.hidden_size
        biased = any(cell.bias is not None for cell in cells)
        peepholed = any(cell.peepholes is not None for cell in cells)

        def ordered(array: NDArray[Any], order: Sequence[int]) -> NDArray[Any]:
            """Return (n * hidden, ...) with its blocks in another order."""
            return array.reshape(len(order), hidden, *array.shape[1:])[list(order)].reshape(array.shape)

        def bias(cell: CellWeights) -> NDArray[Any]:
            sums = np.zeros(4 * hidden) if cell.bias is None else cell.bias
            return np.concatenate([ordered(sums, _GATE_ORDER), np.zeros(4 * hidden)])

        def peepholes(cell: CellWeights) -> NDArray[Any]:
            return (np.zeros(3 * hidden) if cell.peepholes is None else cell.peepholes[list(_PEEPHOLE_ORDER)]).ravel()

        inputs = [
            self.constant(np.stack([ordered(cell.kernel.T, _GATE_ORDER) for cell in cells]), "W"),
            self.constant(np.stack([ordered(cell.recurrent_kernel.T, _GATE_ORDER) for cell in cells]), "R"),
            self.constant(np.stack([bias(cell) for cell in cells]), "B") if biased else "",
        ]
        if peepholed:
            inputs.append(self.constant(np.stack([peepholes(cell) for cell in cells]), "P"))
        attributes: dict[str, Any] = {"hidden_size": hidden, "direction": direction, "activations": functions}
        attributes.update({f"activation_{name}": values for name, values in parameters.items() if values})
        if first.gate_clip is not None:
            attributes["clip"] = first.gate_clip
        if first.coupled:
            attributes["input_forget"] = 1
        return inputs, attributes

    def squeezed(self, state: str, place: int) -> str:
        """Add what takes one direction out of (directions, batch, units)."""
        return self.one("Gather", state, self.constant(np.int64(place), "place", np.int64), axis=0)

    def flipped(self, y: str) -> str:
        """Add what turns the time axis round."""
        return self.one("Slice", y, self.sizes(-1), self.sizes(np.iinfo(np.int64).min), self.sizes(1), self.sizes(-1))

    def merged(self, forward: str, backward: str, mode: str | None) -> list[str]:
        """Add what combines two directions."""
        if mode is None:
            return [forward, backward]
        if mode == "concat":
            return [self.one("Concat", forward, backward, axis=-1)]
        return [self.one({"sum": "Add", "mul": "Mul", "ave": "Mean"}[mode], forward, backward)]


def _axes(shape: Shape, prefix: str) -> list[int | str]:
    """Return the axes of an input, open ones by name."""
    open_names = {0: "batch", 1: f"{prefix}time"}
    return [open_names.get(axis, f"{prefix}axis_{axis}") if size is None else size for axis, size in enumerate(shape)]


# --- Layers -------------------------------------------------------------------------------------------------------


def _dense(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    y = to.one("MatMul", x[0], to.constant(layer.kernel, "kernel"))
    if layer.bias is not None:
        y = to.one("Add", y, to.constant(layer.bias, "bias"))
    return [to.activation(layer.activation, y)]


def _embedding(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    if layer.mask_zero:
        raise UnsupportedModelError("mask_zero=True makes a mask, and ONNX has none")
    return [to.one("Gather", to.constant(layer.table, "table"), x[0])]


def _activate(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    return [to.activation(layer.activation, x[0])]


def _identity(to: _Writer, node: Node, x: list[str]) -> list[str]:
    return x


def _batch_normalization(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    rank = len(node.input_shapes[0])
    shape = [-1 if axis == layer.axis % rank else 1 for axis in range(rank)]
    scale = 1.0 / np.sqrt(layer.variance.astype(np.float64) + layer.epsilon)
    if layer.gamma is not None:
        scale = scale * layer.gamma
    y = to.one("Sub", x[0], to.constant(layer.mean.reshape(shape), "mean"))
    y = to.one("Mul", y, to.constant(scale.reshape(shape), "scale"))
    return [y if layer.beta is None else to.one("Add", y, to.constant(layer.beta.reshape(shape), "beta"))]


def _layer_normalization(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    shape = node.input_shapes[0]
    axes = sorted({axis % len(shape) for axis in layer.axes})
    sizes = [shape[axis] for axis in axes]
    known = [size for size in sizes if size is not None]
    if layer.by_variance or axes != list(range(axes[0], len(shape))) or len(known) < len(sizes):
        raise UnsupportedModelError("it normalizes otherwise than over the last axes")
    gamma = np.ones(known) if layer.gamma is None else layer.gamma
    inputs = [x[0], to.constant(gamma, "gamma"), *([] if layer.beta is None else [to.constant(layer.beta, "beta")])]
    return to.add("LayerNormalization", inputs, axis=axes[0] - len(shape), epsilon=layer.epsilon)


def _merge(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    if len({len(shape) for shape in node.input_shapes}) > 1:
        raise UnsupportedModelError("it merges inputs of different ranks")
    if layer.kind != "Multiply":
        return to.add(_MERGES[layer.kind], x)
    product = x[0]
    for factor in x[1:]:
        product = to.one("Mul", product, factor)
    return [product]


def _concatenate(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    return to.add("Concat", x, axis=layer.axis)


def _flatten(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    if layer.channels_first and len(node.input_shapes[0]) > 2:
        raise UnsupportedModelError("data_format='channels_first' has no counterpart")
    # Unlike a Reshape to (0, -1) it takes an empty batch.
    return [to.one("Flatten", x[0], axis=1)]


def _reshape(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    # Known sizes rather than the -1 that stands for them, which nobody can work out for an empty batch.
    known = [size for size in node.output_shapes[0][1:] if size is not None]
    target = known if len(known) == len(layer.target) else layer.target
    return [to.one("Reshape", x[0], to.sizes(0, *target))]


def _permute(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    return [to.one("Transpose", x[0], perm=[0, *layer.axes])]


def _repeat_vector(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    return [to.one("Expand", to.one("Unsqueeze", x[0], to.sizes(1)), to.sizes(1, layer.steps, 1))]


def _last_step(to: _Writer, node: Node, x: list[str]) -> list[str]:
    return [to.one("Gather", x[0], to.constant(np.int64(-1), "last", np.int64), axis=1)]


def _pooling(operator: str) -> Callable[[_Writer, Node, list[str]], list[str]]:
    def write(to: _Writer, node: Node, x: list[str]) -> list[str]:
        layer: Any = node.layer
        return [to.one(operator, x[0], axes=[2 if layer.channels_first else 1], keepdims=int(layer.keep_axis))]

    return write


def _time_distributed(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    # These see the last axis alone, so that it does not matter how many there are before it.
    inner = layer.layer
    last_axis_alone = isinstance(inner, (Dense, Identity)) or (
        isinstance(inner, Activate) and getattr(inner.activation, "axis", -1) == -1
    )
    if not last_axis_alone:
        raise UnsupportedModelError(f"a TimeDistributed {inner.kind} has no counterpart")
    return _WRITERS[type(inner)](to, _with_layer(node, inner), x)


def _with_layer(node: Node, layer: Layer) -> Node:
    import dataclasses

    return dataclasses.replace(node, layer=layer)


def _lstm_layer(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    options = layer.options
    weights = layer.recurrence.stack(reverse=options.go_backwards)
    y, ends = to.lstm(weights, x[0], x[1:])
    if not options.return_sequences:
        y = to.squeezed(ends[-1][0], 0)
    elif options.go_backwards:
        y = to.flipped(y)
    states = [to.squeezed(state, 0) for pair in ends for state in pair] if options.return_state else []
    return [y, *states]


def _bidirectional(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    half = (len(x) - 1) // 2
    sides, states = [], []
    for place, inner in enumerate((layer.forward, layer.backward)):
        if not isinstance(inner, LSTMLayer):
            raise UnsupportedModelError(f"a Bidirectional {inner.kind} has no counterpart")
        made = _lstm_layer(to, _with_layer(node, inner), [x[0], *x[1 + place * half : 1 + (place + 1) * half]])
        sides.append(made[0])
        states += made[1:]
    if layer.options.return_sequences:
        # Keras turns the outputs of the second layer round, so that both run the first one's way.
        sides[1] = to.flipped(sides[1])
    return [*to.merged(sides[0], sides[1], layer.merge_mode), *states]


def _lstm_stack(to: _Writer, node: Node, x: list[str]) -> list[str]:
    layer: Any = node.layer
    lstm = layer.lstm
    y, ends = to.lstm(lstm.weights, x[0])
    final = isinstance(layer, FinalHidden)
    if lstm.num_directions == 1:
        return [to.squeezed(ends[-1][0], 0) if final else y]
    if final:
        sides = [to.squeezed(ends[-1][0], place) for place in (0, 1)]
    elif lstm.merge_mode == "concat":
        return [y]
    else:
        size = lstm.output_size
        sides = to.add("Split", [y, to.sizes(size, size)], 2, axis=-1)
    return to.merged(sides[0], sides[1], lstm.merge_mode)


#: What writes each layer.
_WRITERS: Final[dict[type, Callable[[_Writer, Node, list[str]], list[str]]]] = {
    Activate: _activate,
    BatchNormalization: _batch_normalization,
    BidirectionalLayer: _bidirectional,
    Concatenate: _concatenate,
    Dense: _dense,
    Embedding: _embedding,
    FinalHidden: _lstm_stack,
    Flatten: _flatten,
    GlobalAveragePooling1D: _pooling("ReduceMean"),
    GlobalMaxPooling1D: _pooling("ReduceMax"),
    Identity: _identity,
    LSTMLayer: _lstm_layer,
    LSTMStack: _lstm_stack,
    LastStep: _last_step,
    LayerNormalization: _layer_normalization,
    Merge: _merge,
    Permute: _permute,
    RepeatVector: _repeat_vector,
    Reshape: _reshape,
    TimeDistributed: _time_distributed,
}
