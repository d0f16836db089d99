"""ONNX Runtime: ``LSTM`` nodes in float32, and what ``quantize_dynamic`` makes of them (``DynamicQuantizeLSTM``)."""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.cells import Cell
from bench.contender import Array, Contender, Outputs

from .onnx_model import onnx_model

__all__ = ["contenders"]


def contenders(cell: Cell) -> tuple[type[Contender], ...] | str:
    """Return the ways that are worth timing on a cell, or why there is none."""
    if cell.compute_type == "bfloat16":
        return "no bfloat16 LSTM on CPUs"
    # Binding outputs once saves an allocation; on large batches both are the same, and time is short.
    return (OnnxRuntimeBound,) if cell.batch > 1 else (OnnxRuntimeBound, OnnxRuntimeRun)


def quantized(model: bytes) -> bytes:
    """Return the model with int8 weights per channel, as the documentation of ONNX Runtime says for LSTMs."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # It advises, at each call, a preparation that is for convolutions.
    logging.getLogger().setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "quantized.onnx"
        quantize_dynamic(onnx.load_from_string(model), path, weight_type=QuantType.QInt8, per_channel=True)
        return path.read_bytes()


class _OnnxRuntime(Contender):
    engine = "onnxruntime"

    def __init__(self, cell: Cell) -> None:
        import onnxruntime

        super().__init__(cell)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = cell.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        model = onnx_model(cell)
        if cell.compute_type == "int8":
            model = quantized(model)
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._x = np.zeros((cell.time, cell.batch, cell.features), np.float32)
        self._lengths = cell.lengths()
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
        if not self.cell.streaming:
            return "run(results, feed)"
        feed = ", ".join(f"{name!r}: {name}" for name in ("x", *self._states))
        return f"y, {', '.join(self._states)} = run(results, {{{feed}}})"

    @property
    def names(self) -> Mapping[str, object]:
        feed = self._feed
        return {"run": self._session.run, "results": self._results, "feed": feed, **feed}

    def reset(self) -> None:
        self._feed: dict[str, Any] = {"x": self._x}
        if self._lengths is not None:
            self._feed["lengths"] = self._lengths.astype(np.int32)
        if self.cell.streaming:
            self._feed |= {name: self._zero_state() for name in self._states}

    def advance(self) -> Outputs:
        results = self._session.run(self._results, self._feed)
        if self.cell.streaming:
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
        self._y = np.zeros((cell.time, cell.batch, cell.output_size), np.float32)
        y = value(self._y)
        # A kernel may write its final state before it has read the last of the initial one, so there are two sets.
        self._sets = [[self._zero_state() for _ in self._states] for _ in range(2)]
        values = [[value(state) for state in states] for states in self._sets]
        self._bindings = []
        for turn in range(2 if self.cell.streaming else 1):
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("x", x)
            binding.bind_ortvalue_output("y", y)
            if self._lengths is not None:
                binding.bind_ortvalue_input("lengths", value(self._lengths.astype(np.int32)))
            for place, name in enumerate(self._states):
                if self.cell.streaming:
                    binding.bind_ortvalue_input(name, values[turn][place])
                binding.bind_ortvalue_output(self._results[1 + place], values[1 - turn][place])
            self._bindings.append(binding)
        self._turns = itertools.cycle(range(len(self._bindings)))

    @property
    def statement(self) -> str:
        return "run(next(bindings))" if self.cell.streaming else "run(binding)"

    @property
    def names(self) -> Mapping[str, object]:
        run = self._session.run_with_iobinding
        if self.cell.streaming:
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
