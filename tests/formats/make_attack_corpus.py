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
from onnx import TensorProto, helper, numpy_helper
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
        "y_onnx_plain.onnx": sound.SerializeToString()
    }


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
