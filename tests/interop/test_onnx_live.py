"""ONNX exported now by every writer, and ONNX Runtime and onnx.reference beside us on the same graphs.

Slow, and needs PyTorch, Keras, TensorFlow, tf2onnx, onnxscript and onnxruntime: ``pytest -m interop tests/interop``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")

import onnx_oracle
from onnx_recorded import FIXTURES, compare, relative_error, unpacked

import lstm_engine as le
from lstm_engine.formats.onnx import read_onnx_bytes
from lstm_engine.onnx.model import build_onnx_model

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent


@pytest.mark.parametrize("writer", FIXTURES)
def test_what_the_exporters_write_now(writer: str, tmp_path: Path) -> None:
    command = [sys.executable, str(HERE / "build_onnx.py"), "--directory", str(tmp_path), "--writer", writer]
    threads = {"OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    paths = sorted(tmp_path.glob("*.onnx"))
    assert len(paths) >= 5
    for options in ({}, {"backend": "blas"}, {"compute_type": "float64"}):
        errors = [error for path in paths for error in compare(path, **options)]
        print(f"\n{writer}, {options}: {len(paths)} models, {len(errors)} outputs, largest error {max(errors):.1e}")


STEPS = """
import sys
import keras, numpy as np
layers = keras.layers
model = keras.Sequential(
    [layers.Input((None, 4)), layers.LSTM(3, return_sequences=True), layers.TimeDistributed(layers.Dense(2))]
)
model(np.ones((2, 5, 4), "float32"))  # or Keras does not export it
model.export(f"{sys.argv[1]}/steps.onnx", format="onnx", verbose=False)
model.save(f"{sys.argv[1]}/steps.keras")
"""


def test_time_distributed_over_open_steps_computes_what_the_file_says(tmp_path: Path) -> None:
    """The exporters' loop over the steps takes as many as the batch has rows; so does ONNX Runtime."""
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", STEPS, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    path = tmp_path / "steps.onnx"
    model, runtime, keras = le.load(path), session(path.read_bytes()), le.load(tmp_path / "steps.keras")
    for batch, time in ((2, 7), (5, 5), (3, 12)):
        x = np.random.default_rng(batch).standard_normal((batch, time, 4)).astype(np.float32)
        (wanted,) = runtime.run(None, {model.inputs[0].name: x})
        found = model(x)
        assert found.shape == wanted.shape
        assert relative_error(found, wanted) <= 2e-6
        np.testing.assert_allclose(found, keras(x)[:, : found.shape[1]], rtol=1e-5, atol=1e-6)


def session(data: bytes) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(data, options)


@pytest.mark.parametrize("writer", FIXTURES)
def test_onnx_runtime_agrees_on_random_inputs(writer: str, tmp_path: Path) -> None:
    random = np.random.default_rng(17)
    for path in unpacked(writer, tmp_path):
        model, runtime = le.load(path), session(path.read_bytes())
        for batch, time in ((1, 9), (5, 4), (2, 31)):
            inputs = []
            for spec in model.inputs:
                batch_axis = 1 if "stateful" in path.stem else 0
                shape = [size or (batch if axis == batch_axis else time) for axis, size in enumerate(spec.shape)]
                if spec.name == "lengths":
                    inputs.append(random.integers(1, time + 1, shape))
                    inputs[-1][0] = time  # so long is what the exported graph gives back
                elif "int" in spec.dtype:
                    # Some of them are the 0 that a mask hides.
                    inputs.append(random.integers(0, 30, shape).astype(spec.dtype))
                else:
                    inputs.append(random.standard_normal(shape).astype(np.float32))
            wanted = runtime.run(None, {spec.name: x for spec, x in zip(model.inputs, inputs, strict=True)})
            found = model(*inputs)
            for array, reference in zip(found if isinstance(found, tuple) else (found,), wanted, strict=True):
                assert (array.shape, array.dtype) == (reference.shape, reference.dtype)
                assert relative_error(array, reference) <= 2e-6, path.name


#: Cases of ONNX Runtime: it refuses layout=1, and its ThresholdedRelu has another default than ONNX's document.
RUNTIME_CASES = [
    ("LSTM", {}),
    ("LSTM", {"direction": "reverse", "clip": 0.5}),
    ("LSTM", {"direction": "bidirectional", "input_forget": 1}),
    ("LSTM", {"activations": ["HardSigmoid", "Tanh", "LeakyRelu"], "activation_alpha": [0.3, 0.02],
              "activation_beta": [0.4]}),
    ("LSTM", {"activations": ["Sigmoid", "ThresholdedRelu", "Softsign"], "activation_alpha": [0.1]}),
    ("LSTM", {"activations": ["Sigmoid", "Relu", "Elu"], "clip": 0.3}),
    (
        "LSTM",
        {
            "direction": "bidirectional",
            "activations": ["HardSigmoid", "Softsign", "Affine", "Sigmoid", "ScaledTanh", "Softplus"],
            "activation_alpha": [0.3, 0.5, 0.75],
            "activation_beta": [0.4, 0.1, 0.6],
        },
    ),
    ("GRU", {}),
    ("GRU", {"linear_before_reset": 1, "direction": "bidirectional", "clip": 0.5}),
    ("GRU", {"activations": ["HardSigmoid", "ScaledTanh"], "activation_alpha": [0.3, 2.0],
             "activation_beta": [0.4, 0.3]}),
    ("RNN", {"direction": "bidirectional"}),
    ("RNN", {"activations": ["Relu"], "clip": 0.5, "direction": "reverse"}),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "attributes"), RUNTIME_CASES, ids=str)
@pytest.mark.parametrize("lengths", [False, True])
def test_onnx_runtime_agrees_on_recurrent_nodes(operator: str, attributes: dict[str, Any], lengths: bool) -> None:
    optional = {"B", "initial_h"} | ({"initial_c", "P"} if operator == "LSTM" else set())
    optional |= {"sequence_lens"} if lengths else set()
    for seed in range(3):
        made, inputs, _ = onnx_oracle.recurrent_model(operator, attributes, (7, 3, 4, 9), optional, True, seed)
        if lengths:  # rows without a step begin and end with their state here, with zeros there
            inputs[1] = np.maximum(inputs[1], 1)
        data = made.SerializeToString()
        found = build_onnx_model(read_onnx_bytes(data, "node"))(*inputs)
        names = [value.name for value in made.graph.input]
        for array, reference in zip(found, session(data).run(None, dict(zip(names, inputs, strict=True))), strict=True):
            np.testing.assert_allclose(array, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("operator", "attributes"), [("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1}),
                                                      ("RNN", {})], ids=str)  # fmt: skip
def test_the_reference_implementation_agrees(operator: str, attributes: dict[str, Any]) -> None:
    from onnx.reference import ReferenceEvaluator

    # It knows the default activations alone, and one direction.
    optional = {"B", "initial_h"} | ({"initial_c", "P"} if operator == "LSTM" else set())
    made, inputs, _ = onnx_oracle.recurrent_model(operator, attributes, (7, 3, 4, 9), optional, True, 5)
    names = [value.name for value in made.graph.input]
    wanted = ReferenceEvaluator(made).run(None, dict(zip(names, inputs, strict=True)))
    found = build_onnx_model(read_onnx_bytes(made.SerializeToString(), "node"))(*inputs)
    for array, reference in zip(found, wanted, strict=True):
        np.testing.assert_allclose(array, np.asarray(reference).reshape(array.shape), rtol=1e-5, atol=1e-6)
