"""Other engines as contenders, each driven the way its documentation says is fastest, on one thread.

A peer that is not installed is left out by :func:`installed`; nothing here is needed to run lstm_engine.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np

from lstm_engine.weights import CellWeights, LSTMWeights

from .cells import Cell
from .contender import Array, Contender, Outputs

__all__ = ["ENGINES", "NumPy", "contenders", "installed", "onnx_model"]

#: Peers by column, with the modules that each needs.
ENGINES: Final[dict[str, tuple[str, ...]]] = {
    "onnxruntime": ("onnxruntime", "onnx"),
    "torch": ("torch",),
    "numpy": ("numpy",),
}


def installed(engine: str) -> bool:
    """Return whether the modules that a peer needs can be imported."""
    return all(importlib.util.find_spec(module) is not None for module in ENGINES[engine])


def contenders(engine: str, cell: Cell) -> tuple[type[Contender], ...]:
    """Return the ways to drive a peer on a cell that are worth timing; the fastest counts.

    Empty where the peer makes no sense: NumPy stands for "no engine at all" and is timed on small cells only.
    """
    if engine == "onnxruntime":
        # Binding outputs once saves an allocation; on large batches both are the same, and time is short.
        return (OnnxRuntimeBound,) if cell.group == "batch" else (OnnxRuntimeBound, OnnxRuntimeRun)
    if engine == "torch":
        return (Torch, TorchCell) if cell.group == "step" else (Torch,)
    return (NumPy,) if cell.batch == 1 and cell.hidden <= 64 else ()


# --- ONNX Runtime


def onnx_model(weights: LSTMWeights, *, states: bool) -> bytes:
    """Return an ONNX model of LSTM nodes, time major, with inputs ``x`` and, if ``states``, ``h0``, ``c0``, ``h1``, ...

    Outputs are ``y`` (time, batch, directions * hidden) and, for each layer, ``hn0``, ``cn0``, ...; each state is
    (directions, batch, hidden).
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    directions, hidden = weights.num_directions, weights.hidden_size

    def gates(array: Array) -> Array:
        """Ours are input, forget, cell, output along the last axis; ONNX has input, output, forget, cell first."""
        i, f, g, o = np.split(np.asarray(array, np.float32).T, 4)
        return np.concatenate([i, o, f, g])

    def bias(cell: CellWeights) -> Array:
        own = np.zeros(4 * hidden, np.float32) if cell.bias is None else cell.bias
        return np.concatenate([gates(own), np.zeros(4 * hidden, np.float32)])

    nodes, initializers = [], []
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", "batch", weights.input_size])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["time", "batch", directions * hidden])]
    initializers.append(numpy_helper.from_array(np.array([0, 0, -1], np.int64), "merged_shape"))
    source = "x"
    for layer, cells in enumerate(weights.cells):
        for letter, arrays in (
            ("W", [gates(cell.kernel) for cell in cells]),
            ("R", [gates(cell.recurrent_kernel) for cell in cells]),
            ("B", [bias(cell) for cell in cells]),
        ):
            initializers.append(numpy_helper.from_array(np.stack(arrays), f"{letter}{layer}"))
        given = [source, f"W{layer}", f"R{layer}", f"B{layer}"]
        if states:
            given += ["", f"h{layer}", f"c{layer}"]
        for letter in "hc":
            shape: list[str | int | None] = [directions, "batch", hidden]
            outputs.append(helper.make_tensor_value_info(f"{letter}n{layer}", TensorProto.FLOAT, shape))
            if states:
                inputs.append(helper.make_tensor_value_info(f"{letter}{layer}", TensorProto.FLOAT, shape))
        results = [f"separate{layer}", f"hn{layer}", f"cn{layer}"]
        direction = weights.direction
        nodes.append(helper.make_node("LSTM", given, results, hidden_size=hidden, direction=direction))
        # (time, directions, batch, hidden) to (time, batch, directions * hidden), as torch.onnx.export does it.
        source = "y" if layer == weights.num_layers - 1 else f"merged{layer}"
        nodes.append(helper.make_node("Transpose", [results[0]], [f"turned{layer}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"turned{layer}", "merged_shape"], [source]))
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized


class _OnnxRuntime(Contender):
    engine = "onnxruntime"

    def __init__(self, cell: Cell) -> None:
        import onnxruntime

        super().__init__(cell)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._streaming = cell.group == "step"
        model = onnx_model(cell.weights(), states=self._streaming)
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._x = np.zeros((cell.time, cell.batch, cell.features), np.float32)
        self._states = [f"{letter}{layer}" for layer in range(cell.layers) for letter in "hc"]
        self._results = ["y", *(f"{name[0]}n{name[1:]}" for name in self._states)]

    def feed(self, x: Array) -> None:
        self._x[...] = x.swapaxes(0, 1)

    def _zero_state(self) -> Array:
        return np.zeros((self.cell.directions, self.cell.batch, self.cell.hidden), np.float32)

    def _outputs(self, results: list[Array]) -> Outputs:
        y, *states = results
        h, c = np.concatenate(states[0::2]), np.concatenate(states[1::2])
        return Outputs(y.swapaxes(0, 1).copy(), h, c)


class OnnxRuntimeRun(_OnnxRuntime):
    """``session.run`` with arrays in and out; the states that come out go in again."""

    variant = "run"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.reset()

    @property
    def statement(self) -> str:
        if not self._streaming:
            return "run(results, feed)"
        feed = ", ".join(f"{name!r}: {name}" for name in ("x", *self._states))
        return f"y, {', '.join(self._states)} = run(results, {{{feed}}})"

    @property
    def names(self) -> Mapping[str, object]:
        return {"run": self._session.run, "results": self._results, "feed": {"x": self._x}, **self._feed}

    def reset(self) -> None:
        self._feed: dict[str, Array] = {"x": self._x}
        if self._streaming:
            self._feed |= {name: self._zero_state() for name in self._states}

    def advance(self) -> Outputs:
        results = self._session.run(self._results, self._feed)
        if self._streaming:
            self._feed |= dict(zip(self._states, results[1:], strict=True))
        return self._outputs(results)


class OnnxRuntimeBound(_OnnxRuntime):
    """``run_with_iobinding``: every buffer bound once; for steps two bindings take turns, each the other's states."""

    variant = "IOBinding"

    def __init__(self, cell: Cell) -> None:
        import onnxruntime

        super().__init__(cell)
        # On a CPU an OrtValue made from an array is that array: writing to the array is feeding the binding.
        value = onnxruntime.OrtValue.ortvalue_from_numpy
        x = value(self._x)
        self._y = np.zeros((cell.time, cell.batch, cell.directions * cell.hidden), np.float32)
        y = value(self._y)
        # A kernel may write its final state before it has read the last of the initial one, so there are two sets.
        self._sets = [[self._zero_state() for _ in self._states] for _ in range(2)]
        values = [[value(state) for state in states] for states in self._sets]
        self._bindings = []
        for turn in range(2 if self._streaming else 1):
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("x", x)
            binding.bind_ortvalue_output("y", y)
            for place, name in enumerate(self._states):
                if self._streaming:
                    binding.bind_ortvalue_input(name, values[turn][place])
                binding.bind_ortvalue_output(self._results[1 + place], values[1 - turn][place])
            self._bindings.append(binding)
        self._turns = itertools.cycle(range(len(self._bindings)))

    @property
    def statement(self) -> str:
        return "run(next(bindings))" if self._streaming else "run(binding)"

    @property
    def names(self) -> Mapping[str, object]:
        run = self._session.run_with_iobinding
        if self._streaming:
            return {"run": run, "next": next, "bindings": itertools.cycle(self._bindings)}
        return {"run": run, "binding": self._bindings[0]}

    def reset(self) -> None:
        self._turns = itertools.cycle(range(len(self._bindings)))
        for state in self._sets[0]:
            state[...] = 0.0

    def advance(self) -> Outputs:
        turn = next(self._turns)
        self._session.run_with_iobinding(self._bindings[turn])
        return self._outputs([self._y, *self._sets[1 - turn]])


# --- PyTorch


class _Torch(Contender):
    engine = "torch"

    def __init__(self, cell: Cell) -> None:
        import torch

        super().__init__(cell)
        torch.set_num_threads(1)
        self._torch: Any = torch
        # Time first is nn.LSTM's own layout; with batch_first it transposes.
        self._x: Any = torch.zeros(cell.time, cell.batch, cell.features)
        self._states: Any = None

    def context(self) -> AbstractContextManager[object]:
        mode: AbstractContextManager[object] = self._torch.inference_mode()
        return mode

    def _tensor(self, array: Array | None) -> Any:
        return self._torch.from_numpy(np.array(array, dtype=np.float32, order="C"))

    def _zero_state(self, *shape: int) -> tuple[Any, Any]:
        return self._torch.zeros(*shape), self._torch.zeros(*shape)


class Torch(_Torch):
    """``nn.LSTM``, eager, in inference mode."""

    variant = "nn.LSTM"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        lstm = self._torch.nn.LSTM(cell.features, cell.hidden, cell.layers, bidirectional=cell.bidirectional)
        parameters = {}
        for layer, cells in enumerate(cell.weights().cells):
            for suffix, own in zip(("", "_reverse"), cells, strict=False):
                name = f"l{layer}{suffix}"
                parameters[f"weight_ih_{name}"] = self._tensor(own.kernel.T)
                parameters[f"weight_hh_{name}"] = self._tensor(own.recurrent_kernel.T)
                parameters[f"bias_ih_{name}"] = self._tensor(own.bias)
                parameters[f"bias_hh_{name}"] = self._torch.zeros(4 * cell.hidden)
        lstm.load_state_dict(parameters)
        self._lstm = lstm.eval()
        self.reset()

    @property
    def statement(self) -> str:
        return "y, state = lstm(x, state)" if self.cell.group == "step" else "lstm(x)"

    @property
    def names(self) -> Mapping[str, object]:
        return {"lstm": self._lstm, "x": self._x, "state": self._states}

    def feed(self, x: Array) -> None:
        self._x.copy_(self._tensor(x.swapaxes(0, 1)))

    def reset(self) -> None:
        self._states = self._zero_state(self.cell.layers * self.cell.directions, self.cell.batch, self.cell.hidden)

    def advance(self) -> Outputs:
        if self.cell.group == "step":
            y, self._states = self._lstm(self._x, self._states)
            h, c = self._states
        else:
            y, (h, c) = self._lstm(self._x)
        return Outputs(y.numpy().swapaxes(0, 1).copy(), h.numpy().copy(), c.numpy().copy())


class TorchCell(_Torch):
    """``nn.LSTMCell``, eager, in inference mode: what PyTorch offers for single steps."""

    variant = "nn.LSTMCell"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self._x = self._x[0]
        self._cells = []
        for (own,) in cell.weights().cells:
            layer = self._torch.nn.LSTMCell(own.input_size, own.hidden_size)
            parameters = {
                "weight_ih": self._tensor(own.kernel.T),
                "weight_hh": self._tensor(own.recurrent_kernel.T),
                "bias_ih": self._tensor(own.bias),
                "bias_hh": self._torch.zeros(4 * own.hidden_size),
            }
            layer.load_state_dict(parameters)
            self._cells.append(layer.eval())
        self.reset()

    @property
    def statement(self) -> str:
        calls, source = [], "x"
        for layer in range(self.cell.layers):
            calls.append(f"s{layer} = cell{layer}({source}, s{layer})")
            source = f"s{layer}[0]"
        return "; ".join(calls)

    @property
    def names(self) -> Mapping[str, object]:
        names: dict[str, object] = {"x": self._x}
        for layer, (cell, state) in enumerate(zip(self._cells, self._states, strict=True)):
            names |= {f"cell{layer}": cell, f"s{layer}": state}
        return names

    def feed(self, x: Array) -> None:
        self._x.copy_(self._tensor(x[:, 0]))

    def reset(self) -> None:
        self._states = [self._zero_state(self.cell.batch, self.cell.hidden) for _ in self._cells]

    def advance(self) -> Outputs:
        source = self._x
        for layer, cell in enumerate(self._cells):
            self._states[layer] = cell(source, self._states[layer])
            source = self._states[layer][0]
        h, c = (np.stack([state[which].numpy() for state in self._states]) for which in (0, 1))
        return Outputs(h[-1][:, None].copy(), h, c)


# --- NumPy


class NumPy(Contender):
    """What a careful person writes without an engine: the gates in one product, float32, one row at a time."""

    engine = "numpy"
    variant = "loop"

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        if cell.batch != 1 or cell.directions != 1 or cell.layers != 1:
            raise ValueError(f"numpy: expected one row, layer and direction, found {cell.name}")
        ((own,),) = cell.weights().cells
        self._kernel, self._recurrent, self._bias = own.kernel, own.recurrent_kernel, own.bias
        self._x = np.zeros((cell.time, cell.features), np.float32)
        self.reset()

    @property
    def statement(self) -> str:
        return "call()"

    @property
    def names(self) -> Mapping[str, object]:
        return {"call": self._call}

    def feed(self, x: Array) -> None:
        self._x[...] = x[0]

    def reset(self) -> None:
        self._h = np.zeros(self.cell.hidden, np.float32)
        self._c = np.zeros(self.cell.hidden, np.float32)

    def _call(self) -> Array:
        units = self.cell.hidden
        if self.cell.time > 1:
            self.reset()
        h, c, recurrent = self._h, self._c, self._recurrent
        projected = self._x @ self._kernel + self._bias
        y = np.empty((self.cell.time, units), np.float32)
        for step in range(self.cell.time):
            z = projected[step] + h @ recurrent
            gates = 1.0 / (1.0 + np.exp(-z))
            # The sigmoid of the candidate's quarter is computed in vain; one call for all four is still faster.
            candidate = np.tanh(z[2 * units : 3 * units])
            c = gates[units : 2 * units] * c + gates[:units] * candidate
            h = gates[3 * units :] * np.tanh(c)
            y[step] = h
        self._h, self._c = h, c
        return y

    def advance(self) -> Outputs:
        y = self._call()
        return Outputs(y[None].copy(), self._h[None, None].copy(), self._c[None, None].copy())
