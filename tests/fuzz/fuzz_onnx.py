"""Fuzz ONNX files, from the protobuf to a model that is ready to run, and to what a small call of it gives.

Among the seeds are graphs with loops and branches, recorded ones and ``y_onnx_loop.onnx`` and ``y_onnx_branch.onnx``.
"""

from __future__ import annotations

import math

import numpy as np
from fuzzing import atheris, fixtures, fuzz

with atheris.instrument_imports(include=["lstm_engine"]):
    from lstm_engine.formats.limits import Limits, reading
    from lstm_engine.formats.onnx import read_onnx_bytes
    from lstm_engine.onnx.model import build_onnx_model


#: Of a call: what a loop without an end runs is over soon.
LIMITS = Limits(onnx_value_bytes=1 << 20, onnx_loop_nodes=2_000)

#: Elements of the largest input that is made for a call.
MOST = 1 << 12


def read(data: bytes) -> None:
    with reading(LIMITS, False):
        model = build_onnx_model(read_onnx_bytes(data, "fuzzed.onnx"))
    shapes = [tuple(2 if size is None else size for size in spec.shape) for spec in model.inputs]
    if all(math.prod(size or 1 for size in shape) <= MOST for shape in shapes):
        model(*(np.ones(shape, spec.dtype) for shape, spec in zip(shapes, model.inputs, strict=True)))


if __name__ == "__main__":
    fuzz(read, fixtures("*.onnx"))
