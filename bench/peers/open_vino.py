"""OpenVINO: the ONNX model with fixed shapes, compiled for latency; a stream's state stays inside the model."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.cells import Cell
from bench.contender import Array, Contender, Outputs

from .onnx_model import onnx_model

__all__ = ["contenders"]


def contenders(cell: Cell) -> tuple[type[Contender], ...] | str:
    """Return the one way, or why there is none."""
    return "no int8 LSTM without a model quantized by NNCF" if cell.compute_type == "int8" else (OpenVino,)


class OpenVino(Contender):
    """One inference request whose tensors are our arrays."""

    engine = "openvino"
    variant = "infer"

    def __init__(self, cell: Cell) -> None:
        import openvino
        import openvino.passes

        super().__init__(cell)
        core = openvino.Core()
        model = core.read_model(io.BytesIO(onnx_model(cell)))
        state = [cell.directions, cell.batch, cell.hidden]
        shapes = {"x": [cell.time, cell.batch, cell.features]}
        pairs = {f"{letter}{layer}": f"{letter}n{layer}" for layer in range(cell.layers) for letter in "hc"}
        if cell.streaming:
            shapes |= dict.fromkeys(pairs, state)
        if cell.ragged:
            shapes["lengths"] = [cell.batch]
        model.reshape(shapes)
        if cell.streaming:
            passes = openvino.passes.Manager()
            passes.register_pass(openvino.passes.MakeStateful(pairs))
            passes.run_passes(model)
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": cell.threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "bf16" if cell.compute_type == "bfloat16" else "f32",
            # We choose the CPUs, for everybody alike.
            "ENABLE_CPU_PINNING": False,
        }
        self._request: Any = core.compile_model(model, "CPU", settings).create_infer_request()
        self._x = np.zeros((cell.time, cell.batch, cell.features), np.float32)
        self._request.set_tensor("x", openvino.Tensor(self._x, shared_memory=True))
        lengths = cell.lengths()
        if lengths is not None:
            self._lengths = lengths.astype(np.int32)
            self._request.set_tensor("lengths", openvino.Tensor(self._lengths, shared_memory=True))

    @property
    def statement(self) -> str:
        return "infer()"

    @property
    def names(self) -> Mapping[str, object]:
        return {"infer": self._request.infer}

    def feed(self, x: Array) -> None:
        self._x[...] = x.swapaxes(0, 1)

    def reset(self) -> None:
        if self.cell.streaming:
            self._request.reset_state()

    def advance(self) -> Outputs:
        self._request.infer()
        return Outputs(np.array(self._request.get_tensor("y").data, np.float32).swapaxes(0, 1).copy())
