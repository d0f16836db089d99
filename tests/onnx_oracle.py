"""The recurrent operators of ONNX in float64, written as in its operator document, and models of one such node."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}

TAKES_ALPHA = ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu")
TAKES_BETA = ("Affine", "ScaledTanh", "HardSigmoid")
ALPHAS = {"LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "HardSigmoid": 0.2, "Elu": 1.0}

FUNCTIONS: dict[str, Callable[[Array, float, float], Any]] = {
    "Relu": lambda x, a, b: np.maximum(x, 0),
    "Tanh": lambda x, a, b: np.tanh(x),
    "Sigmoid": lambda x, a, b: 1 / (1 + np.exp(-x)),
    "Affine": lambda x, a, b: a * x + b,
    "LeakyRelu": lambda x, a, b: np.where(x >= 0, x, a * x),
    "ThresholdedRelu": lambda x, a, b: np.where(x >= a, x, 0),
    "ScaledTanh": lambda x, a, b: a * np.tanh(b * x),
    "HardSigmoid": lambda x, a, b: np.minimum(np.maximum(a * x + b, 0), 1),
    "Elu": lambda x, a, b: np.where(x >= 0, x, a * (np.exp(x) - 1)),
    "Softsign": lambda x, a, b: x / (1 + np.abs(x)),
    "Softplus": lambda x, a, b: np.log(1 + np.exp(x)),
}


def activations(operator: str, attributes: dict[str, Any], directions: int) -> list[Callable[[Array], Any]]:
    """Return the activations, alphas and betas consumed in order by those that take one."""
    names = attributes.get("activations", DEFAULTS[operator] * directions)
    alphas = iter(np.float32(attributes.get("activation_alpha", ())))
    betas = iter(np.float32(attributes.get("activation_beta", ())))
    found: list[Callable[[Array], Any]] = []
    for name in names:
        # What the file says is float32.
        alpha = float(next(alphas, ALPHAS.get(name, 0.0))) if name in TAKES_ALPHA else 0.0
        beta = float(next(betas, 0.5)) if name in TAKES_BETA else 0.0
        found.append(lambda x, f=FUNCTIONS[name], a=alpha, b=beta: f(x, a, b))
    return found


def run(operator: str, attributes: dict[str, Any], values: dict[str, Array]) -> list[Array]:
    """Return Y, Y_h and for an LSTM Y_c."""
    double = {name: value.astype(np.float64) for name, value in values.items()}
    first = attributes.get("layout", 0) == 1
    x = double["X"].swapaxes(0, 1) if first else double["X"]
    w, r = double["W"], double["R"]
    directions, hidden, gates = w.shape[0], r.shape[2], GATES[operator]
    time, batch, _ = x.shape
    b = double.get("B", np.zeros((directions, 2 * gates * hidden)))
    p = double.get("P", np.zeros((directions, 3 * hidden)))
    lengths = values.get("sequence_lens", np.full(batch, time))
    zeros = np.zeros((directions, batch, hidden))
    h0, c0 = (
        (double[name].swapaxes(0, 1) if first else double[name]) if name in double else zeros
        for name in ("initial_h", "initial_c")
    )
    functions = activations(operator, attributes, directions)
    each = len(functions) // directions
    y = np.zeros((time, directions, batch, hidden))
    h_n, c_n = zeros.copy(), zeros.copy()
    for direction in range(directions):
        backward = direction == 1 or attributes.get("direction") == "reverse"
        own = functions[direction * each : (direction + 1) * each]
        for row in range(batch):
            h, c = h0[direction, row], c0[direction, row]
            steps = range(int(lengths[row]))
            for now in reversed(steps) if backward else steps:
                weights = (w[direction], r[direction], b[direction], p[direction])
                weights = (w[direction], r[direction], b[direction], p[direction])
                h, c = step(operator, attributes, own, x[now, row], h, c, *weights)
                y[now, direction, row] = h
            h_n[direction, row], c_n[direction, row] = h, c
    if first:
        y, h_n, c_n = y.transpose(2, 0, 1, 3), h_n.swapaxes(0, 1), c_n.swapaxes(0, 1)
    return [y, h_n, c_n] if operator == "LSTM" else [y, h_n]


def step(
    operator: str, attributes: dict[str, Any], functions: list[Callable[[Array], Any]],
    x: Array, h: Array, c: Array, w: Array, r: Array, b: Array, p: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the states after one step of one row."""
    bound = attributes.get("clip", np.inf)
    gates = GATES[operator]
    size = h.shape[0]
    ws, rs = w.reshape(gates, size, -1), r.reshape(gates, size, size)
    wb, rb = b.reshape(2, gates, size)

    def act(place: int, value: Array) -> Array:
        return np.asarray(functions[place](np.clip(value, -bound, bound)))

    if operator == "RNN":
        return act(0, ws[0] @ x + rs[0] @ h + wb[0] + rb[0]), c
    if operator == "GRU":
        z = act(0, ws[0] @ x + rs[0] @ h + wb[0] + rb[0])
        reset = act(0, ws[1] @ x + rs[1] @ h + wb[1] + rb[1])
        if attributes.get("linear_before_reset"):
            new = act(1, ws[2] @ x + reset * (rs[2] @ h + rb[2]) + wb[2])
        else:
            new = act(1, ws[2] @ x + rs[2] @ (reset * h) + rb[2] + wb[2])
        return (1 - z) * new + z * h, c
    pi, po, pf = p.reshape(3, size)
    i = act(0, ws[0] @ x + rs[0] @ h + pi * c + wb[0] + rb[0])
    f = act(0, ws[2] @ x + rs[2] @ h + pf * c + wb[2] + rb[2])
    if attributes.get("input_forget"):
        f = 1 - i
    new_c = f * c + i * act(1, ws[3] @ x + rs[3] @ h + wb[3] + rb[3])
    o = act(0, ws[1] @ x + rs[1] @ h + po * new_c + wb[1] + rb[1])
    # The bound is on the gates alone, as in ONNX Runtime.
    return np.asarray(o * functions[2](new_c)), new_c


