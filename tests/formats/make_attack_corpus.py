"""Make the corpus of hostile files ``n_*`` and their sound neighbours ``y_*`` beside this file.

    python tests/formats/make_attack_corpus.py

The attacks on each reader stand in its ``*_attacks.py``. Every file is a variation of one model: the LSTM of one unit
by whose numbers the sound files are known. The same bytes come out at every run, so a change of an attack shows in the
files that it changes. What each file must end in stands in attacks.tsv. Needs h5py, onnx and NumPy, no framework.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx_attacks
from attacked_model import BIAS, KERNEL, RECURRENT
from keras_attacks import keras_corpus
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from safetensors_attacks import safetensors_corpus
from torch_attacks import torch_corpus

HERE = Path(__file__).parent


def onnx_corpus() -> dict[str, bytes]:
    """Return those of the ONNX attacks that are small; test_onnx_attacks.py has the others too."""
    made_of = {f"n_onnx_{name}.onnx": attack.make() for name, attack in onnx_attacks.ATTACKS.items()}
    order = [0, 3, 1, 2]  # of the gates in ONNX: input, output, forget, cell
    weights = {
        "W": KERNEL.T[None, order],
        "R": RECURRENT.T[None, order],
        "B": np.concatenate([BIAS[order], np.zeros(4, "f4")])[None],
    }
    graph = helper.make_graph(
        [
            helper.make_node("LSTM", ["x", *weights], ["Y"], hidden_size=1, layout=1),
            helper.make_node("Squeeze", ["Y", "axes"], ["y"]),
        ],
        "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "time", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "time", 1])],
        [
            *(numpy_helper.from_array(array, name) for name, array in weights.items()),
            numpy_helper.from_array(np.array([2]), "axes"),
        ],
    )
    sound = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return {name: data for name, data in made_of.items() if len(data) < 1 << 14} | {
        "y_onnx_plain.onnx": sound.SerializeToString(),
        "y_onnx_loop.onnx": with_bodies([looping()], cell_arrays()),
        "y_onnx_branch.onnx": with_bodies(branching(), [constant("half", 0.5, "f8"), *cell_arrays()]),
    }


constant = onnx_attacks.constant


def cell_arrays() -> list[TensorProto]:
    """Return the weights, and what both models with bodies need."""
    sizes = [constant("states", [2, 1], "i8"), constant("one", 1, "i8")]
    # Of two decimals, as they are known: in double the difference shows.
    weights = {name: np.round(array.astype("f8"), 2) for name, array in (("k", KERNEL), ("r", RECURRENT), ("b", BIAS))}
    return [*(constant(name, array, "f8") for name, array in weights.items()), *sizes]


def with_bodies(nodes: list[NodeProto], arrays: list[TensorProto]) -> bytes:
    """Return the LSTM in double as a graph that begins with states of zeros and the steps in front of the batch."""
    begin = [
        helper.make_node("Transpose", ["x"], ["single"], perm=[1, 0, 2]),
        helper.make_node("Cast", ["single"], ["steps"], to=TensorProto.DOUBLE),
        helper.make_node("Shape", ["steps"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["time"]),
        helper.make_node("ConstantOfShape", ["states"], ["zeros"], value=constant("value", [0.0], "f8")),
    ]
    end = [
        helper.make_node("Transpose", ["ys"], ["double"], perm=[1, 0, 2]),
        helper.make_node("Cast", ["double"], ["y"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        [*begin, *nodes, *end],
        "lstm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, "time", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, "time", 1])],
        [*arrays, constant("zero", 0, "i8")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


def looping() -> NodeProto:
    """Return the LSTM as TensorFlow's exporters write one: a trip for each step, the weights carried along."""
    nodes = [
        helper.make_node("Gather", ["steps", "i"], ["now"]),
        helper.make_node("MatMul", ["now", "k_in"], ["forward"]),
        helper.make_node("MatMul", ["h_in", "r"], ["recurrent"]),
        helper.make_node("Sum", ["forward", "recurrent", "b"], ["gates"]),
        helper.make_node("Split", ["gates"], ["gi", "gf", "gc", "go"], axis=1, num_outputs=4),
        *(helper.make_node("Sigmoid", [f"g{gate}"], [f"s{gate}"]) for gate in "ifo"),
        helper.make_node("Tanh", ["gc"], ["candidate"]),
        helper.make_node("Mul", ["sf", "c_in"], ["kept"]),
        helper.make_node("Mul", ["si", "candidate"], ["added"]),
        helper.make_node("Add", ["kept", "added"], ["c_out"]),
        helper.make_node("Tanh", ["c_out"], ["shown"]),
        helper.make_node("Mul", ["so", "shown"], ["h_out"]),
        helper.make_node("Add", ["i", "one"], ["next"]),
        helper.make_node("Less", ["next", "time"], ["going"]),
    ]
    given = {"i": TensorProto.INT64, "was_going": TensorProto.BOOL}
    floats = dict.fromkeys(("k_in", "h_in", "c_in"), TensorProto.DOUBLE)
    made = {"going": TensorProto.BOOL, **dict.fromkeys(("k_in", "h_out", "c_out", "h_out_again"), TensorProto.DOUBLE)}
    nodes.append(helper.make_node("Identity", ["h_out"], ["h_out_again"]))
    ends = [
        [
            helper.make_tensor_value_info(name, kind, None if "_" in name and "was" not in name else [])
            for name, kind in values.items()
        ]
        for values in (given | floats, made)
    ]
    body = helper.make_graph(nodes, "body", *ends)
    outputs = ["k_end", "h_end", "c_end", "ys"]
    return helper.make_node("Loop", ["time", "", "k", "zeros", "zeros"], outputs, body=body)


def branching() -> list[NodeProto]:
    """Return the loop in one of two branches of a branch, and other numbers in all others."""

    def body(name: str, *nodes: NodeProto) -> GraphProto:
        value = helper.make_tensor_value_info(name, TensorProto.DOUBLE, None)
        return helper.make_graph(list(nodes), name, [], [value])

    def wrong(name: str) -> GraphProto:
        return body(name, helper.make_node("Add", ["steps", "half"], [name]))

    loop = looping()
    loop.output[3] = "looped"
    inner = helper.make_node("If", ["many"], ["inner"], then_branch=body("looped", loop), else_branch=wrong("odd"))
    return [
        helper.make_node("Greater", ["time", "one"], ["many"]),
        helper.make_node("Not", ["many"], ["few"]),
        helper.make_node("If", ["few"], ["ys"], then_branch=wrong("few_steps"), else_branch=body("inner", inner)),
    ]


def corpus() -> dict[str, bytes]:
    """Return all files by name."""
    return {**torch_corpus(), **safetensors_corpus(), **keras_corpus(), **onnx_corpus()}


def main() -> None:
    for place in [*HERE.glob("n_*"), *HERE.glob("y_*")]:
        place.unlink()
    files = corpus()
    for name, data in files.items():
        (HERE / name).write_bytes(data)
    print(f"{len(files)} files, {sum(map(len, files.values())):,} bytes, the largest {max(map(len, files.values())):,}")


if __name__ == "__main__":
    sys.exit(main())
