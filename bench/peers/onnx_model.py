"""The cells as ONNX models, for the engines that read those."""

from __future__ import annotations

import numpy as np

from bench.cells import Cell
from bench.contender import Array
from lstm_engine.weights import CellWeights

__all__ = ["onnx_model"]


def onnx_model(cell: Cell) -> bytes:
    """Return an ONNX model of LSTM nodes, time major, with inputs ``x`` and, for a stream, ``h0``, ``c0``, ``h1``, ...

    Where rows have lengths, they are the input ``lengths``, (batch,) of int32. Outputs are ``y`` (time, batch, outputs)
    and, for each layer, ``hn0``, ``cn0``, ...; each state is (directions, batch, hidden).
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    weights, states = cell.weights(), cell.streaming
    directions, hidden = cell.directions, cell.hidden

    def gates(array: Array) -> Array:
        """Ours are input, forget, cell, output along the last axis; ONNX has input, output, forget, cell first."""
        i, f, g, o = np.split(np.asarray(array, np.float32).T, 4)
        return np.concatenate([i, o, f, g])

    def bias(of: CellWeights) -> Array:
        own = np.zeros(4 * hidden, np.float32) if of.bias is None else of.bias
        return np.concatenate([gates(own), np.zeros(4 * hidden, np.float32)])

    nodes, initializers = [], []
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["time", "batch", weights.input_size])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["time", "batch", cell.output_size])]
    initializers.append(numpy_helper.from_array(np.array([0, 0, -1], np.int64), "merged_shape"))
    lengths = ""
    if cell.ragged:
        lengths = "lengths"
        inputs.append(helper.make_tensor_value_info(lengths, TensorProto.INT32, ["batch"]))
    source = "x"
    for layer, cells in enumerate(weights.cells):
        for letter, arrays in (
            ("W", [gates(own.kernel) for own in cells]),
            ("R", [gates(own.recurrent_kernel) for own in cells]),
            ("B", [bias(own) for own in cells]),
        ):
            initializers.append(numpy_helper.from_array(np.stack(arrays), f"{letter}{layer}"))
        given = [source, f"W{layer}", f"R{layer}", f"B{layer}"]
        if states or lengths:
            given.append(lengths)
        if states:
            given += [f"h{layer}", f"c{layer}"]
        for letter in "hc":
            shape: list[str | int | None] = [directions, "batch", hidden]
            outputs.append(helper.make_tensor_value_info(f"{letter}n{layer}", TensorProto.FLOAT, shape))
            if states:
                inputs.append(helper.make_tensor_value_info(f"{letter}{layer}", TensorProto.FLOAT, shape))
        results = [f"separate{layer}", f"hn{layer}", f"cn{layer}"]
        direction = weights.direction
        nodes.append(helper.make_node("LSTM", given, results, hidden_size=hidden, direction=direction))
        # (time, directions, batch, hidden) to (time, batch, directions * hidden), as torch.onnx.export does it.
        source = "y" if layer == cell.layers - 1 and not cell.dense else f"merged{layer}"
        nodes.append(helper.make_node("Transpose", [results[0]], [f"turned{layer}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"turned{layer}", "merged_shape"], [source]))
    if cell.dense:
        for name, array in zip(("dense_kernel", "dense_bias"), cell.dense_weights(), strict=True):
            initializers.append(numpy_helper.from_array(array, name))
        nodes.append(helper.make_node("MatMul", [source, "dense_kernel"], ["product"]))
        nodes.append(helper.make_node("Add", ["product", "dense_bias"], ["y"]))
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    serialized: bytes = model.SerializeToString()
    return serialized