def recurrent_model(
    operator: str, attributes: dict[str, Any], sizes: tuple[int, ...], given: Collection[str], constant: bool,
    seed: int, *, hidden: bool = True, opset: int = 22,
) -> tuple[Any, list[Array], dict[str, Array]]:  # fmt: skip
    """Return a model of one node with random weights, its inputs, and all values by name."""
    random = np.random.default_rng(seed)
    time, batch, features, size = sizes
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    gates = GATES[operator]
    first = attributes.get("layout", 0) == 1
    state = (batch, directions, size) if first else (directions, batch, size)
    shapes = {
        "X": (batch, time, features) if first else (time, batch, features),
        "W": (directions, gates * size, features),
        "R": (directions, gates * size, size),
        "B": (directions, 2 * gates * size),
        "sequence_lens": (batch,),
        "initial_h": state,
        "initial_c": state,
        "P": (directions, 3 * size),
    }
    order = list(shapes)[: 8 if operator == "LSTM" else 6]
    values = {
        name: random.uniform(-1, 1, shapes[name]).astype(np.float32)
        for name in order
        if name in ("X", "W", "R") or name in given
    }
    if "sequence_lens" in values:
        values["sequence_lens"] = random.integers(0, time + 1, batch).astype(np.int32)
    weights = {"W", "R", "B", "P"} if constant else set()
    types = {name: TensorProto.INT32 if name == "sequence_lens" else TensorProto.FLOAT for name in values}
    outputs = ["Y", "Y_h", "Y_c"][: 3 if operator == "LSTM" else 2]
    given_size = {"hidden_size": size} if hidden else {}
    node = helper.make_node(
        operator, [name if name in values else "" for name in order], outputs, name="cell", **given_size, **attributes
    )
    inputs = [name for name in values if name not in weights]
    graph = helper.make_graph(
        [node],
        "recurrent",
        [helper.make_tensor_value_info(name, types[name], values[name].shape) for name in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * (4 - (name != "Y"))) for name in outputs],
        [numpy_helper.from_array(values[name], name) for name in values if name in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return model, [values[name] for name in inputs], values
