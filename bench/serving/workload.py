"""What each stream is fed, and what must come back: the bits of the same stream run alone."""

from __future__ import annotations

from typing import Any

import numpy as np

import lstm_engine as le
from bench.cells import Cell
from bench.contender import Array
from bench.peers.onnx_model import onnx_model

__all__ = ["Workload", "onnx_session"]

#: Inputs repeat after so many steps, which is no multiple of anything.
_PERIOD = 4099


def onnx_session(model: bytes) -> Any:
    """Return a session on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class Workload:
    """One layer of LSTM, and a series of inputs for each stream.

    Parameters
    ----------
    features, hidden
        Its sizes.
    """

    def __init__(self, features: int, hidden: int) -> None:
        self.features, self.hidden = features, hidden
        self.cell = Cell(1, 1, features, hidden)
        self._x = np.random.default_rng(7).standard_normal((_PERIOD, features), dtype=np.float32)

    def lstm(self) -> le.LSTM:
        """Return the model."""
        return le.LSTM(self.cell.weights())

    def onnx(self) -> bytes:
        """Return the model for ONNX Runtime, with its state as inputs and outputs."""
        return onnx_model(self.cell)

    def inputs(self, stream: int, steps: int) -> Array:
        """Return the first steps of a stream: (steps, features)."""
        return self._x[(37 * stream + np.arange(steps)) % _PERIOD]

    def sample(self, stream: int, step: int) -> Array:
        """Return one step of a stream."""
        row: Array = self._x[(37 * stream + step) % _PERIOD]
        return row

    def alone(self, engine: str, stream: int, steps: int) -> bytes:
        """Return the outputs of a stream that has an engine for itself, step after step."""
        x = self.inputs(stream, steps)
        if engine == "lstm_engine":
            result: bytes = self.lstm().stream().run(x).tobytes()
            return result
        session, outputs = onnx_session(self.onnx()), []
        state = {name: np.zeros((1, 1, self.hidden), np.float32) for name in ("h0", "c0")}
        for row in x:
            y, state["h0"], state["c0"] = session.run(["y", "hn0", "cn0"], {"x": row[None, None], **state})
            outputs.append(y.tobytes())
        return b"".join(outputs)
